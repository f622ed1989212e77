"""Random expressions of one number per pair, row or key: floats, integers, masks, and the tables they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.fuzz import term as t
from attnc.fuzz.scribe import Scribe
from attnc.fuzz.term import FUNCTIONS, LIMIT, Term
from attnc.ir.ops import Kind

Axes = frozenset[str]
PAIR: Axes = frozenset("bhij")
ROW: Axes = frozenset("bhi")
KEY: Axes = frozenset("bhj")
NAMED = 64  # the longest table along an axis of its own


class Expressions:
    """Grows expressions over the axes that are asked for. `depth` bounds their height."""

    def __init__(self, scribe: Scribe) -> None:
        self.scribe, self.rng, self.shape = scribe, scribe.rng, scribe.shape

    def pick(self, *choices: Callable[[], Term]) -> Term:
        """One of the alternatives."""
        return self.rng.choice(choices)()

    # -- fitting a value into a range

    def fit(self, x: Term, low: float, high: float) -> Term:
        """x, moved into [low, high] where it may lie outside; exact values stay exact."""
        if low <= x.low and x.high <= high:
            return x
        if x.exact and high - low >= 1:
            return self._fit_exact(x, low, high)
        middle, half = (low + high) / 2, (high - low) / 2
        bounded = self.pick(
            lambda: self._scaled(x),
            lambda: self._scaled(x),
            lambda: self._scaled(x),
            lambda: FUNCTIONS["tanh"](x) if x.size <= 4 else self._scaled(x),
            lambda: FUNCTIONS["sin"](x) if x.size <= 20 else self._scaled(x),
        )
        result = t.add(t.mul(bounded, t.number(half)), t.number(middle)) if middle else t.mul(bounded, t.number(half))
        return replace(result, low=low, high=high)

    def _scaled(self, x: Term) -> Term:
        """x divided by its bound: in [-1, 1]."""
        divisor = 1.0
        while divisor < x.size:
            divisor *= 1.25
        return t.div(x, t.number(round(divisor + 0.05, 1)))

    def _fit_exact(self, x: Term, low: float, high: float) -> Term:
        first, last = int(-(-low // 1)), int(high // 1)
        if self.rng.random() < 0.5 and first == low:
            wrapped = t.mod(x, t.number(last - first + 1))
            shifted = t.add(wrapped, t.number(first)) if first else wrapped
            if shifted.high <= high:
                return shifted
        return t.minimum(t.maximum(x, t.number(first)), t.number(last))

    def apply(self, name: str, x: Term) -> Term:
        """A function of the table, its argument fitted to its domain."""
        f = FUNCTIONS[name]
        return f(self.fit(x, f.low, f.high))

    # -- leaves

    def table(self, axes: Axes, kind: Kind, low: float, high: float, depth: int, exact: bool = False) -> Term:
        """A read of a random table that varies over some of `axes`."""
        chosen = [a for a in "bhij" if a in axes and self.rng.random() < 0.5]
        dims: list[str] = ["g" if a == "h" and self.rng.random() < 0.4 else a for a in chosen]
        extents = [1 if self.rng.random() < 0.1 else self.shape.extent(a) for a in dims]
        parts = [self._position(a) for a in dims]
        if not dims or self.rng.random() < 0.4:
            index = self.integer(axes, depth - 1) if depth > 0 else self._index(axes)
            index, count = self._index_into(index)
            place = self.rng.randint(0, len(dims))
            dims.insert(place, "n")
            extents.insert(place, count)
            parts.insert(place, index)
        operand = self.scribe.table(tuple(dims), tuple(extents), kind, low, high, exact)
        template = operand.text + "[" + ", ".join("{}" for _ in parts) + "]"
        return t.combine(template, parts, kind, low, high, operand.grain)

    def _position(self, axis: str) -> Term:
        if axis == "g":
            return t.combine("{} // at.group", [self._role("h")], "int", 0, self.shape.kv_heads - 1, 0)
        return self._role(axis)

    def _index_into(self, index: Term) -> tuple[Term, int]:
        """An index that is in range, and the table's extent."""
        if index.high - index.low >= NAMED:
            index = self.fit(index, 0, self.rng.randint(3, 20))
        low = int(index.low)
        shifted = t.add(index, t.number(-low)) if low < 0 else index
        return shifted, int(shifted.high) + self.rng.randint(1, 3)

    def _role(self, axis: str) -> Term:
        return Term(axis, "int", frozenset(axis), 0, self.shape.extent(axis) - 1, 0)

    def _index(self, axes: Axes) -> Term:
        return self._role(self.rng.choice(sorted(axes & PAIR)))

    def extent(self) -> Term:
        """An extent of the call."""
        shape = self.shape
        values = {
            "at.q_len": shape.q_len, "at.kv_len": shape.kv_len, "at.group": shape.group, "at.size(q)": shape.d,
            "at.size(v)": shape.e,
        }  # fmt: skip
        text = self.rng.choice(sorted(values))
        return Term(text, "int", frozenset(), values[text], values[text], 0)

    def reused(self, axes: Axes, kind: Kind) -> Term | None:
        """A name bound before, of that kind and within the axes, that no reduction over j is nested in."""
        found = [x for x in self.scribe.bound if x.kind == kind and x.axes <= axes and x.level == 0]
        return self.rng.choice(found) if found else None

    # -- integers

    def integer(self, axes: Axes, depth: int) -> Term:
        """An integer; small enough never to overflow."""
        if depth <= 0:
            return self.pick(
                lambda: self._index(axes),
                lambda: self._index(axes),
                lambda: self.table(axes, "int", *self.rng.choice([(0, 7), (-5, 5), (0, 100), (-20, 3)]), depth=0),
                lambda: self.scribe.scalar("int", -6, 9),
                lambda: t.number(self.rng.randint(-4, 9)),
                self.extent,
                lambda: self.reused(axes, "int") or self._index(axes),
            )
        return self.limited(self.pick(*self._integer_rules(axes, depth - 1)))

    def limited(self, x: Term) -> Term:
        """An integer kept below the limit."""
        return self.fit(x, -t.INT_LIMIT, t.INT_LIMIT)

    def _integer_rules(self, axes: Axes, depth: int) -> list[Callable[[], Term]]:
        def x() -> Term:
            return self.integer(axes, self.rng.randint(0, depth))

        def divisor() -> Term:
            return self.pick(
                lambda: t.number(self.rng.choice([2, 3, 4, 5, 7, -3])),
                lambda: self.scribe.scalar("int", 1, 5),
                lambda: self._index(axes),  # 0 at the first position: integers divided by 0 give 0
            )

        def one(template: str, low: Callable[[Term], float], high: Callable[[Term], float]) -> Callable[[], Term]:
            def rule() -> Term:
                a = x()
                return t.combine(template, [a], "int", low(a), high(a), 0)

            return rule

        def bits(sign: str) -> Callable[[], Term]:
            def rule() -> Term:
                a, b = x(), x()
                bound = 2 ** int(max(a.size, b.size) + 1).bit_length()
                return t.combine(f"({{}} {sign} {{}})", [a, b], "int", -bound, bound, 0)

            return rule

        def left() -> Term:
            a, n = self.fit(x(), -100, 100), self.fit(x(), 0, 6)
            return t.combine("({} << {})", [a, n], "int", min(a.low * 64, 0), max(a.high * 64, 0), 0)

        def right() -> Term:
            a, n = x(), self.fit(x(), 0, self.rng.choice([3, 66]))
            return t.combine("({} >> {})", [a, n], "int", min(a.low, 0), max(a.high, 0), 0)

        return [
            lambda: t.add(x(), x()), lambda: t.sub(x(), x()), lambda: t.sub(x(), x()), lambda: t.mul(self.fit(x(), -300, 300), self.fit(x(), -300, 300)),
            lambda: t.floordiv(x(), divisor()), lambda: t.mod(x(), divisor()),
            lambda: t.minimum(x(), x()), lambda: t.maximum(x(), x()),
            one("(-{})", lambda a: -a.high, lambda a: -a.low), one("at.abs({})", lambda a: 0, lambda a: a.size),
            one("at.sign({})", lambda a: -1, lambda a: 1), one("(~{})", lambda a: -a.high - 1, lambda a: -a.low - 1),
            bits("&"), bits("|"), bits("^"), left, left, right, right,
            lambda: t.select(self.mask(axes, depth), x(), x()),
            lambda: self.table(axes, "int", 0, 9, depth),
            lambda: t.add(self.mask(axes, depth), x()),
        ]  # fmt: skip

    # -- masks

    def mask(self, axes: Axes, depth: int) -> Term:
        """A condition: comparisons of integers or of exact floats, tables, scalars, and logic on them."""
        if depth <= 0:
            return self.pick(
                lambda: self._compare(axes, 0),
                lambda: self._compare(axes, 0),
                lambda: self.table(axes, "bool", 0, 1, 0),
                lambda: self.reused(axes, "bool") or self._compare(axes, 0),
                lambda: self.scribe.scalar("bool", 0, 1),
            )
        depth -= 1

        def m() -> Term:
            return self.mask(axes, self.rng.randint(0, depth))

        return self.pick(
            lambda: self._compare(axes, depth),
            lambda: self._compare(axes, depth),
            lambda: self._compare(axes, depth),
            lambda: t.combine(f"({{}} {self.rng.choice('&|^')} {{}})", [m(), m()], "bool", 0, 1, 0),
            lambda: t.combine("(~{})", [m()], "bool", 0, 1, 0),
            lambda: t.combine(f"({{}} {self.rng.choice(['==', '!='])} {{}})", [m(), m()], "bool", 0, 1, 0),
            lambda: t.select(m(), m(), m()),
        )

    def _compare(self, axes: Axes, depth: int) -> Term:
        sign = self.rng.choice(["<", "<=", ">", ">=", "==", "!="])
        if self.rng.random() < 0.3:
            a, b = self.exact(axes, depth), self.exact(axes, 0)
        else:
            a, b = self.integer(axes, depth), self.integer(axes, 0)
        if a.low == a.high and b.low == b.high:  # two constants: Python itself would compare them
            a = self._index(axes)
        return t.combine(f"({{}} {sign} {{}})", [a, b], "bool", 0, 1, 0)

    # -- floats

    def exact(self, axes: Axes, depth: int) -> Term:
        """A float (or integer) that is computed without rounding."""
        if depth <= 0:
            return self.pick(
                lambda: self._quarters(axes),
                lambda: self._quarters(axes),
                lambda: t.number(self.rng.randint(-12, 12) / 4),
                lambda: t.mul(self._index(axes), t.number(self.rng.choice([0.25, 0.5, -1.5]))),
            )
        depth -= 1

        def x() -> Term:
            return self.exact(axes, depth)

        result = self.pick(
            lambda: t.add(x(), x()),
            lambda: t.sub(x(), x()),
            lambda: t.mul(x(), t.number(self.rng.choice([0.5, -2.0, 3.0]))),
            lambda: t.minimum(x(), x()),
            lambda: t.maximum(x(), x()),
            lambda: t.mod(x(), t.number(self.rng.choice([0.75, 1.5, 2.0, -1.25]))),
            lambda: t.floordiv(x(), t.number(self.rng.choice([0.75, 1.5, 2.0, -0.5]))),
            lambda: self.apply("floor", x()),
            lambda: self.apply("sign", x()),
            lambda: t.select(self.mask(axes, depth), x(), x()),
        )
        return result if result.exact else self._quarters(axes)

    def _quarters(self, axes: Axes) -> Term:
        return self.table(axes, "float", -4, 4, 0, exact=True)

    def real(self, axes: Axes, depth: int) -> Term:
        """Any number used as a float, of magnitude up to LIMIT."""
        if depth <= 0:
            return self.pick(
                lambda: self.table(axes, "float", *self.rng.choice([(-2, 2), (0.25, 3), (-0.5, 1)]), depth=0),
                lambda: self.table(axes, "float", -1, 1, 1),
                lambda: self.scribe.scalar("float", -2, 3),
                lambda: t.number(round(self.rng.uniform(-2, 2), 2)),
                lambda: self.fit(self.integer(axes, 1), -30, 30),
                lambda: self.reused(axes, "float") or self.scribe.scalar("float", 0.5, 2),
                lambda: t.combine("at.pi", [], "float", 3.14, 3.15),
            )
        return self.fit(self.pick(*self._real_rules(axes, depth - 1)), -LIMIT, LIMIT)

    def _real_rules(self, axes: Axes, depth: int) -> list[Callable[[], Term]]:
        def x() -> Term:
            return self.real(axes, self.rng.randint(0, depth))

        def function() -> Term:
            name = self.rng.choice(sorted(FUNCTIONS))
            return self.apply(name, self.exact(axes, depth) if FUNCTIONS[name].jumps else x())

        def clip() -> Term:
            a, low = x(), round(self.rng.uniform(-3, 0), 1)
            return t.combine(f"at.clip({{}}, {low}, {low + 2.5})", [a], "float", low, low + 2.5)

        return [
            *[function] * 6,
            lambda: t.add(x(), x()), lambda: t.sub(x(), x()), lambda: t.mul(self.fit(x(), -7, 7), self.fit(x(), -7, 7)),
            lambda: t.div(x(), self.fit(x(), 0.3, 8)),
            lambda: t.power(self.fit(x(), 0.2, 4), self.fit(x(), -1.5, 2)),
            lambda: t.minimum(x(), x()), lambda: t.maximum(x(), x()), clip,
            lambda: t.select(self.mask(axes, depth), x(), x()),
            lambda: self.exact(axes, depth + 1),
            lambda: t.mul(self.mask(axes, depth), x()),
        ]  # fmt: skip
