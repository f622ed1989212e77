"""What a mask can be on a whole tile, from the tile's corners: interval analysis that yields scalar graphs.

For a mask m over i in [i0, i1] and j in [j0, j1] `bound` gives two graphs: `possible` (false proves m false everywhere: the tile is
empty) and `certain` (true proves m true everywhere: the tile is full). Unknown is always sound: possible = true, certain = false.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.ir.graph import Node, const, node, topological
from attnc.passes.fold import fold_node

Interval = tuple[Node, Node]


@dataclass(frozen=True, slots=True)
class Bound:
    """Scalar graphs over the corner values i0, i1, j0, j1."""

    possible: Node
    certain: Node


UNKNOWN = Bound(const(True), const(False))


def corner(name: str) -> Node:
    """The leaf of a tile's corner: i0, i1, j0 or j1, both ends inside the tile."""
    return node("value", name=name, axes=(), kind="int")


def _op(name: str, *operands: Node) -> Node:
    return fold_node(node(name, *operands))


def is_uniform(x: Node) -> bool:
    """Whether x is one value per tile: free of i, j and of feature vectors."""
    return not (x.axes - {"b", "h"}) and all(
        y.op not in ("role", "reduce", "attend", "softmax") for y in topological([x])
    )


def bound(mask: Node) -> Bound:
    """The bound of a boolean node."""
    if is_uniform(mask):
        return Bound(mask, mask)
    rule = _LOGIC.get(mask.op)
    return rule(mask) if rule is not None and mask.dtype == "bool" else UNKNOWN


def _both(x: Node) -> Bound:
    a, b = map(bound, x.operands)
    return Bound(_op("and", a.possible, b.possible), _op("and", a.certain, b.certain))


def _either(x: Node) -> Bound:
    a, b = map(bound, x.operands)
    return Bound(_op("or", a.possible, b.possible), _op("or", a.certain, b.certain))


def _not(x: Node) -> Bound:
    a = bound(x.operands[0])
    return Bound(_op("not", a.certain), _op("not", a.possible))


def _xor(x: Node) -> Bound:
    a, b = map(bound, x.operands)
    decided = _op("and", _op("eq", a.possible, a.certain), _op("eq", b.possible, b.certain))
    differ = _op("ne", a.certain, b.certain)
    return Bound(_op("or", _op("not", decided), differ), _op("and", decided, differ))


def _choice(x: Node) -> Bound:
    c, a, b = map(bound, x.operands)
    no = _op("not", c.possible)
    return Bound(
        _op("or", _op("and", c.possible, a.possible), _op("and", _op("not", c.certain), b.possible)),
        _op(
            "or",
            _op("and", a.certain, b.certain),
            _op("or", _op("and", c.certain, a.certain), _op("and", no, b.certain)),
        ),
    )


def _comparison(x: Node) -> Bound:
    if x.operands[0].dtype == "bool":
        equal = _not_of(_xor(node("xor", *x.operands)))
        return equal if x.op == "eq" else _not_of(equal)
    if x.operands[0].dtype != "int":
        return UNKNOWN
    found = interval(node("sub", *x.operands))
    if found is None:
        return UNKNOWN
    low, high = found
    zero = const(0)
    if x.op == "lt":
        return Bound(_op("lt", low, zero), _op("lt", high, zero))
    if x.op == "le":
        return Bound(_op("le", low, zero), _op("le", high, zero))
    equal = Bound(
        _op("and", _op("le", low, zero), _op("le", zero, high)), _op("and", _op("eq", low, zero), _op("eq", high, zero))
    )
    return equal if x.op == "eq" else _not_of(equal)


def _not_of(x: Bound) -> Bound:
    return Bound(_op("not", x.certain), _op("not", x.possible))


_LOGIC: dict[str, Callable[[Node], Bound]] = {
    "and": _both, "or": _either, "not": _not, "xor": _xor, "where": _choice,
    "lt": _comparison, "le": _comparison, "eq": _comparison, "ne": _comparison,
}  # fmt: skip


