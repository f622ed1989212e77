"""Upper and lower ends of sums of atoms, as the literals of a clause state them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from math import gcd

from attnc.ir.graph import Node, const
from attnc.passes.bound.affine import SAFE, Form, plus, total
from attnc.passes.bound.box import ZERO, I, Interval, J
from attnc.passes.fold import op

Key = tuple[tuple[Node, int], ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """An end of a sum of atoms: sign * leaf + rest, where the leaf, if there is one, is a scalar of any size."""

    leaf: Node | None
    sign: int
    rest: Form

    def value(self) -> Node:
        """The limit as a number to compute with; what it limits is no larger than SAFE, so that the leaf may be cut there."""
        if self.leaf is None:
            return total(self.rest)
        bounded = op("minimum", op("maximum", self.leaf, const(-SAFE)), const(SAFE))
        return total(plus(self.rest, {bounded: 1}, self.sign))

    def reached_by(self, x: Form, upper: bool) -> Node:
        """x <= limit for an upper one, limit <= x for a lower one, without arithmetic on the leaf."""
        a: Form = plus(x, self.rest, -1)
        b: Form = {}  # a <= b, or b <= a for a lower limit
        if self.leaf is None:
            b = {y: -n for y, n in a.items() if n < 0 or y is None}
            a = {y: n for y, n in a.items() if y not in b}
        elif self.sign > 0:
            b = {self.leaf: 1}
        else:
            a, b, upper = plus({}, a, -1), {self.leaf: 1}, not upper
        return _ordered(a, b) if upper else _ordered(b, a)


def _ordered(a: Form, b: Form) -> Node:
    """a <= b, or a < b where that needs no constant."""
    if a.get(None, 0) - b.get(None, 0) == 1:
        return op("lt", *(total({x: n for x, n in side.items() if x is not None}) for side in (a, b)))
    return op("le", total(a), total(b))


@dataclass(slots=True)
class Group:
    """What the literals of a clause say of one sum of atoms, and what must hold besides."""

    form: Form
    lower: list[Limit] = field(default_factory=list)
    upper: list[Limit] = field(default_factory=list)
    holds: list[Node] = field(default_factory=list)

    def add(self, scale: int, outer: Form, leaf: Node | None, rel: str) -> None:
        """scale * form + outer rel 0, with rel le or eq; a leaf of outer only where scale is 1 or -1."""
        rest: Form = {x: n for x, n in outer.items() if x is None or x != leaf}
        sign = outer[leaf] if leaf is not None else 0
        if abs(scale) == 1:
            below, above = Limit(leaf, -sign, plus({}, rest, -1)), Limit(leaf, sign, rest)
        else:  # rounded to whole multiples
            number, size = total(plus({}, rest, -1)), const(abs(scale))
            whole = op("floordiv", number, size)
            below, above = Limit(None, 0, {whole: 1}), Limit(None, 0, {op("neg", whole): 1})
            if rel == "eq":
                self.holds.append(op("eq", op("mod", number, size), ZERO))
        limit = below if scale > 0 else above
        if scale > 0 or rel == "eq":
            self.upper.append(limit)
        if scale < 0 or rel == "eq":
            self.lower.append(limit)

    def least(self) -> Node | None:
        """The highest of the lower limits."""
        return reduce(lambda a, b: op("maximum", a, b), [x.value() for x in self.lower]) if self.lower else None

    def most(self) -> Node | None:
        """The lowest of the upper limits."""
        return reduce(lambda a, b: op("minimum", a, b), [x.value() for x in self.upper]) if self.upper else None

    def within(self, x: Interval) -> Interval:
        """What the limits leave of an interval."""
        least, most = self.least(), self.most()
        low = x.low if least is None else op("maximum", x.low, least)
        return Interval(low, x.high if most is None else op("minimum", x.high, most))

    def meets(self, low: Form, high: Form) -> Iterator[Node]:
        """What must hold for a sum between low and high to be within the limits."""
        yield from (x.reached_by(low, True) for x in self.upper)
        yield from (x.reached_by(high, False) for x in self.lower)
        yield from self.apart()

    def apart(self) -> Iterator[Node]:
        """No lower limit is above an upper one; where both are scalars of any size that is not asked."""
        yield from self.holds
        for a in self.lower:
            for b in self.upper:
                if a is not b and (a.leaf is None or b.leaf is None):
                    yield b.reached_by(a.rest, True) if a.leaf is None else a.reached_by(b.rest, False)


def normal(atoms: dict[Node, int]) -> tuple[Key, int]:
    """The sum of atoms without its common factor, i or j first and positive, and that factor."""
    first = I if I in atoms else J if J in atoms else next(iter(atoms))
    scale = gcd(*atoms.values()) * (1 if atoms[first] > 0 else -1)
    order = sorted(atoms, key=lambda x: (x != I, x != J, x.key))
    return tuple((x, atoms[x] // scale) for x in order), scale
