"""Interval analysis over a box of queries and keys: the lowest and highest value of every node, as scalar graphs.

One rule per op (`rules`). Numbers give (low, high); a mask gives (true everywhere, true somewhere). Integer ends are exact int64
arithmetic; float ends are widened where the arithmetic rounds, so that they hold in float32 and in float64. None: unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from attnc.ir.graph import Node, const, node
from attnc.passes.bound.affine import MODEST, Form, Magnitudes, affine, index, is_uniform, plus, total
from attnc.passes.fold import op

TRUE, FALSE, ZERO, ONE = const(True), const(False), const(0), const(1)
I, J = index("i"), index("j")


@dataclass(frozen=True, slots=True)
class Interval:
    """`nan`: whether a float may be NaN, which no end shows; `finite`: surely neither NaN nor infinite."""

    low: Node
    high: Node
    nan: Node = FALSE
    finite: bool = True


UNDECIDED = Interval(FALSE, TRUE)
Rule = Callable[["Box", Node], Interval | None]
Rules = Mapping[str, Mapping[str, Rule]]  # kind of the result -> op -> rule


def corner(name: str) -> Node:
    """The leaf of a tile's corner: i0, i1, j0 or j1, both ends inside the tile."""
    return node("value", name=name, axes=(), kind="int")


def both(a: Node, b: Node) -> Node:
    """a and b."""
    return op("and", a, b)


def either(a: Node, b: Node) -> Node:
    """a or b."""
    return op("or", a, b)


def negated(a: Node) -> Node:
    """not a; of a comparison of integers the opposite one."""
    if a.op in ("lt", "le") and a.operands[0].dtype == "int":
        return op("le" if a.op == "lt" else "lt", a.operands[1], a.operands[0])
    if a.op in ("eq", "ne"):
        return op("ne" if a.op == "eq" else "eq", *a.operands)
    return op("not", a)


@dataclass(slots=True)
class Box:
    """Ranges of i and j, and what is known of their difference i - j beyond them.

    guesses: unbounded values that took part in arithmetic; what the box says holds only where all are modest.
    """

    rules: Rules
    magnitudes: Magnitudes
    i: Interval = field(default_factory=lambda: Interval(corner("i0"), corner("i1")))
    j: Interval = field(default_factory=lambda: Interval(corner("j0"), corner("j1")))
    least: Node | None = None
    most: Node | None = None
    guesses: dict[Node, None] = field(default_factory=dict)
    narrowed: dict[Node, Interval] = field(default_factory=dict)
    _known: dict[Node, Interval | None] = field(default_factory=dict)

    def interval(self, x: Node) -> Interval | None:
        """Lowest and highest value of x, or None where that is unknown."""
        if x not in self._known:
            self._known[x] = self.narrowed.get(x) or self._interval(x)
        return self._known[x]

    def narrow(self, x: Node, to: Interval) -> None:
        """From now on x lies in a smaller interval."""
        self.narrowed[x] = to
        self._known.clear()

    def _interval(self, x: Node) -> Interval | None:
        kind = "uniform" if is_uniform(x) else x.dtype
        rule = self.rules[kind].get(x.op, self.rules[kind].get(""))
        return rule(self, x) if rule is not None else None

    def root(self, x: Node) -> Interval | None:
        """The interval of an integer expression that stands by itself, as an index does: its guesses are noted."""
        return self.interval(x) if self.assume(x) else None

    def assume(self, x: Node) -> bool:
        """Note the guesses in the arithmetic of x; False where it may overflow all the same."""
        if x.dtype != "int" or self.magnitudes.is_leaf(x):
            return True
        guesses = self.magnitudes.guesses(x)
        if guesses is None:
            return False
        self.guesses.update(dict.fromkeys(guesses))
        return True

    def modest(self) -> Node:
        """Whether all guesses hold."""
        result = TRUE
        for x in list(self.guesses):
            found = self.interval(x)
            if found is None:
                return FALSE
            result = both(result, op("le", const(-MODEST), found.low))
            result = both(result, op("le", found.high, const(MODEST)))
        return result

    def affine(self, x: Node) -> Form:
        """x as a sum of multiples of atoms."""
        return affine(x, self.magnitudes)

    def sum(self, form: Mapping[Node | None, int]) -> Interval | None:
        """The interval of a sum of multiples of atoms; of i - j what the difference says."""
        low: Form = {}
        high: Form = {}
        n = form.get(I, 0)
        if n and form.get(J, 0) == -n:
            least, most = (self.affine(x) for x in self.gap())
            low, high = (plus({}, x, n) for x in ((least, most) if n > 0 else (most, least)))
            form = {x: m for x, m in form.items() if x not in (I, J)}
        for x, m in form.items():
            found = Interval(ONE, ONE) if x is None else self.interval(x)
            if found is None:
                return None
            a, b = (found.low, found.high) if m > 0 else (found.high, found.low)
            low, high = plus(low, self.affine(a), m), plus(high, self.affine(b), m)
        return Interval(total(low), total(high))

    def direct(self, *sides: Node) -> tuple[Node, ...]:
        """Of the sides of a comparison those that are no arithmetic and may have any value."""
        return tuple(
            x for x in sides if x.dtype == "int" and self.magnitudes.is_leaf(x) and self.magnitudes.unbounded(x)
        )

    def sides(self, form: Form, direct: Sequence[Node]) -> tuple[Interval, Interval] | None:
        """The intervals of l and r, where form = l - r, without arithmetic on `direct` atoms."""
        up = next((x for x in direct if form.get(x) == 1), None)
        down = next((x for x in direct if form.get(x) == -1), None)
        rest: Form = {x: n for x, n in form.items() if x is None or x not in (up, down)}
        if up is not None and down is not None and rest:
            rest, down = plus(rest, {down: 1}, -1), None
            self.guesses.update(dict.fromkeys(x for x in rest if x is not None and x in direct))
        if up is None:
            left, right = self.sum(rest), Interval(ZERO, ZERO) if down is None else self.interval(down)
        else:
            left, right = self.interval(up), self.sum(plus({}, rest, -1)) if down is None else self.interval(down)
        return None if left is None or right is None else (left, right)

    def gap(self) -> tuple[Node, Node]:
        """Least and greatest i - j."""
        low = total(plus(self.affine(self.i.low), self.affine(self.j.high), -1))
        high = total(plus(self.affine(self.i.high), self.affine(self.j.low), -1))
        return (
            low if self.least is None else op("maximum", low, self.least),
            high if self.most is None else op("minimum", high, self.most),
        )
