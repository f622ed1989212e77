"""Known bits: which bits of an integer are 1, and which may be, over a box. Exact for & | ^ ~ and for shifts by one count."""

from __future__ import annotations

from attnc.ir.graph import Node, const
from attnc.passes.bound.affine import is_uniform
from attnc.passes.bound.box import Box, Interval
from attnc.passes.fold import op

SIGN = const(-(2**63))
POSITIVE = const(2**63 - 1)
Bits = tuple[Node, Node]  # (surely 1, possibly 1)


def bits(box: Box, x: Node) -> Bits | None:
    """The bits of an integer node."""
    if is_uniform(x):
        return x, x
    if x.op in ("and", "or", "xor"):
        a, b = (bits(box, y) for y in x.operands)
        return None if a is None or b is None else _combine(x.op, a, b)
    if x.op == "not":
        inner = bits(box, x.operands[0])
        return None if inner is None else (op("not", inner[1]), op("not", inner[0]))
    if x.op == "shl" and not is_uniform(x.operands[1]):
        return None
    if x.op in ("shl", "shr") and is_uniform(x.operands[1]):
        inner = bits(box, x.operands[0])
        return None if inner is None else (op(x.op, inner[0], x.operands[1]), op(x.op, inner[1], x.operands[1]))
    found = box.root(x)
    return None if found is None else _of_range(found)


def _combine(name: str, a: Bits, b: Bits) -> Bits:
    if name != "xor":
        return op(name, a[0], b[0]), op(name, a[1], b[1])
    unknown = op("or", op("xor", *a), op("xor", *b))
    value = op("xor", a[0], b[0])
    return op("and", value, op("not", unknown)), op("or", value, unknown)


def _of_range(x: Interval) -> Bits:
    """Numbers between low and high share the bits above the highest one in which these two differ."""
    below = op("xor", x.low, x.high)
    for n in (1, 2, 4, 8, 16, 32):
        below = op("or", below, op("shr", below, const(n)))
    return op("and", x.low, op("not", below)), op("or", x.low, below)


def interval(box: Box, x: Node) -> Interval | None:
    """The rule of the ops on bits: the least number has the fewest bits, and the sign bit where it may."""
    found = bits(box, x)
    if found is None:
        return None
    sure, maybe = found
    low = op("or", sure, op("and", maybe, SIGN))
    high = op("or", op("and", maybe, POSITIVE), op("and", sure, SIGN))
    return Interval(low, high)
