"""The classes of tiles for the inputs of a call, by the graph interpreter: of given tiles, and of all, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from attnc.interp import ELEMENTWISE, Array, Inputs, Interpreter, Value, align, canonical
from attnc.ir.graph import Node, const, node, substitute, topological
from attnc.passes.bound import corner
from attnc.passes.canonicalise import is_const
from attnc.passes.cuts import UNITS, Cut
from attnc.tile.program import Keys

BOXES = 1 << 16  # judged at once, so that the arrays of a graph's nodes stay small
FOUND = 1 << 22  # runs of tiles that are kept before neighbours are joined
Runs = tuple[Array, Array, Array, Array]  # row, first, last, full
FANOUT = 8  # a block of tiles that is neither empty nor full is split into so many


class Classifier:
    """Judges tiles of a sweep for the inputs of a call."""

    def __init__(
        self, keys: Keys, inputs: Inputs, dtype: Any = np.float64, rules: Mapping[str, Callable[..., Any]] = ELEMENTWISE
    ) -> None:
        self.inputs, self.dtype, self.rules = inputs, dtype, rules
        # One tile after the other takes the place of the axis b; its boxes vary over i and j.
        self.leaves = {node("index", name=name): _leaf(name, "b") for name in "bh"}
        self.leaves |= {corner(f"{axis}{end}"): _leaf(f"{axis}{end}", "b", axis) for axis in "ij" for end in "01"}
        possible = const(True) if keys.run else keys.possible
        certain = keys.certain if keys.full and keys.partial else const(bool(keys.full))
        graphs = possible, certain, *(keys.run or ())
        self.possible, self.certain, *self.run = substitute(graphs, self.leaves)
        self.implied = keys.implied
        self.cuts = {"i": self._cut(keys.cut_i), "j": self._cut(keys.cut_j)}
        self.apart = {axis: cut is not None and cut.apart for axis, cut in (("i", keys.cut_i), ("j", keys.cut_j))}
        everything = [*graphs, *(x for cut in (keys.cut_i, keys.cut_j) if cut for x in (cut.shift, *cut.radices))]
        self.reads = {x["name"] for x in topological(everything) if x.op == "index"}
        self.limit = max(1, BOXES // prod(max(2 * len(cut) - 1, 1) for cut in self.cuts.values()))  # one is the shift

    def _cut(self, cut: Cut | None) -> tuple[Node, ...]:
        """The shift and the radices; () without a cut."""
        return () if cut is None else substitute([cut.shift, *cut.radices], self.leaves)

    def __call__(self, b: Array, h: Array, i0: Array, i1: Array, j0: Array, j1: Array) -> tuple[Array, Array]:
        """Whether each tile is not empty, and whether its full body runs: flat integer arrays in, flat bool arrays out."""
        tiles = [np.asarray(x, np.int64) for x in (b, h, i0, i1, j0, j1)]
        places = range(0, max(len(tiles[0]), 1), self.limit)
        parts = [self._judge(*(x[start : start + self.limit] for x in tiles)) for start in places]
        possible, certain = (np.concatenate(column) for column in zip(*parts, strict=True))
        return possible, certain

    def _judge(self, b: Array, h: Array, i0: Array, i1: Array, j0: Array, j1: Array) -> tuple[Array, Array]:
        heads = {"b": b, "h": h}
        ends = (*self._boxes("i", i0, i1, heads), *self._boxes("j", j0, j1, heads))
        corners = dict(zip(("i0", "i1", "j0", "j1"), ends, strict=True))
        possible, certain = self._values([self.possible, self.certain], {**heads, **corners})
        some: Array = np.any(possible, axis=(1, 2))
        every: Array = np.all(certain, axis=(1, 2))
        if self.run:
            first, last = self.rows(b, h, i0, i1)
            some = (first <= last) & (j0 <= last) & (first <= j1)
        return some, every

    def rows(self, b: Array, h: Array, i0: Array, i1: Array) -> list[Array]:
        """The first and last key of each tile of rows, of a sweep with a run."""
        found = self._values(self.run, {"b": b, "h": h, "i0": i0[:, None], "i1": i1[:, None]})
        return [x[:, 0, 0] for x in found]

    def _boxes(self, axis: str, first: Array, last: Array, heads: Mapping[str, Array]) -> tuple[Array, Array]:
        if not self.cuts[axis]:
            return first[:, None], last[:, None]
        shift, *radices = (x[:, 0, 0] for x in self._values(self.cuts[axis], heads))
        return boxes(first, last, shift, radices, self.apart[axis])

    def _values(self, graphs: Sequence[Node], ends: Mapping[str, Array]) -> list[Array]:
        """Values of uniform graphs, (tiles, boxes of i, boxes of j)."""
        known = [leaf for leaf in self.leaves.values() if leaf["name"] in ends]
        bindings = {leaf: Value(ends[leaf["name"]], canonical(leaf.axes)) for leaf in known}
        run = Interpreter(self.inputs, self.dtype, 0, 1, bindings=bindings, rules=self.rules)
        found = [align(x, ("b", "i", "j")) for x in run.run(tuple(graphs))]
        return [np.broadcast_to(x, (len(ends["b"]), *x.shape[1:])) for x in found]


def _leaf(name: str, *axes: str) -> Node:
    return node("value", name=name, axes=axes, kind="int")


def classify(
    keys: Keys, inputs: Inputs, b: Array, h: Array, i0: Array, i1: Array, j0: Array, j1: Array
) -> tuple[Array, Array]:
    """(possible, certain) of tiles [i0, i1] x [j0, j1] of heads (b, h), all flat integer arrays of one length."""
    return Classifier(keys, inputs)(b, h, i0, i1, j0, j1)


def boxes(
    first: Array, last: Array, shift: Array, radices: Sequence[Array], apart: bool = False
) -> tuple[Array, Array]:
    """Where the boxes of each range [first, last] begin and end (`attnc.passes.cuts`): two arrays (ranges, boxes).

    A range of fewer boxes than others repeats its last one.
    """
    starts: list[Array] = []
    ends: list[Array] = []
    start = first
    while True:
        x, end = start + shift, last + shift
        split = np.ones(len(first), np.bool_)
        for radix in (np.maximum(r, 1) for r in reversed(radices)):
            whole = split & (x % radix == 0) & (x + radix - 1 <= end)
            inside = np.where(split, np.minimum(end, x // radix * radix + radix - 1), end)
            end = np.where(whole, (end + 1) // radix * radix - 1, inside)
            split &= ~whole
        if apart:
            unit = np.maximum(radices[0], 1)
            single = (x % unit == 0) & (end - x + 1 >= unit) & ((end - x + 1) // unit <= UNITS)
            end = np.where(single, x + unit - 1, end)
        end = np.maximum(end, x) - shift  # a radix near 2**63 overflows
        starts.append(start)
        ends.append(end)
        if (end >= last).all():
            return np.stack(starts, axis=1), np.stack(ends, axis=1)
        start = np.where(end < last, end + 1, start)


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of tiles, numbered (b * heads + h) * (tiles of rows) + i over the heads that are judged.

    shape: (B, H, tiles of rows, tiles of keys). judged: (B or 1, H or 1); the classes of the other heads are the same.
    """

    shape: tuple[int, int, int, int]
    judged: tuple[int, int]

    @property
    def rows(self) -> int:
        """How many there are."""
        return prod(self.judged) * self.shape[2]

    @property
    def alike(self) -> int:
        """How many heads each judged one stands for."""
        return prod(self.shape[:2]) // prod(self.judged)

    def place(self, row: Array) -> tuple[Array, Array, Array]:
        """b, h and i of rows."""
        heads, n = self.judged[1], self.shape[2]
        return row // (n * heads), row // n % heads, row % n


