"""Which tiles of keys a sweep can skip, and which need no mask: the classes empty, full and partial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnc.interp import MASKED
from attnc.ir.graph import Node, const, rewrite, substitute
from attnc.passes.bound import Ends, both, cuts, negated, possible
from attnc.passes.canonicalise import is_const
from attnc.passes.cuts import Cut
from attnc.passes.expand import feature_axes
from attnc.passes.finite import is_finite
from attnc.passes.fold import fold_node, op
from attnc.passes.plan_sweeps import Accumulator
from attnc.passes.term import conjuncts, factors

NEGLIGIBLE = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}


@dataclass(frozen=True, slots=True)
class Classes:
    """`possible` false: the tile contributes nothing. `certain`: every mask in `decided` is true on the whole tile.

    Both are asked of the boxes into which the cuts split a tile. `run`, `hull`, `implied`: see `Keys`.
    """

    possible: Node
    certain: Node
    decided: frozenset[Node]
    cut_i: Cut | None
    cut_j: Cut | None
    run: Ends | None
    hull: Ends | None
    implied: bool


def conditions(x: Node | None, nothing: float) -> list[Node]:
    """Masks without any of which x is `nothing`: where(c, y, nothing) needs c, and what y needs."""
    if x is None or x.op != "where":
        return [const(False)] if x is not None and is_const(x, nothing) else []
    c, yes, no = x.operands
    if is_const(no, nothing):
        return [*conjuncts(c), *conditions(yes, nothing)]
    if is_const(yes, nothing):
        low = c.op == "le" and is_const(c.operands[1], MASKED)  # a score can always be -inf: no mask of the user's
        return [*([] if low else [op("not", c)]), *conditions(no, nothing)]
    return []


def needs(a: Accumulator) -> list[Node]:
    """The masks without any of which a pair adds nothing to an accumulator, but for a NaN."""
    found = conditions(a.e, float("-inf"))
    if a.k is not None and a.how == "sum":
        found += [c for f in factors(a.k) for c in conditions(f, 0.0)] if a.skip_zero else conditions(a.k, 0.0)
    elif a.k is not None and a.k.dtype == "float":
        found += conditions(a.k, NEGLIGIBLE[a.how])
    return found


def zeroing(a: Accumulator) -> list[Node]:
    """Factors of a sum's terms whose 0 makes the term 0 whatever the others are: 0 * NaN is NaN.

    A weight that is 0 does so even to a NaN among the values, but only where no other factor of the weight may be one.
    """
    if a.k is None or a.how != "sum":
        return []
    if not a.skip_zero:
        return [a.k] if a.e is None else []
    weights = [f for f in factors(a.k) if not feature_axes(f)]
    return [f for f in weights if a.e is None and all(g is f or is_finite(g) for g in weights)]


def alive(a: Accumulator) -> Node:
    """A mask outside of which a pair adds nothing: its scores are masked, or its weight is 0."""
    found = conditions(a.e, float("-inf"))
    if a.k is not None and a.how != "sum" and a.k.dtype == "float":
        found += conditions(a.k, NEGLIGIBLE[a.how])
    found += [nonzero(f) for f in zeroing(a)]
    result = const(True)
    for c in dict.fromkeys(found):
        result = both(result, c)
    return result


def nonzero(x: Node) -> Node:
    """A mask outside of which a factor is exactly 0, in whatever precision it is computed."""
    match x.op:
        case "where":
            c, a, b = x.operands
            return op("or", both(c, nonzero(a)), both(op("not", c), nonzero(b)))
        case "mul" if x.operands[0] == x.operands[1]:
            return nonzero(x.operands[0])
        case "neg" | "abs" | "sign":
            return nonzero(x.operands[0])
        case "cast" if x.operands[0].dtype == "bool":
            return x.operands[0]
        case "cast" | "gather":
            return op("ne", x, const(0.0 if x.dtype == "float" else 0)) if not feature_axes(x) else const(True)
        case "maximum" if is_const(x.operands[1], 0.0):  # relu
            return op("not", op("le", *x.operands))
        case "minimum" if is_const(x.operands[1], 0.0):
            return op("not", op("le", x.operands[1], x.operands[0]))
        case "const":
            return const(x["value"] != 0)
    return const(True)


def classify(sweep: Iterable[Accumulator]) -> Classes:
    """The classes of a sweep's tiles."""
    sweep = list(sweep)
    mask = const(False)
    for a in sweep:
        mask = op("or", mask, alive(a))
    some = possible(mask)
    certain = const(True)
    decided: set[Node] = set()
    for condition in dict.fromkeys(c for a in sweep for c in needs(a)):
        refuted = possible(condition, False).holds
        if not is_const(refuted, True):
            decided.add(condition)
            certain = both(certain, negated(refuted))
    # what a tile still needs where `decided` holds: a weight that is not 0, or masks that are proved false but never true
    (rest,) = rewrite(substitute([mask], dict.fromkeys(decided, const(True))), fold_node)
    implied = is_const(possible(rest).holds, True)
    return Classes(some.holds, certain, frozenset(decided), *cuts([mask, *decided]), some.run, some.hull, implied)
