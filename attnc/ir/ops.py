"""The one table of ops. Every consumer (interpreters, bound, printers) has one rule per row of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["bool", "int", "float"]
Attrs = dict[str, Any]
Axes = frozenset[str]

INDEX_AXES = ("b", "h", "i", "j")
ROLE_AXES: dict[str, tuple[str, ...]] = {
    "q": ("b", "h", "i", "d"),
    "k": ("b", "h", "j", "d"),
    "v": ("b", "h", "j", "e"),
}
EXTENTS = ("q_len", "kv_len", "group", "d", "e", "batch", "heads")


@dataclass(frozen=True, slots=True)
class Op:
    """A row: `arity` (None = any), `kind` gives the result's kind or None where the operands' kinds do not fit."""

    name: str
    arity: int | None
    kind: Callable[[Sequence[Kind], Attrs], Kind | None]
    axes: Callable[[Sequence[Axes], Attrs], Axes]
    elementwise: bool = False


def _union(axes: Sequence[Axes], attrs: Attrs) -> Axes:
    return frozenset().union(*axes)


def _fixed(kind: Kind) -> Callable[[Sequence[Kind], Attrs], Kind | None]:
    return lambda kinds, attrs: kind


def _from_attr(kinds: Sequence[Kind], attrs: Attrs) -> Kind:
    kind: Kind = attrs["kind"]
    return kind


def _same(*allowed: Kind, result: Kind | None = None) -> Callable[[Sequence[Kind], Attrs], Kind | None]:
    def rule(kinds: Sequence[Kind], attrs: Attrs) -> Kind | None:
        first = kinds[0]
        return (result or first) if first in allowed and all(k == first for k in kinds) else None

    return rule


def _where(kinds: Sequence[Kind], attrs: Attrs) -> Kind | None:
    return kinds[1] if kinds[0] == "bool" and kinds[1] == kinds[2] else None


def _softmax(kinds: Sequence[Kind], attrs: Attrs) -> Kind | None:
    expected = ["float"] + ["bool"] * attrs["masked"] + ["float"] * attrs["sink"]
    return "float" if list(kinds) == expected else None


def _project(axes: Sequence[Axes], attrs: Attrs) -> Axes:
    matrix = axes[1] - {attrs["contract"]}
    return (axes[0] - {attrs["contract"]}) | matrix | {attrs["result"]}


def _leaf(
    name: str, kind: Callable[[Sequence[Kind], Attrs], Kind | None], axes: Callable[[Attrs], Sequence[str]]
) -> Op:
    return Op(name, 0, kind, lambda _, attrs: frozenset(axes(attrs)))


def _elementwise(names: str, arity: int, kind: Callable[[Sequence[Kind], Attrs], Kind | None]) -> list[Op]:
    return [Op(name, arity, kind, _union, elementwise=True) for name in names.split()]


_TABLE: list[Op] = [
    _leaf("const", _from_attr, lambda attrs: ()),
    _leaf("scalar", _from_attr, lambda attrs: ()),
    _leaf("extent", _fixed("int"), lambda attrs: ()),
    _leaf("index", _fixed("int"), lambda attrs: (attrs["name"],)),
    _leaf("role", _fixed("float"), lambda attrs: ROLE_AXES[attrs["name"]]),
    _leaf("value", _from_attr, lambda attrs: attrs["axes"]),  # a tile, row or column of a tile program
    Op("gather", None, _from_attr, lambda axes, attrs: _union(axes, attrs) | frozenset(attrs["features"])),
    # the least or greatest entry of a box of an operand table: a low and a high index per axis of the table
    Op("extreme", None, _from_attr, _union),
    *_elementwise("exp exp2 log log2 log1p tanh sigmoid erf sqrt rsqrt sin cos floor", 1, _same("float")),
    *_elementwise("neg abs sign", 1, _same("int", "float")),
    *_elementwise("add sub mul floordiv mod minimum maximum", 2, _same("int", "float")),
    *_elementwise("div pow", 2, _same("float")),
    *_elementwise("lt le", 2, _same("int", "float", result="bool")),
    *_elementwise("eq ne", 2, _same("bool", "int", "float", result="bool")),
    *_elementwise("and or xor", 2, _same("bool", "int")),
    *_elementwise("not", 1, _same("bool", "int")),
    *_elementwise("shl shr", 2, _same("int")),
    *_elementwise("where", 3, _where),
    # x, r, m: 2**(x - r), 0 where x <= m and nowhere else
    *_elementwise("weight", 3, _same("float")),
    *_elementwise("cast", 1, _from_attr),
    Op("dot", 2, _same("float"), lambda axes, attrs: _union(axes, attrs) - {attrs["axis"]}),
    Op("project", 2, _same("float"), _project),
    Op("reduce", 1, _same("int", "float"), lambda axes, attrs: axes[0] - {attrs["axis"]}),
    Op("softmax", None, _softmax, _union),
    Op("lse", None, _softmax, lambda axes, attrs: _union(axes, attrs) - {"j"}),  # of softmax's operands
    # sum over j of w*x where a weight that is exactly zero contributes nothing, even to a NaN x
    Op("attend", 2, _same("float"), lambda axes, attrs: _union(axes, attrs) - {"j"}),
]

LONGEST = 2**31 - 1  # entries of an axis, so that sums of indices need no check for overflow

OPS: dict[str, Op] = {op.name: op for op in _TABLE}