@dataclass(frozen=True, slots=True)
class Visited:
    """The tiles of a sweep that are not empty: in a row of the grid, tiles first..last are full, or partial.

    Ordered by row and first; neighbours of one class are one run. full: whether the full body runs.
    """

    grid: Grid
    row: Array
    first: Array
    last: Array
    full: Array

    def count(self, full: bool) -> int:
        """How many tiles, over all heads, are full (or partial)."""
        here = self.full == full
        return int((self.last[here] - self.first[here] + 1).sum()) * self.grid.alike

    def tiles(self) -> tuple[Array, Array, Array, Array, Array]:
        """Every tile: b, h, i, j and full, ordered by the first four."""
        length = self.last - self.first + 1
        b, h, i = self.grid.place(np.repeat(self.row, length))
        begin = np.repeat(np.cumsum(length) - length, length)
        j, full = np.repeat(self.first, length) + np.arange(len(b)) - begin, np.repeat(self.full, length)
        for axis, (judged, extent) in enumerate(zip(self.grid.judged, self.grid.shape, strict=False)):
            if judged == 1 < extent:
                n = len(j)
                other = np.repeat(np.arange(extent), n)
                b, h, i, j, full = (np.tile(x, extent) for x in (b, h, i, j, full))
                b, h = (other, h) if axis == 0 else (b, other)
        order = np.lexsort((j, i, h, b))
        return b[order], h[order], i[order], j[order], full[order]


