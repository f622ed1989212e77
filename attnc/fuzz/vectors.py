"""Random feature vectors of the query, the key and the value, and the numbers per pair that come out of them."""

from __future__ import annotations

from dataclasses import replace

from attnc.fuzz import term as t
from attnc.fuzz.expressions import KEY, PAIR, ROW, Expressions
from attnc.fuzz.term import FUNCTIONS, Term

BOUND = 2.0  # of a feature
SMOOTH = tuple(name for name, f in FUNCTIONS.items() if not f.jumps)


class Vectors(Expressions):
    """Feature vectors along the axes d (queries and keys), e (values) and r (projections)."""

    def vector(self, side: str, axis: str, depth: int, values: bool = False) -> Term:
        """A vector of the query (side i) or key (side j) along `axis`; `values`: it may read v."""
        x = self._leaf(side, axis, values)
        for _ in range(self.rng.randint(0, depth)):
            x = self.fit(self._changed(x, side, axis), -BOUND, BOUND)
        return x

    def _leaf(self, side: str, axis: str, values: bool) -> Term:
        role, own = ("q", "d") if side == "i" else ("v", "e") if values and self.rng.random() < 0.7 else ("k", "d")
        x = Term(role, "float", frozenset({"b", "h", side, own}), -BOUND, BOUND)
        if own == axis and self.rng.random() < 0.75:
            return x
        return self.projected(x, own, axis)

    def projected(self, x: Term, own: str, axis: str) -> Term:
        """x @ W: the feature axis `own` replaced by `axis`."""
        lead = ["h"] if self.rng.random() < 0.25 else []
        bound = 1.0 / self.shape.extent(own)
        extents = [self.shape.extent(a) for a in (*lead, own, axis)]
        matrix = self.scribe.table((*lead, own, axis), tuple(extents), "float", -bound, bound)
        used = f"{matrix.text}[h]" if lead else matrix.text
        axes = x.axes - {own} | {axis} | frozenset(lead)
        return Term(f"({x.text} @ {used})", "float", axes, -x.size, x.size, None, x.level)

    def factor(self, axes: str, axis: str, low: float = -1.0, high: float = 1.0) -> Term:
        """A table with a feature axis after some of `axes`: u[d], g[h, d], t[j, d]."""
        lead = [a for a in axes if self.rng.random() < 0.3]
        operand = self.scribe.table(
            (*lead, axis), tuple(self.shape.extent(a) for a in (*lead, axis)), "float", low, high
        )
        text = f"{operand.text}[{', '.join(lead)}]" if lead else operand.text
        return Term(text, "float", frozenset({*lead, axis}), low, high, operand.grain)

    def _changed(self, x: Term, side: str, axis: str) -> Term:
        axes = ROW if side == "i" else KEY
        return self.pick(
            lambda: self.apply(self.rng.choice(SMOOTH), x),
            lambda: self.apply(self.rng.choice(SMOOTH), x),
            lambda: t.mul(x, self.factor("bh" + side, axis)),
            lambda: t.add(x, self.factor("bh" + side, axis)),
            lambda: t.mul(x, self.fit(self.real(axes, 1), -2, 2)),
            lambda: t.select(self.mask(axes, 0), x, t.mul(x, t.number(-0.5))),
            lambda: self._rotated(x, side, axis),
            lambda: self._normalised(x, axis),
        )

    def _rotated(self, x: Term, side: str, axis: str) -> Term:
        """A phase per position and feature, as rotary embeddings use."""
        angle = t.mul(self._role(side), self.factor("bh" + side, axis))
        return t.mul(x, self.apply(self.rng.choice(["sin", "cos"]), angle))

    def _normalised(self, x: Term, axis: str) -> Term:
        """x / |x|, kept away from 0."""
        total = f"at.rsqrt(at.sum({x.text} * {x.text}, over={axis!r}) + 0.25)"
        return replace(x, text=f"({x.text} * {total})")

    # -- numbers from vectors

    def dot(self) -> Term:
        """A dot product of query and key vectors."""
        axis = "d" if self.rng.random() < 0.7 else "r"
        x, y = self.vector("i", axis, 1), self.vector("j", axis, 1)
        bound = x.size * y.size * self.shape.extent(axis)
        text = "({} @ {})" if self.rng.random() < 0.1 else "at.dot({}, {})"
        result = t.combine(text, [x, y], "float", -bound, bound)
        return replace(result, axes=result.axes - {axis})

    def reduction(self) -> Term:
        """A sum, maximum or minimum over the features of something that varies over query and key."""
        axis = self.rng.choice("dr")
        x, y = self.vector("i", axis, 1), self.vector("j", axis, 1)
        rule = self.rng.choice([t.add, t.sub, t.mul, t.minimum, t.maximum])
        pair = rule(x, y)
        if self.rng.random() < 0.7:
            pair = self.apply(self.rng.choice(SMOOTH), pair)
        if self.rng.random() < 0.5:
            pair = t.mul(pair, self.factor("bh", axis))
        if self.rng.random() < 0.2:
            pair = t.mul(pair, self.fit(self.real(PAIR, 0), -1, 1))
        return self.over(pair, axis)

    def over(self, x: Term, axis: str) -> Term:
        """x reduced over a feature axis."""
        how = self.rng.choice(["sum", "sum", "max", "min"])
        n = self.shape.extent(axis) if how == "sum" else 1
        low, high = (min(x.low, x.low * n), max(x.high, x.high * n)) if n > 1 else (x.low, x.high)
        text = f"at.{how}({x.text}, over={axis!r})"
        return Term(text, x.kind, x.axes - {axis}, low, high, None, x.level)

    def projection(self, side: str) -> Term:
        """A number per row or per key: q @ a, k @ c, or a reduction of one vector."""
        x = self.vector(side, "d", 1)
        if self.rng.random() < 0.4:
            return self.over(x, "d")
        weights = self.factor("bh", "d")
        bound = x.size * self.shape.d
        text = "at.dot({}, {})" if self.rng.random() < 0.5 else "({} @ {})"
        result = t.combine(text, [x, weights], "float", -bound, bound)
        return replace(result, axes=result.axes - {"d"})
