"""Interval rules of masks: (true everywhere, true somewhere), three-valued logic and comparisons."""

from __future__ import annotations

from attnc.ir.graph import Node, const
from attnc.passes.bound.affine import plus
from attnc.passes.bound.box import UNDECIDED, Box, Interval, Rule, both, either, negated
from attnc.passes.bound.integers import gather
from attnc.passes.fold import op


def flipped(a: Interval) -> Interval:
    """Of the opposite mask."""
    return Interval(negated(a.high), negated(a.low))


def _pair(box: Box, x: Node) -> tuple[Interval, Interval]:
    a, b = (box.interval(y) or UNDECIDED for y in x.operands)
    return a, b


def _and(box: Box, x: Node) -> Interval:
    a, b = _pair(box, x)
    return Interval(both(a.low, b.low), both(a.high, b.high))


def _or(box: Box, x: Node) -> Interval:
    a, b = _pair(box, x)
    return Interval(either(a.low, b.low), either(a.high, b.high))


def _not(box: Box, x: Node) -> Interval:
    return flipped(box.interval(x.operands[0]) or UNDECIDED)


def _xor(box: Box, x: Node) -> Interval:
    a, b = _pair(box, x)
    decided = both(op("eq", a.low, a.high), op("eq", b.low, b.high))
    differ = op("ne", a.low, b.low)
    return Interval(both(decided, differ), either(op("not", decided), differ))


def _choice(box: Box, x: Node) -> Interval | None:
    c, a, b = (box.interval(y) or UNDECIDED for y in x.operands)
    return Interval(
        either(both(a.low, b.low), either(both(c.low, a.low), both(negated(c.high), b.low))),
        either(both(c.high, a.high), both(negated(c.low), b.high)),
    )


def _compared(box: Box, x: Node) -> Interval:
    a, b = x.operands
    if a.dtype == "bool":
        differ = _xor(box, x)
        return differ if x.op == "ne" else flipped(differ)
    if a.dtype == "float":
        return _floats(x.op, box.interval(a), box.interval(b))
    if not (box.assume(a) and box.assume(b)):
        return UNDECIDED
    found = box.sides(plus(box.affine(a), box.affine(b), -1), box.direct(a, b))
    return UNDECIDED if found is None else sides(x.op, *found)


def sides(name: str, a: Interval, b: Interval) -> Interval:
    """A comparison of two intervals."""
    if name in ("lt", "le"):
        return Interval(op(name, a.high, b.low), op(name, a.low, b.high))
    meet = both(op("le", a.low, b.high), op("le", b.low, a.high))
    same = both(op("eq", a.low, a.high), both(op("eq", b.low, b.high), op("eq", a.low, b.low)))
    return Interval(same, meet) if name == "eq" else Interval(negated(meet), negated(same))


def _floats(name: str, a: Interval | None, b: Interval | None) -> Interval:
    """NaN is unequal to everything and in no order."""
    if a is None or b is None:
        return UNDECIDED
    found = sides("eq" if name == "ne" else name, a, b)
    known = Interval(both(found.low, op("not", either(a.nan, b.nan))), found.high)
    return flipped(known) if name == "ne" else known


def _cast(box: Box, x: Node) -> Interval:
    (y,) = x.operands
    a, nothing = box.interval(y), const(0.0 if y.dtype == "float" else 0)
    if a is None or not box.assume(y):
        return UNDECIDED
    zero = Interval(nothing, nothing)
    return sides("ne", a, zero) if y.dtype == "int" else _floats("ne", a, zero)


RULES: dict[str, Rule] = {
    "and": _and, "or": _or, "not": _not, "xor": _xor, "where": _choice, "gather": gather, "cast": _cast,
    "lt": _compared, "le": _compared, "eq": _compared, "ne": _compared,
}  # fmt: skip
