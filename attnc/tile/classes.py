"""Which tiles of keys a sweep can skip, and which need no mask: the classes empty, full and partial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnc.ir.graph import Node, const, node
from attnc.passes.bound import bound
from attnc.passes.canonicalise import is_const
from attnc.passes.expand import MASKED
from attnc.passes.fold import fold_node
from attnc.passes.plan_sweeps import Accumulator

NEGLIGIBLE = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}


@dataclass(frozen=True, slots=True)
class Classes:
    """`possible` false: the tile contributes nothing. `certain`: every mask in `decided` is true on the whole tile."""

    possible: Node
    certain: Node
    decided: frozenset[Node]


def _op(name: str, a: Node, b: Node) -> Node:
    return fold_node(node(name, a, b))


def conjuncts(x: Node) -> list[Node]:
    """a & b & c as a list."""
    return [y for operand in x.operands for y in conjuncts(operand)] if x.op == "and" and x.dtype == "bool" else [x]


def conditions(x: Node | None, nothing: float) -> list[Node]:
    """Masks without any of which x is `nothing`: where(c, y, nothing) needs c, and what y needs."""
    if x is None or x.op != "where":
        return []
    c, yes, no = x.operands
    if is_const(no, nothing):
        return [*conjuncts(c), *conditions(yes, nothing)]
    if is_const(yes, nothing):
        low = c.op == "le" and is_const(c.operands[1], MASKED)  # a score can always be -inf: no mask of the user's
        return [*([] if low else [fold_node(node("not", c))]), *conditions(no, nothing)]
    return []


def _factors(x: Node) -> list[Node]:
    return [y for operand in x.operands for y in _factors(operand)] if x.op == "mul" else [x]


def needs(a: Accumulator) -> list[Node]:
    """The masks without any of which a pair adds nothing to an accumulator."""
    found = conditions(a.e, float("-inf"))
    if a.k is not None and a.how == "sum":
        # 0 * NaN is NaN in a plain sum, so only a factor that stands alone can be skipped
        factors = _factors(a.k) if a.skip_zero else [a.k]
        found += [c for f in factors for c in conditions(f, 0.0)]
    elif a.k is not None and a.k.dtype == "float":
        found += conditions(a.k, NEGLIGIBLE[a.how])
    return found


def classify(sweep: Iterable[Accumulator]) -> Classes:
    """The classes of a sweep's tiles."""
    possible, certain = const(False), const(True)
    decided: set[Node] = set()
    for a in sweep:
        alive = const(True)
        for condition in needs(a):
            found = bound(condition)
            alive = _op("and", alive, found.possible)
            if not is_const(found.certain, False) and condition not in decided:
                decided.add(condition)
                certain = _op("and", certain, found.certain)
        possible = _op("or", possible, alive)
    return Classes(possible, certain, frozenset(decided))
