"""Prove that a table index is out of range at a live pair, from the extents, shapes and scalars of one call.

Two proofs, both by interval arithmetic. A *witness*: a pair where the index is outside and every condition above the
gather holds, so that the pair is live; it is sought at the corners (first and last b, h, i, j) and where the mask begins
on the edges from there. And *everywhere*: over all pairs the index lies wholly outside, and no condition above the
gather is known to be false. What is not proved is clamped, as the interpreter does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from attnc.errors import IndexRangeError
from attnc.ir.graph import Graph, Node
from attnc.passes.check_features import check_features
from attnc.passes.ranges import Number, Range, Ranges

_INDEX_EXTENT = {"b": "batch", "h": "heads", "i": "q_len", "j": "kv_len"}
_WAYS = 64  # ways from an output to a node that are looked at; fewer can only miss a proof


@dataclass(frozen=True, slots=True)
class Guard:
    """What must hold for a gather to matter: a condition, a score that is not masked, or a factor that is not 0."""

    want: Literal["true", "false", "live", "nonzero"]
    x: Node

    def holds(self, at: Ranges) -> tuple[bool, bool]:
        """Whether it surely holds at all pairs of `at`, and whether it possibly holds at some."""
        if self.want == "live":
            return at.live(self.x)
        if self.want == "nonzero":
            return at.nonzero(self.x)
        low, high = at.range(self.x)
        return (low == 1, high == 1) if self.want == "true" else (high == 0, low == 0)


Path = tuple[Guard, ...]


def check_ranges(
    graph: Graph, extents: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], scalars: Mapping[str, Number]
) -> None:
    """Refuse a call whose operands disagree about a feature axis, or that surely reads outside of a table.

    extents: batch, heads, q_len, kv_len, group, d, e. shapes: of the tensor operands. scalars: of the scalar operands.

    Raises:
        ShapeError: see `check_features`. IndexRangeError: an index is proved to be negative or too large at a pair that is live.
    """
    check_features(graph, shapes)
    found = [(x, paths) for x, paths in _gathers(graph).items() if x.operands]
    if not found or any(extents[name] == 0 for name in _INDEX_EXTENT.values()):
        return
    ends = {name: (0, extents[extent] - 1) for name, extent in _INDEX_EXTENT.items()}
    for x, paths in found:
        everywhere = Ranges(ends, extents, scalars, x)
        for position, index in enumerate(x.operands):
            n = shapes[x["name"]][position]
            whole = everywhere.range(index)
            if n == 1 or (whole.low >= 0 and whole.high < n):  # an axis of extent 1 is shared, whatever the index
                continue
            judge = _Judge(extents, scalars, x, index, n, paths)
            pair = next(filter(judge.outside, judge.live_pairs(ends)), None)
            if pair is not None:
                named = ", ".join(f"{a} = {pair[a]}" for a in "bhij" if a in index.axes)
                _refuse(x, position, n, judge.at(pair).range(index), f" at {named}" if named else "")
            if _outside(whole, n) and any(all(_may_hold(g, everywhere) for g in path) for path in paths):
                _refuse(x, position, n, whole, " at every pair")


Pair = dict[str, int]


@dataclass(frozen=True, slots=True)
class _Judge:
    """One index of one gather in one call."""

    extents: Mapping[str, int]
    scalars: Mapping[str, Number]
    gather: Node
    index: Node
    n: int
    paths: list[Path]

    def at(self, pair: Pair) -> Ranges:
        return Ranges({a: (p, p) for a, p in pair.items()}, self.extents, self.scalars, self.gather)

    def outside(self, pair: Pair) -> bool:
        return _outside(self.at(pair).range(self.index), self.n)

    def live(self, pair: Pair) -> bool:
        at = self.at(pair)
        return any(all(guard.holds(at)[0] for guard in path) for path in self.paths)

    def live_pairs(self, ends: Mapping[str, tuple[int, int]]) -> Iterator[Pair]:
        """Live pairs at or next to those corners where the index is outside."""
        conditions = {a for path in self.paths for guard in path for a in guard.x.axes}
        read = self.index.axes | conditions | {"i", "j"}  # what nothing reads is tried at its first value
        choices = {a: sorted({low, high}) if a in read else [low] for a, (low, high) in ends.items()}
        for point in itertools.product(*choices.values()):
            corner = dict(zip(choices, point, strict=True))
            if not self.outside(corner):
                continue
            if self.live(corner):
                yield corner
                continue
            for axis in "ij":
                if len(choices[axis]) == 2:
                    yield from self._first_live(corner, axis, sum(choices[axis]) - corner[axis])

    def _first_live(self, corner: Pair, axis: str, other: int) -> Iterator[Pair]:
        """By bisection, the pair next to the masked corner on the edge to `other`; none where that end is masked."""
        masked, live = corner[axis], other
        if not self.live({**corner, axis: live}):
            return
        while abs(live - masked) > 1:
            middle = (live + masked) // 2
            if self.live({**corner, axis: middle}):
                live = middle
            else:
                masked = middle
        yield {**corner, axis: live}


def _outside(x: Range, n: int) -> bool:
    return x.high < 0 or x.low >= n


def _may_hold(guard: Guard, everywhere: Ranges) -> bool:
    """A condition that differs from pair to pair may well hold at one; a flag of the whole call must be known."""
    surely, possibly = guard.holds(everywhere)
    return possibly if guard.x.axes & {"i", "j"} else surely


def _refuse(x: Node, position: int, n: int, value: Range, where: str) -> None:
    name, index = x["name"], x.operands[position]
    axis = x["dims"][position]
    is_ = f"is {value.low}" if value.low == value.high else f"lies between {value.low} and {value.high}"
    cure = f"pass a {name!r} with more entries along {axis!r}"
    if value.high < 0:
        cure = "shift the index so that it starts at 0 (a negative one does not count from the end)"
    raise IndexRangeError(
        f"an index of {name!r} is out of range",
        where=x.loc,
        cause=f"{index!r} {is_}{where}; {name!r} has {n} entries along {axis!r}, 0 to {n - 1}",
        cure=f"{cure}, clamp it with at.clip, or mask such pairs",
    )


def _gathers(graph: Graph) -> dict[Node, list[Path]]:
    """Every gather with the ways that lead to it from an output, each with the guards that it passes."""
    paths: dict[Node, dict[Path, None]] = {x: {(): None} for x in graph.outputs}
    for x in reversed(graph.nodes()):
        for position, operand in enumerate(x.operands):
            more = _guards(x, position)
            into = paths.setdefault(operand, {})
            into.update(dict.fromkeys((*path, *more) for path in itertools.islice(paths[x], _WAYS)))
            if () in into:
                paths[operand] = {(): None}
    return {x: sorted(found, key=len) for x, found in paths.items() if x.op == "gather"}


def _guards(x: Node, position: int) -> tuple[Guard, ...]:
    """What must hold at x for its operand at `position` to matter."""
    if x.op == "where":
        return (Guard("true" if position == 1 else "false", x.operands[0]),) if position else ()
    if x.op in ("softmax", "lse") and position == 0:
        masked = (Guard("true", x.operands[1]),) if x["masked"] else ()
        return (*masked, Guard("live", x.operands[0]))  # the mask first: it is the shorter expression
    if x.op in ("exp", "exp2", "sigmoid"):
        return (Guard("live", x.operands[0]),)
    if x.op == "mul" or (x.op == "attend" and position == 1):
        return (Guard("nonzero", x.operands[1 - position]),)
    if x.op in ("and", "or") and x.dtype == "bool":
        return (Guard("true" if x.op == "and" else "false", x.operands[1 - position]),)
    return ()