def affine(x: Node) -> dict[Node | None, int]:
    """x as a sum of integer multiples of atoms (None: the constant), so that i - j and i - i stay exact."""
    if x.op == "const":
        return {None: int(x["value"])}
    if x.op in ("add", "sub"):
        total = dict(affine(x.operands[0]))
        sign = 1 if x.op == "add" else -1
        for atom, factor in affine(x.operands[1]).items():
            total[atom] = total.get(atom, 0) + sign * factor
        return {atom: factor for atom, factor in total.items() if factor}
    if x.op == "neg":
        return {atom: -factor for atom, factor in affine(x.operands[0]).items()}
    if x.op == "mul":
        for a, b in (x.operands, x.operands[::-1]):
            if b.op == "const":
                return {atom: factor * int(b["value"]) for atom, factor in affine(a).items()} if b["value"] else {}
    return {x: 1}


def interval(x: Node) -> Interval | None:
    """Lowest and highest value of an integer node on a tile, as scalar graphs; None where unknown."""
    low: Node = const(0)
    high: Node = const(0)
    for atom, factor in affine(x).items():
        ends = (const(1), const(1)) if atom is None else _atom(atom)
        if ends is None:
            return None
        a, b = ends if factor > 0 else ends[::-1]
        low = _op("add", low, _op("mul", a, const(factor)))
        high = _op("add", high, _op("mul", b, const(factor)))
    return low, high


def _atom(x: Node) -> Interval | None:
    if is_uniform(x):
        return x, x
    if x.op == "index":
        return corner(f"{x['name']}0"), corner(f"{x['name']}1")
    rule = _ATOMS.get(x.op)
    return rule(x) if rule is not None else None


def _extremes(name: str) -> Callable[[Node], Interval | None]:
    def rule(x: Node) -> Interval | None:
        a, b = map(interval, x.operands)
        return None if a is None or b is None else (_op(name, a[0], b[0]), _op(name, a[1], b[1]))

    return rule


def _floordiv(x: Node) -> Interval | None:
    a, divisor = interval(x.operands[0]), x.operands[1]
    if a is None or not is_uniform(divisor):
        return None
    low, high = _op("floordiv", a[0], divisor), _op("floordiv", a[1], divisor)
    return _op("minimum", low, high), _op("maximum", low, high)


def _mod(x: Node) -> Interval | None:
    a, divisor = interval(x.operands[0]), x.operands[1]
    if a is None or divisor.op != "const" or divisor["value"] <= 0:
        return None
    same = _op("eq", _op("floordiv", a[0], divisor), _op("floordiv", a[1], divisor))
    return (
        _op("where", same, _op("mod", a[0], divisor), const(0)),
        _op("where", same, _op("mod", a[1], divisor), const(divisor["value"] - 1)),
    )


def _abs(x: Node) -> Interval | None:
    a = interval(x.operands[0])
    if a is None:
        return None
    low, high = a
    down, up = _op("neg", low), _op("neg", high)
    return _op("maximum", _op("maximum", low, up), const(0)), _op("maximum", high, down)


def _where(x: Node) -> Interval | None:
    a, b = interval(x.operands[1]), interval(x.operands[2])
    return None if a is None or b is None else (_op("minimum", a[0], b[0]), _op("maximum", a[1], b[1]))


def _product(x: Node) -> Interval | None:
    a, b = map(interval, x.operands)
    if a is None or b is None:
        return None
    corners = [_op("mul", p, q) for p in a for q in b]
    low = high = corners[0]
    for c in corners[1:]:
        low, high = _op("minimum", low, c), _op("maximum", high, c)
    return low, high


_ATOMS: dict[str, Callable[[Node], Interval | None]] = {
    "minimum": _extremes("minimum"), "maximum": _extremes("maximum"), "floordiv": _floordiv, "mod": _mod, "abs": _abs,
    "where": _where, "mul": _product,
}  # fmt: skip
