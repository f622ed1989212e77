"""The work that is wasted inside partial tiles: their pairs that the mask, evaluated densely there, turns out to exclude."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from attnc.interp import Array, Inputs, Interpreter, Value, align, canonical
from attnc.ir.graph import Node, const, node, substitute, topological
from attnc.ir.ops import INDEX_AXES
from attnc.passes.bound.affine import is_positional
from attnc.passes.fold import op
from attnc.passes.plan_sweeps import Accumulator
from attnc.passes.term import conjuncts
from attnc.tile.classes import alive
from attnc.tile.regions import Visited

LOOKED = 2048  # partial tiles that are evaluated; of more, these many at fixed places
SIDE = 512  # rows and keys of a tile that are evaluated; of more, these many, evenly spaced
PAIRS = 1 << 21  # at once


@dataclass(frozen=True, slots=True)
class Waste:
    """What the partial tiles that were looked at hold.

    pairs, and of them those that are masked. tiles: how many were looked at, and of them those that are in truth all masked
    or all live. exact: whether every pair of every partial tile was looked at (heads that are alike count once).
    """

    pairs: int
    masked: int
    tiles: int
    uniform: int
    exact: bool

    @property
    def share(self) -> float:
        """The share of pairs that are masked; 0 where there are no partial tiles."""
        return self.masked / self.pairs if self.pairs else 0.0


def live(sweep: Iterable[Accumulator]) -> Node:
    """The mask of a sweep, as far as positions decide it: outside of it a pair adds nothing."""
    result = const(False)
    for a in sweep:
        here = const(True)
        for c in filter(is_positional, conjuncts(alive(a))):
            here = op("and", here, c)
        result = op("or", result, here)
    return result


def waste(mask: Node, inputs: Inputs, visited: Visited, tile: tuple[int, int]) -> Waste:
    """Evaluate `mask` on the partial tiles of `visited`, which are `tile` (rows, keys) large."""
    leaves = {node("index", name=name): _leaf(name) for name in INDEX_AXES}
    (graph,) = substitute([mask], leaves)
    read = {x["name"] for x in topological([mask]) if x.op == "index"}
    b, h, i, j, total = _partial(visited, read)
    rows, columns = _places(tile[0]), _places(tile[1])
    step = max(1, PAIRS // (len(rows) * len(columns)))
    pairs = masked = uniform = 0
    for start in range(0, len(b), step):
        part = slice(start, start + step)
        ends = {"b": b[part], "h": h[part], "i": i[part, None] * tile[0] + rows, "j": j[part, None] * tile[1] + columns}
        values = {x: Value(ends[x["name"]], canonical(x.axes)) for x in leaves.values()}
        (found,) = Interpreter(inputs, np.float64, 0, 1, bindings=values).run([graph])
        inside = (ends["i"] < inputs.extents["q_len"])[:, :, None] & (ends["j"] < inputs.extents["kv_len"])[:, None]
        count, holds = inside.sum(axis=(1, 2)), (inside & align(found, ("b", "i", "j"))).sum(axis=(1, 2))
        pairs += int(count.sum())
        masked += int((count - holds).sum())
        uniform += int(((holds == 0) | (holds == count)).sum())
    exact = total == len(b) and len(rows) == tile[0] and len(columns) == tile[1]
    return Waste(pairs, masked, len(b), uniform, exact)


def _leaf(name: str) -> Node:
    """An index of a batch of tiles, which takes the place of the axis b."""
    return node("value", name=name, axes=("b", name) if name in "ij" else ("b",), kind="int")


def _places(n: int) -> Array:
    """Rows or keys of a tile that are evaluated."""
    return np.arange(n) if n <= SIDE else np.arange(SIDE) * n // SIDE


def _partial(visited: Visited, read: set[str]) -> tuple[Array, Array, Array, Array, int]:
    """b, h, i, j of LOOKED partial tiles or of all, and how many there are, heads that differ for the mask counted apart."""
    grid = visited.grid
    here = ~visited.full
    row, first, length = visited.row[here], visited.first[here], (visited.last - visited.first + 1)[here]
    end = np.cumsum(length)
    n = int(end[-1]) if len(end) else 0
    batch, heads = (
        extent if axis in read and judged == 1 else 1
        for axis, extent, judged in zip("bh", grid.shape, grid.judged, strict=False)
    )
    total = n * batch * heads
    number = np.arange(min(total, LOOKED))
    if total > LOOKED:  # one in each of LOOKED stretches, so that no regular pattern is hit or missed
        place = (number + np.random.default_rng(0).random(LOOKED)) * (total / LOOKED)
        number = np.minimum(place.astype(np.int64), total - 1)
    head, number = number // max(n, 1), number % max(n, 1)
    run = np.searchsorted(end, number, side="right")
    b, h, i = grid.place(row[run])
    j = first[run] + number - (end - length)[run]
    return b + head // heads, h + head % heads, i, j, total
