"""Random scores of a pair, and random masks: the formulas of the literature and expressions that nobody would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.fuzz import term as t
from attnc.fuzz.expressions import PAIR, ROW
from attnc.fuzz.term import Term
from attnc.fuzz.vectors import Vectors

SCORE = 4.0  # the bound of scores: their exponentials span a few decades only


class Scores(Vectors):
    """Scores are bound to a name, vary over j, and lie in [-SCORE, SCORE]."""

    def score(self) -> Term:
        """A new score."""
        base = self.pick(
            self._scaled_dot, self._scaled_dot, self._scaled_dot, self.dot, self.reduction, self._additive,
            lambda: t.add(self.projection("i"), self.projection("j")), lambda: self.real(PAIR, 2),
        )  # fmt: skip
        s = self.bounded(base)
        for _ in range(self.rng.choice([0, 0, 1, 1, 2])):
            s = self.bounded(self._modified(s))
        return s

    def bounded(self, x: Term) -> Term:
        """x bound to a name, varying over j, within the bound of scores."""
        if "j" not in x.axes:
            x = t.add(x, self.apply("cos", self._role("j")))
        return self.scribe.let(self.fit(x, -SCORE, SCORE), "s")

    def _scaled_dot(self) -> Term:
        x = self.dot()
        one = Term("", "float", frozenset(), 0.0, 1.0)
        return self.pick(
            lambda: t.mul(x, replace(one, text="at.rsqrt(at.size(q))")),
            lambda: t.mul(x, self.scribe.scalar("float", 0.1, 0.5)),
            lambda: t.mul(x, self.table(frozenset("bh"), "float", 0.25, 1, 0)),
        )

    def _additive(self) -> Term:
        pair = t.add(self.vector("i", "r", 0), self.vector("j", "r", 0))
        product = t.mul(self.factor("bh", "r"), self.apply("tanh", pair))
        n = self.shape.r
        text = f"at.sum({product.text}, over='r')"
        return Term(text, "float", product.axes - {"r"}, product.low * n, product.high * n)

    def _modified(self, s: Term) -> Term:
        def cap() -> Term:
            c = self.scribe.scalar("float", 1, 4)
            return t.mul(c, self.apply("tanh", t.div(s, c)))

        names = ["relu", "gelu", "gelu_tanh", "silu", "abs", "sin", "softplus", "erf", "square", "neg"]
        return self.pick(
            cap,
            lambda: self._unrolled(s),
            lambda: self._optional(s),
            lambda: self._chosen(s),
            lambda: t.add(s, self.fit(self.real(PAIR, 2), -3, 3)),
            lambda: t.sub(s, self.fit(self.real(PAIR, 2), -3, 3)),
            lambda: t.mul(s, self.fit(self.real(PAIR, 1), -2, 2)),
            lambda: t.select(self.mask(PAIR, 1), s, t.mul(s, t.number(0.5))),
            lambda: self.apply(self.rng.choice(names), s),
        )

    # -- operands that are gone after tracing

    def _unrolled(self, s: Term) -> Term:
        """A Python loop over a constant."""
        steps = self.rng.randint(1, 3)
        term = self.fit(self.real(PAIR, 1), -1, 1)
        name, count = self.scribe.fresh("x"), self.scribe.constant(steps, "int")
        self.scribe.lines += [
            f"{name} = {s.text}",
            f"for step in range({count}):",
            f"    {name} = {name} - step * {term.text}",
        ]
        change = term.size * sum(range(steps))
        axes = s.axes | term.axes if steps else s.axes
        return Term(name, "float", axes, s.low - change, s.high + change, None, max(s.level, term.level))

    def _optional(self, s: Term) -> Term:
        """A Python `if` on an operand that may be absent."""
        given = self.rng.random() < 0.5
        if self.rng.random() < 0.3:
            operand = self.scribe.real(-1, 1)
            annotation = self.rng.choice(["float", "float | None"])
            name = self.scribe.declare(annotation, operand, "scalar float")
            term = Term(name, "float", frozenset(), operand, operand)
        else:
            term = self._plain_table()
            name = term.text.split("[")[0]
        self.scribe.make_optional(given)
        result = self.scribe.fresh("x")
        self.scribe.lines += [
            f"{result} = {s.text}",
            f"if {name} is not None:",
            f"    {result} = {result} + {term.text}",
        ]
        added = t.add(s, term)
        return replace(added if given else s, text=result, grain=None)

    def _plain_table(self) -> Term:
        """A table that is indexed by roles only, so that it is the operand declared last."""
        axes = self.rng.choice(["h", "bj", "hi", "ij", "bhij"])
        operand = self.scribe.table(tuple(axes), tuple(map(self.shape.extent, axes)), "float", -2, 2)
        return Term(f"{operand.text}[{', '.join(axes)}]", "float", frozenset(axes), -2, 2)

    def _chosen(self, s: Term) -> Term:
        """A Python choice by a constant: bool, str or float."""
        kind = self.rng.choice(["bool", "str", "float"])
        if kind == "float":
            value = self.scribe.real(-1, 1)
            return t.mul(s, Term(self.scribe.constant(value, "float"), "float", frozenset(), value, value))
        other = self.apply("tanh", s)
        flag = self.rng.random() < 0.5
        value_of: bool | str = flag if kind == "bool" else ("tanh" if flag else "plain")
        name = self.scribe.constant(value_of, kind)
        test = name if kind == "bool" else f"{name} == 'tanh'"
        return replace(other if flag else s, text=f"({other.text} if {test} else {s.text})")

    # -- masks

    def condition(self) -> Term:
        """A mask over pairs, bound to a name."""
        return self.scribe.let(self.pick(*self._masks(), lambda: self.mask(PAIR, 2), lambda: self.mask(PAIR, 2)), "m")

    def _masks(self) -> list[Callable[[], Term]]:
        def of(template: str, *parts: Term) -> Term:
            return t.combine(template, [self._role("i"), self._role("j"), *parts], "bool", 0, 1, 0)

        def same(sign: str) -> Term:
            return t.combine(f"({{}} {sign} {{}})", [ids("i"), ids("j")], "bool", 0, 1, 0)

        def window() -> Term:
            return self.scribe.scalar("int", 1, 6)

        def block() -> Term:
            return t.number(self.rng.choice([2, 3, 4, 8]))

        def ids(axis: str) -> Term:
            return self.table(frozenset({"b", axis}), "int", 0, 3, 0)

        return [
            lambda: of("({1} <= {0})"),
            lambda: of("({1} <= {0} + at.kv_len - at.q_len)"),
            lambda: of("({1} <= {0}) & ({0} - {1} < {2})", window()),
            lambda: of("(at.abs({0} - {1}) <= {2})", window()),
            lambda: of("({0} // {2} == {1} // {2})", block()),
            lambda: of("(({0} - {1}) % {2} == 0)", block()),
            lambda: of("((({0} ^ {1}) & {2}) == 0)", block()),
            lambda: of("({1} < {2}) | ({1} <= {0})", window()),
            lambda: same("=="),
            lambda: t.combine("({} | {})", [same("!="), of("({0} == {1})")], "bool", 0, 1, 0),
            self._offsets,
        ]

    def _offsets(self) -> Term:
        """Keys at a constant tuple of distances."""
        distances = tuple(sorted(self.rng.sample(range(-3, 6), 3)))
        name, result = self.scribe.constant(distances, "tuple"), self.scribe.fresh("m")
        self.scribe.lines += [
            f"{result} = i == j",
            f"for distance in {name}:",
            f"    {result} = {result} | (i - j == distance)",
        ]
        return Term(result, "bool", frozenset("ij"), 0, 1, 0)

    def sink(self) -> Term:
        """A logit per row."""
        return self.pick(
            lambda: t.number(0.0),
            lambda: self.scribe.scalar("float", -2, 2),
            lambda: self.table(frozenset("h"), "float", -2, 2, 0),
            lambda: self.fit(self.real(ROW, 1), -2, 2),
        )
