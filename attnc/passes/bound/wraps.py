"""Which cuts the remainders in masks ask for: x % c of an index wraps at the multiples of c, (x // a) % c at those of a * c."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnc.ir.graph import Node, const, topological
from attnc.ir.ops import LONGEST
from attnc.passes.bound.affine import Magnitudes, affine, is_uniform, plus, total
from attnc.passes.bound.box import I, J
from attnc.passes.cuts import Cut
from attnc.passes.fold import op

MOST = 4  # radices of a cut


@dataclass(frozen=True, slots=True)
class Digit:
    """x counts units of index + shift, each the product of `unit`, within `depth` remainders."""

    index: Node
    shift: Node
    unit: tuple[Node, ...] = ()
    depth: int = 0


@dataclass(slots=True)
class _Wraps:
    """Of one index: the digits that wrap, by the origin that they are counted from, and whether those of a table are apart."""

    digits: dict[Node, dict[Digit, None]] = field(default_factory=dict)
    apart: bool = False

    def cut(self) -> Cut | None:
        """Positions counted from several origins cannot all be followed: those that wrap most are."""
        if not self.digits:
            return None
        shift, digits = max(self.digits.items(), key=lambda item: len(item[1]))
        order = sorted(digits, key=lambda d: (-d.depth, len(d.unit)))  # what is inside a remainder is narrower
        kept = [x for x in dict.fromkeys(map(_radix, order)) if x.op != "const" or 1 < x["value"] < LONGEST]
        if all(x.op == "const" for x in kept):
            kept.sort(key=lambda x: int(x["value"]))
        return Cut(shift, tuple(kept[:MOST]), self.apart) if kept else None


def cuts(masks: Iterable[Node]) -> tuple[Cut | None, Cut | None]:
    """The cuts of i and of j for these masks."""
    magnitudes = Magnitudes()
    found = {I: _Wraps(), J: _Wraps()}
    for x in topological(masks):
        wrapping: list[Digit] = []
        if x.op == "mod" and x.dtype == "int" and is_uniform(x.operands[1]):
            inner = _digit(x.operands[0], magnitudes)
            wrapping = [] if inner is None else [replace(inner, unit=(*inner.unit, x.operands[1]))]
        elif x.op in ("eq", "ne") and x.operands[0].dtype == "int":
            wrapping = _looked_up(x, magnitudes)
            for d in wrapping:
                found[d.index].apart = True
        for d in wrapping:
            found[d.index].digits.setdefault(d.shift, {})[d] = None
    return found[I].cut(), found[J].cut()


def _looked_up(x: Node, magnitudes: Magnitudes) -> list[Digit]:
    """In table[p // c] == q // c: both digits, as a block of p names blocks of q in no order."""
    atoms = [y for side in x.operands for y in affine(side, magnitudes) if y is not None]
    indices = [_digit(y, magnitudes) for table in atoms if table.op == "gather" for y in table.operands]
    inner = [d for d in indices if d is not None and d.unit]
    others = [_digit(y, magnitudes) for y in atoms] if inner else []
    return [*inner, *(d for d in others if d is not None and d.unit)]


def _digit(x: Node, magnitudes: Magnitudes) -> Digit | None:
    """x as a digit of i or j."""
    if x.op in ("floordiv", "mod") and is_uniform(x.operands[1]):
        inner = _digit(x.operands[0], magnitudes)
        if inner is None:
            return None
        if x.op == "mod":
            return replace(inner, depth=inner.depth + 1)
        return replace(inner, unit=(*inner.unit, x.operands[1]))
    form = affine(x, magnitudes)
    indices = [y for y in form if y is not None and not is_uniform(y)]
    if len(indices) != 1 or indices[0] not in (I, J) or form[indices[0]] != 1:
        return None
    return Digit(indices[0], total(plus(form, {indices[0]: 1}, -1)))


def _radix(d: Digit) -> Node:
    """After how many positions a digit begins anew."""
    result = const(1)
    for x in d.unit:
        result = op("mul", result, x)
    return result
