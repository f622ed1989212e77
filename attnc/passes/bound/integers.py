"""Interval rules of the integer ops."""

from __future__ import annotations

import math

from attnc.ir.graph import Node, const, node
from attnc.passes.bound import bits
from attnc.passes.bound.affine import MODEST, is_uniform
from attnc.passes.bound.box import ONE, ZERO, Box, Interval, Rule, both, either
from attnc.passes.fold import op


def _index(box: Box, x: Node) -> Interval | None:
    return {"i": box.i, "j": box.j}[x["name"]]


def _sum(box: Box, x: Node) -> Interval | None:
    return box.sum(box.affine(x))


def _fold(name: str, values: list[Node]) -> Node:
    result = values[0]
    for y in dict.fromkeys(values[1:]):
        result = result if y == result else op(name, result, y)
    return result


def ends_of(name: str, a: Interval, b: Interval) -> tuple[Node, Node]:
    """The ends of an op that is monotone in both operands, over the corners of their intervals; NaN where a corner is."""
    values = [op(name, p, q) for p in dict.fromkeys((a.low, a.high)) for q in dict.fromkeys((b.low, b.high))]
    return _fold("minimum", values), _fold("maximum", values)


def _mul(box: Box, x: Node) -> Interval | None:
    if any(y.op == "const" for y in x.operands):
        return _sum(box, x)
    if x.operands[0] == x.operands[1]:
        a = absolute(box, x)
        return None if a is None else Interval(op("mul", a.low, a.low), op("mul", a.high, a.high))
    return _corners(box, x, "mul")


def _corners(box: Box, x: Node, name: str) -> Interval | None:
    a, b = (box.interval(y) for y in x.operands)
    if a is None or b is None:
        return None
    return Interval(*ends_of(name, a, b))


def _floordiv(box: Box, x: Node) -> Interval | None:
    a, divisor = box.interval(x.operands[0]), x.operands[1]
    if a is None:
        return None
    if is_uniform(divisor):
        low, high = op("floordiv", a.low, divisor), op("floordiv", a.high, divisor)
        if divisor.op == "const":
            return Interval(low, high) if divisor["value"] >= 0 else Interval(high, low)
        return Interval(op("minimum", low, high), op("maximum", low, high))
    b, found = box.interval(divisor), _corners(box, x, "floordiv")
    if b is None or found is None:
        return None
    apart = either(op("lt", ZERO, b.low), op("lt", b.high, ZERO))
    most = size_of(a).high
    return Interval(op("where", apart, found.low, op("neg", most)), op("where", apart, found.high, most))


def _mod(box: Box, x: Node) -> Interval | None:
    a, divisor = box.interval(x.operands[0]), x.operands[1]
    if not is_uniform(divisor):
        b = box.interval(divisor)
        if b is None:
            return None
        return Interval(op("minimum", op("add", b.low, ONE), ZERO), op("maximum", op("sub", b.high, ONE), ZERO))
    least_rest = op("minimum", op("add", divisor, ONE), ZERO)
    greatest_rest = op("maximum", op("sub", divisor, ONE), ZERO)
    if a is None:
        return Interval(least_rest, greatest_rest)
    same = op("eq", op("floordiv", a.low, divisor), op("floordiv", a.high, divisor))
    return Interval(
        op("where", same, op("mod", a.low, divisor), least_rest),
        op("where", same, op("mod", a.high, divisor), greatest_rest),
    )


def extremes(name: str) -> Rule:
    """The rule of minimum and maximum."""

    def rule(box: Box, x: Node) -> Interval | None:
        a, b = (box.interval(y) for y in x.operands)
        if a is None or b is None:
            return None
        nan = either(a.nan, b.nan)
        return Interval(op(name, a.low, b.low), op(name, a.high, b.high), nan, a.finite and b.finite)

    return rule


def size_of(a: Interval) -> Interval:
    """The interval of the absolute value."""
    if a.low == a.high:
        return Interval(op("abs", a.low), op("abs", a.low), a.nan, a.finite)
    zero = const(0.0) if a.low.dtype == "float" else ZERO
    down, up = op("neg", a.low), op("neg", a.high)
    return Interval(op("maximum", op("maximum", a.low, up), zero), op("maximum", a.high, down), a.nan, a.finite)


def absolute(box: Box, x: Node) -> Interval | None:
    """The rule of abs."""
    a = box.interval(x.operands[0])
    return None if a is None else size_of(a)


