"""Random attention variants: weights of scores, reductions over the keys that nest one to three levels deep, outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.fuzz import term as t
from attnc.fuzz.expressions import KEY, PAIR, ROW
from attnc.fuzz.scores import SCORE, Scores
from attnc.fuzz.term import FUNCTIONS, Term

MASKED = ("-at.inf", "-3e38", "-2e38")
OUTPUT = 30.0  # the bound of outputs before gates


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the values. `total`: whether dividing by their sum is asked for, 'safe' or 'positive' where it may be 0."""

    term: Term
    total: str = ""


class Variants(Scores):
    """Writes one variant into its scribe."""

    def write(self, levels: int) -> list[Term]:
        """Outputs whose reductions over j nest `levels` deep in bodies that algebra does not free of them."""
        outputs = [self._attention(levels)]
        if self.rng.random() < 0.2:
            outputs = [self._difference(outputs[0])]
        if self.rng.random() < 0.3:
            outputs.append(self._statistic(self.score()))
        if self.rng.random() < 0.1:
            outputs.append(self._attention(1))
        return [self._per_query(x) for x in outputs]

    def _per_query(self, x: Term) -> Term:
        return x if "i" in x.axes else t.add(x, self.apply("cos", self._role("i")))

    def _difference(self, x: Term) -> Term:
        """x minus a share of a second attention of the same features."""
        features = sorted(x.axes - PAIR)
        y = self._attention(1, features[0])
        return t.sub(x, t.mul(self.scribe.scalar("float", 0.1, 0.9), y))

    def _attention(self, levels: int, axis: str = "") -> Term:
        s = self.score()
        for _ in range(levels - 1):
            s = self.bounded(self._mixed(s, self.scribe.let(self._statistic(s), "r", reuse=False)))
        w = self._weights(s)
        return self._output(w, axis or self.rng.choice(["e", "e", "e", "d", "r"]))

    # -- reductions to one number per row

    def _reduced(self, how: str, x: Term) -> Term:
        n = self.shape.kv_len if how == "sum" else 1
        low, high = min(x.low, x.low * n), max(x.high, x.high * n)
        kind = "int" if x.kind == "bool" else x.kind
        grain = x.grain if (x.exact and how != "sum") or x.kind in ("bool", "int") else None
        return Term(f"at.{how}({x.text}, over='j')", kind, x.axes - {"j"}, low, high, grain, x.level + 1)

    def _mean(self, x: Term) -> Term:
        mean = t.combine("({} / at.kv_len)", [self._reduced("sum", x)], "float", x.low, x.high)
        return mean

    def _statistic(self, s: Term) -> Term:
        """A number per row that all scores of the row decide."""

        def masked_mean() -> Term:
            m = self._over_keys(self.condition())
            zero = t.number(0.0)
            total, count = self._reduced("sum", t.select(m, s, zero)), self._reduced("sum", m)
            mean = t.combine("({} / at.maximum({}, 1))", [total, count], "float", s.low, s.high)
            return replace(mean, low=min(s.low, 0), high=max(s.high, 0))

        def entropy_like() -> Term:
            total = self._reduced("sum", self.apply("exp", s))
            return FUNCTIONS["log"](replace(total, low=max(total.low, 1e-3)))

        def last() -> Term:
            m = self._over_keys(self.condition())
            how = self.rng.choice(["max", "min"])
            return self.fit(self._reduced(how, t.select(m, self._role("j"), t.number(-1))), -SCORE, SCORE)

        def weighted() -> Term:
            x = self._over_keys(self.fit(self.projection("j"), -1, 1))
            return self._mean(t.mul(self._elementwise_weights(s), x))

        return self.pick(
            lambda: self._reduced("max", s), lambda: self._reduced("min", s), lambda: self._mean(s), lambda: self._mean(t.mul(s, s)),
            masked_mean, entropy_like, last, weighted, lambda: self._spread(s), lambda: self._entropy(s),
        )  # fmt: skip

    def _spread(self, s: Term) -> Term:
        """The mean square of what is left of s without a row value."""
        d = self.scribe.let(t.sub(s, self.scribe.let(self._mean(s), "r", reuse=False)), "d", reuse=False)
        return self._mean(t.mul(d, d))

    def _entropy(self, s: Term) -> Term:
        """Of a softmax."""
        w = self._softmax(s).term
        body = t.combine("at.where({} == 0, 0.0, {} * at.log({}))", [w, w, w], "float", -0.4, 0)
        total = self._reduced("sum", body)
        return replace(total, low=-math.log(max(self.shape.kv_len, 2)), high=0)

    def _over_keys(self, x: Term) -> Term:
        """x, varying over j whatever it is."""
        if "j" in x.axes:
            return x
        if x.kind == "bool":
            return t.combine("({} & {})", [x, self.mask_of_keys()], "bool", 0, 1, 0)
        return t.add(x, self.apply("sin", self._role("j")))

    def mask_of_keys(self) -> Term:
        """A condition on the key alone."""
        return t.combine("({} % 3 != 1)", [self._role("j")], "bool", 0, 1, 0)

    def _mixed(self, s: Term, r: Term) -> Term:
        """s and a finished reduction in a body that does not separate."""
        r = self.fit(r, -SCORE, SCORE)

        def function(name: str, x: Term) -> Callable[[], Term]:
            return lambda: self.apply(name, x)

        return self.pick(
            function("tanh", t.sub(s, r)), function("sigmoid", t.mul(s, r)), function("sin", t.add(s, r)),
            function("erf", t.sub(r, s)), lambda: t.maximum(s, r), lambda: t.minimum(s, r),
            lambda: self.apply("softplus", t.sub(s, r)),
            lambda: t.div(s, t.add(self.apply("abs", t.sub(s, r)), t.number(1.5))),
        )  # fmt: skip

    # -- weights

    def _weights(self, s: Term) -> Weights:
        return self.rng.choice(
            [self._softmax, self._softmax, self._softmax, self._by_hand, self._stable, self._free, self._shifted]
        )(s)

    def _softmax(self, s: Term) -> Weights:
        parts = [s]
        text = "at.softmax({}"
        if self.rng.random() < 0.25:
            m = self.condition()
            text, parts = f"at.softmax(at.where({{}}, {{}}, {self.rng.choice(MASKED)})", [m, s]
        if self.rng.random() < 0.6:
            text, parts = text + ", where={}", [*parts, self.condition()]
        if self.rng.random() < 0.25:
            text, parts = text + ", sink={}", [*parts, self.sink()]
        w = t.combine(text + ")", parts, "float", 0, 1)
        return Weights(self.scribe.let(replace(w, level=w.level + 1), "w", reuse=False))

    def _maybe_masked(self, w: Term) -> tuple[Term, bool]:
        if self.rng.random() < 0.5:
            return w, False
        return t.select(self.condition(), w, t.number(0.0)), True

    def _by_hand(self, s: Term) -> Weights:
        w, masked = self._maybe_masked(self.apply(self.rng.choice(["exp", "exp", "exp2"]), s))
        return Weights(self.scribe.let(w, "w"), "safe" if masked else "positive")

    def _stable(self, s: Term) -> Weights:
        """The softmax of textbooks: the maximum subtracted, the mask applied twice."""
        if self.rng.random() < 0.5:
            top = self.scribe.let(self._reduced("max", s), "top", reuse=False)
            w = t.combine("at.exp({} - {})", [s, top], "float", 3e-4, 1)
            return Weights(self.scribe.let(w, "w", reuse=False), "positive")
        m = self._over_keys(self.condition())
        live = t.combine("at.where({}, {}, -at.inf)", [m, s], "float", s.low, s.high)
        top = self.scribe.let(self._reduced("max", live), "top", reuse=False)
        w = t.combine("at.where({}, at.exp({} - {}), 0.0)", [m, s, top], "float", 0, 1)
        return Weights(self.scribe.let(w, "w", reuse=False), "safe")

    def _elementwise_weights(self, s: Term) -> Term:
        name = self.rng.choice(["sigmoid", "relu", "softplus", "square", "tanh", "silu", "cos", "exp"])
        x = self.apply(name, s)
        return t.mul(x, x) if name == "relu" else x

    def _free(self, s: Term) -> Weights:
        w, _ = self._maybe_masked(self._elementwise_weights(s))
        return Weights(self.scribe.let(w, "w"), self.rng.choice(["", "magnitude", "keys"]))

    def _shifted(self, s: Term) -> Weights:
        """A reduction in the body that algebra frees: it costs no sweep."""
        r = self.scribe.let(self.fit(self._statistic(s), -2, 2), "r", reuse=False)
        w = self.pick(
            lambda: t.sub(s, r),
            lambda: t.mul(s, r),
            lambda: t.mul(t.sub(s, r), t.sub(s, r)),
            lambda: self.apply("exp", self.fit(t.sub(s, r), -4, 3)),
            lambda: self.apply("abs", t.mul(s, r)),
            lambda: t.div(self.apply("sigmoid", s), t.add(self.apply("abs", r), t.number(0.5))),
        )
        return Weights(self.scribe.let(w, "w", reuse=False), self.rng.choice(["", "keys"]))

    # -- outputs

    def _output(self, w: Weights, axis: str) -> Term:
        x = w.term
        values = self.vector("j", axis, 1, values=True)
        if self.rng.random() < 0.15:
            values = t.mul(values, self.fit(self.real(KEY, 1), -1, 1))
        bound = x.size * values.size * self.shape.kv_len
        o = t.combine("({} @ {})", [x, values], "float", -bound, bound)
        o = replace(o, axes=o.axes - {"j"}, level=o.level + 1)
        o = self._normalised_output(o, w, values)
        if self.rng.random() < 0.15:
            mean = replace(values, text=f"at.sum({values.text}, over='j') / at.kv_len", axes=values.axes - {"j"})
            o = t.sub(o, mean)
        o = self.fit(o, -OUTPUT, OUTPUT)
        return self._gated(o, axis) if self.rng.random() < 0.4 else o

    def _normalised_output(self, o: Term, w: Weights, values: Term) -> Term:
        total = self._reduced("sum", w.term)
        bound = values.size
        if w.total == "positive" and self.rng.random() < 0.7:
            return t.combine("({} / {})", [o, total], "float", -bound, bound)
        if w.total == "safe":
            total = self.scribe.let(total, "total", reuse=False)
            return t.combine("at.where({0} == 0, 0.0, {1} / {0})", [total, o], "float", -bound, bound)
        if w.total == "magnitude":
            return t.combine("({} / at.maximum(at.abs({}), 1))", [o, total], "float", o.low, o.high)
        if w.total == "keys":
            return t.combine("({} / at.kv_len)", [o], "float", -bound * w.term.size, bound * w.term.size)
        return o

    def _gated(self, o: Term, axis: str) -> Term:
        return self.pick(
            lambda: t.mul(o, self.apply("sigmoid", self.vector("i", axis, 1))),
            lambda: t.add(o, self.vector("i", axis, 1)),
            lambda: t.mul(o, self.fit(self.real(ROW, 1), -2, 2)),
            lambda: t.select(self.mask(ROW, 1), o, t.number(0.0)),
            lambda: self.apply(self.rng.choice(["tanh", "silu", "gelu", "sigmoid"]), o),
            lambda: t.mul(o, self.factor("bhi", axis)),
        )