def survey(keys: Keys, inputs: Inputs, tile: tuple[int, int]) -> Visited:
    """The tiles of `tile` (rows, keys) that are not empty.

    It begins with whole rows of tiles, drops blocks that are empty, keeps blocks that are full, and splits the others: no
    array of all tiles is made. Where no condition reads b (or h), one of them is looked at.
    """
    x, judge = inputs.extents, Classifier(keys, inputs)
    shape = (x["batch"], x["heads"], -(-x["q_len"] // tile[0]), -(-x["kv_len"] // tile[1]))
    grid = Grid(shape, (shape[0] if "b" in judge.reads else 1, shape[1] if "h" in judge.reads else 1))
    walk = _Walk(grid, judge, tile)
    found: list[Runs] = [(*(np.zeros(0, np.int64) for _ in range(3)), np.zeros(0, np.bool_))]  # type: ignore[list-item]
    count, limit = 0, FOUND
    for start in range(0, grid.rows if shape[3] else 0, BOXES):
        for runs in walk.run(np.arange(start, min(start + BOXES, grid.rows))):
            found.append(runs)
            count += len(runs[0])
            if count > limit:
                found = [_joined(found)]
                count = len(found[0][0])
                limit = max(FOUND, 2 * count)
    return Visited(grid, *_joined(found))


def visit(keys: Keys, inputs: Inputs, tile: tuple[int, int]) -> tuple[Array, Array, Array, Array, Array]:
    """b, h, i, j and full of every tile that is not empty."""
    return survey(keys, inputs, tile).tiles()


def _joined(runs: Sequence[Runs]) -> Runs:
    """Runs in order, neighbours of one class as one."""
    row, first, last, full = (np.concatenate(column) for column in zip(*runs, strict=True))
    order = np.lexsort((first, row))
    row, first, last, full = row[order], first[order], last[order], full[order]
    new = np.ones(len(row), np.bool_)
    new[1:] = (row[1:] != row[:-1]) | (full[1:] != full[:-1]) | (first[1:] != last[:-1] + 1)
    end = np.ones(len(row), np.bool_)
    end[:-1] = new[1:]
    return row[new], first[new], last[end], full[new]


class _Walk:
    """From rows of the grid to runs of one class. A block is (row, first tile, last tile)."""

    def __init__(self, grid: Grid, judge: Classifier, tile: tuple[int, int]) -> None:
        self.grid, self.judge, self.tile, self.extents = grid, judge, tile, judge.inputs.extents
        # every tile of a row, or of its run, is partial
        self.plain = is_const(judge.possible, True) and is_const(judge.certain, False)

    def run(self, row: Array) -> Iterator[Runs]:
        """The runs (row, first, last, full) of these rows, in no order."""
        span = FANOUT
        while span < self.grid.shape[3]:
            span *= FANOUT
        first, last = self._ends(row)
        some = first <= last
        row, first, last = row[some], first[some], last[some]
        if self.plain:
            yield row, first, last, np.zeros(len(row), np.bool_)
            return
        stack = [(span, row, first, last)]
        while stack:
            span, row, first, last = stack.pop()
            if len(row) > self.judge.limit:
                half = len(row) // 2
                stack += [(span, row[part], first[part], last[part]) for part in (slice(half, None), slice(half))]
                continue
            possible, certain = self._judged(row, first, last)
            done = possible & (certain & self.judge.implied | (first == last))
            yield row[done], first[done], last[done], certain[done]
            rest = possible & ~done
            if rest.any():
                stack.append((span // FANOUT, *_split(row[rest], first[rest], last[rest], span // FANOUT)))

    def _rows(self, row: Array) -> tuple[Array, Array, Array, Array]:
        b, h, i = self.grid.place(row)
        return b, h, i * self.tile[0], np.minimum((i + 1) * self.tile[0], self.extents["q_len"]) - 1

    def _ends(self, row: Array) -> tuple[Array, Array]:
        """The first and last tile of each row of tiles that may not be empty."""
        length = self.extents["kv_len"]
        if not self.judge.run:
            return np.zeros_like(row), np.full_like(row, self.grid.shape[3] - 1)
        first, last = self.judge.rows(*self._rows(row))
        some = (first <= last) & (last >= 0) & (first < length)
        first, last = np.maximum(first, 0) // self.tile[1], np.minimum(last, length - 1) // self.tile[1]
        return first, np.where(some, last, first - 1)

    def _judged(self, row: Array, first: Array, last: Array) -> tuple[Array, Array]:
        stop = np.minimum((last + 1) * self.tile[1], self.extents["kv_len"])
        return self.judge(*self._rows(row), first * self.tile[1], stop - 1)


def _split(row: Array, first: Array, last: Array, span: int) -> tuple[Array, Array, Array]:
    """Blocks cut at the multiples of `span`."""
    low = first // span
    count = last // span - low + 1
    begin = np.repeat(np.cumsum(count) - count, count)
    piece = (np.repeat(low, count) + np.arange(len(begin)) - begin) * span
    return (
        np.repeat(row, count),
        np.maximum(np.repeat(first, count), piece),
        np.minimum(np.repeat(last, count), piece + span - 1),
    )