def sign(box: Box, x: Node) -> Interval | None:
    """The rule of sign."""
    a = box.interval(x.operands[0])
    return None if a is None else Interval(op("sign", a.low), op("sign", a.high), a.nan, a.finite)


def _shift(box: Box, x: Node) -> Interval | None:
    a, count = box.interval(x.operands[0]), x.operands[1]
    if a is not None and x.op == "shr" and is_uniform(count):
        return Interval(op("shr", a.low, count), op("shr", a.high, count))
    if x.op == "shr" and not is_uniform(count):
        return None if a is None else Interval(op("minimum", a.low, ZERO), op("maximum", a.high, const(-1)))
    if a is not None and count.op == "const" and 0 <= count["value"] < 31:
        return Interval(op("shl", a.low, count), op("shl", a.high, count))
    return bits.interval(box, x)


def _not(box: Box, x: Node) -> Interval | None:
    a = box.interval(x.operands[0])
    return None if a is None else Interval(op("not", a.high), op("not", a.low))


def choice(box: Box, x: Node) -> Interval | None:
    """The rule of where; its branches refined by the condition are the clauses' business (`clauses`)."""
    c, a, b = (box.interval(y) for y in x.operands)
    if c is None or a is None or b is None:
        return None

    def pick(p: Node, q: Node, name: str) -> Node:
        mixed = p if p == q else op(name, p, q)
        return op("where", c.low, p, q if c.low == c.high else op("where", c.high, mixed, q))

    nan = either(both(c.high, a.nan), both(op("not", c.low), b.nan))
    return Interval(pick(a.low, b.low, "minimum"), pick(a.high, b.high, "maximum"), nan, a.finite and b.finite)


def _cast(box: Box, x: Node) -> Interval | None:
    (y,) = x.operands
    a = box.interval(y)
    if a is None:
        return None
    if y.dtype == "bool":
        return Interval(node("cast", a.low, kind="int"), node("cast", a.high, kind="int"))
    limit = const(float(MODEST))
    inside = both(both(op("le", op("neg", limit), a.low), op("le", a.high, limit)), op("not", a.nan))
    low, high = (op("where", inside, e, const(0.0)) for e in (a.low, a.high))
    return Interval(
        op("where", inside, node("cast", low, kind="int"), const(-(2**63))),
        op("where", inside, node("cast", high, kind="int"), const(2**63 - 1)),
    )


def gather(box: Box, x: Node) -> Interval | None:
    """The rule of a table: its least and greatest entry in the box of indices."""
    if x["features"]:
        return None
    pairs: list[Node] = []
    varying = [n for n, y in enumerate(x.operands) if not is_uniform(y)]
    if len(varying) > 2 or (len(varying) == 2 and _is_long(box, x.operands[varying[0]])):
        return None
    for y in x.operands:
        found = Interval(y, y) if is_uniform(y) else box.root(y)
        if found is None:
            return None
        pairs += (found.low, found.high)
    attrs = {"name": x["name"], "dims": x["dims"], "kind": x["kind"], "axis": varying[-1]}
    low, high = (node("extreme", *pairs, how=how, **attrs) for how in ("min", "max"))
    if x.dtype != "float":
        return Interval(low, high)
    finite = both(op("lt", const(float("-inf")), low), op("lt", high, const(float("inf"))))
    return Interval(low, high, op("not", finite), False)


def _is_long(box: Box, x: Node) -> bool:
    """Whether an index runs over as many entries as the tile has queries or keys: a box of them is no few."""
    return any(y is not None and y.op == "index" for y in box.affine(x))


def uniform(box: Box, x: Node) -> Interval | None:
    """What is one value per tile is its own interval."""
    if x.dtype != "float" or x.op == "cast" or (x.op == "const" and math.isfinite(x["value"])):
        return Interval(x, x)
    nan = op("ne", x, x)
    low, high = (op("where", nan, const(end), x) for end in (float("-inf"), float("inf")))
    return Interval(low, high, nan, False)


RULES: dict[str, Rule] = {
    "index": _index, "add": _sum, "sub": _sum, "neg": _sum, "mul": _mul, "floordiv": _floordiv, "mod": _mod,
    "minimum": extremes("minimum"), "maximum": extremes("maximum"), "abs": absolute, "sign": sign, "where": choice,
    "and": bits.interval, "or": bits.interval, "xor": bits.interval, "not": _not, "shl": _shift, "shr": _shift,
    "cast": _cast, "gather": gather,
}  # fmt: skip
UNIFORM: dict[str, Rule] = {"": uniform}
