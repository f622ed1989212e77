"""Whether the query heads of a group can share a tile of rows, so that a key-value head is read once for all of them."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.ir.graph import Node
from attnc.tile.program import FeatureReduce, Keys, Load, Program


def shares(program: Program) -> bool:
    """Whether nothing that a tile's rows have in common depends on the query head: no question about tiles of keys (a mask of
    its own for each head), and no number or vector of a key. What belongs to a row or a pair may."""
    return not any("h" in x.axes for x in _common(program) if x.op != "role")


def by_head(program: Program) -> bool:
    """Whether queries are projected by a matrix of their own for each head."""
    return any(
        isinstance(s, Load) and s.graph.op == "project" and "h" in s.graph.operands[1].axes for s in program.steps
    )


def obstacle(program: Program) -> str:
    """Why heads of a group do not share a tile of a CPU kernel; "" where they do."""
    if by_head(program):
        return "queries are projected by a matrix of their own for each head"
    if shares(program):
        return ""
    asked = any("h" in x.axes for keys in program.sweeps for x in _questions(keys))
    return (
        "which tiles of keys are empty depends on the head"
        if asked
        else "what is computed for a key has a head of its own"
    )


def _common(program: Program) -> Iterable[Node]:
    for keys in program.sweeps:
        yield from _questions(keys)
    for s in program.statements():
        match s:
            case FeatureReduce(axes="j") | Load(side="j"):
                yield s.graph


def _questions(keys: Keys) -> Iterable[Node]:
    yield from (keys.possible, keys.certain, *(keys.run or ()), *(keys.hull or ()))
    for cut in (keys.cut_i, keys.cut_j):
        if cut is not None:
            yield from (cut.shift, *cut.radices)
