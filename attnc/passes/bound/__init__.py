"""What a mask can be on a whole tile, from the tile's corners: an analysis that yields scalar graphs.

For a mask m over i in [i0, i1] and j in [j0, j1] `bound` gives two graphs: `possible` (false proves m false everywhere: the tile is
empty) and `certain` (true proves m true everywhere: the tile is full). Unknown is always sound: possible = true, certain = false.
m is certain where its opposite is not possible, so that there is one analysis: can any clause of a mask hold (`solve`)?
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from attnc.ir.graph import Node, const
from attnc.passes.bound import floats, integers, logic
from attnc.passes.bound.affine import Magnitudes, is_uniform
from attnc.passes.bound.box import ZERO, Box, both, corner, either, negated
from attnc.passes.bound.clauses import TooMany, clauses
from attnc.passes.bound.solve import END, Solution, solve
from attnc.passes.bound.wraps import cuts
from attnc.passes.cuts import Cut
from attnc.passes.fold import op

RULES = {"bool": logic.RULES, "int": integers.RULES, "float": floats.RULES, "uniform": integers.UNIFORM}


Ends = tuple[Node, Node]


@dataclass(frozen=True, slots=True)
class Possible:
    """Whether a mask can hold in a tile, a scalar graph over the corner values i0, i1, j0, j1.

    run: first and last key, over i0 and i1, of the keys for which it can hold. hull: the same, with others between.
    """

    holds: Node
    run: Ends | None = None
    hull: Ends | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """`possible` and `certain` in the boxes into which `cut_i` and `cut_j` split tiles; run and hull as of `Possible`."""

    possible: Node
    certain: Node
    cut_i: Cut | None = None
    cut_j: Cut | None = None
    run: Ends | None = None
    hull: Ends | None = None


def bound(mask: Node) -> Bound:
    """The bound of a boolean node."""
    found = possible(mask)
    return Bound(found.holds, negated(possible(mask, False).holds), *cuts([mask]), found.run, found.hull)


def possible(mask: Node, positive: bool = True) -> Possible:
    """Whether a mask, or its opposite, can hold in a tile."""
    return _possible(mask, positive, Magnitudes())


def _possible(x: Node, positive: bool, magnitudes: Magnitudes) -> Possible:
    try:
        found = clauses(x, positive, magnitudes)
    except TooMany:
        return Possible(_apart(x, positive, magnitudes))
    solutions = [solve(c, RULES, magnitudes) for c in found]
    result = const(False)
    for s in solutions:
        result = either(result, s.holds)
    if len(solutions) == 1 and solutions[0].exact and result.op != "const":
        return Possible(result, run=(solutions[0].first, solutions[0].last))
    return Possible(result, hull=_hull(solutions))


def _hull(solutions: list[Solution]) -> Ends | None:
    """The keys from the first of any clause to the last of any; None where these are all keys."""
    firsts, lasts = list(dict.fromkeys(s.first for s in solutions)), list(dict.fromkeys(s.last for s in solutions))
    if not solutions or (ZERO in firsts and END in lasts):
        return None
    first = ZERO if ZERO in firsts else reduce(lambda a, b: op("minimum", a, b), firsts)
    last = END if END in lasts else reduce(lambda a, b: op("maximum", a, b), lasts)
    return first, last


def _apart(x: Node, positive: bool, magnitudes: Magnitudes) -> Node:
    """A mask with too many clauses: its parts one by one."""
    if x.op == "not":
        return _possible(x.operands[0], not positive, magnitudes).holds
    if x.op in ("and", "or") and not is_uniform(x):
        a, b = (_possible(y, positive, magnitudes).holds for y in x.operands)
        return both(a, b) if (x.op == "and") == positive else either(a, b)
    box = Box(RULES, magnitudes)
    found = box.interval(x)
    if found is None:
        return const(True)
    return either(found.high if positive else negated(found.low), negated(box.modest()))


__all__ = ["END", "ZERO", "Bound", "Ends", "Possible", "both", "bound", "corner", "cuts", "negated", "possible"]
