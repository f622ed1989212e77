"""The tile map of a call as an object: which tiles a sweep skips, runs without the mask, and runs with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnc.compile import Problem, fuse
from attnc.dsl.place import here
from attnc.dsl.signature import Signature
from attnc.errors import ShapeError
from attnc.figure import new_figure
from attnc.interp import Array, Inputs
from attnc.ir.graph import Graph
from attnc.passes.plan_sweeps import Accumulator
from attnc.tile.program import Keys, Program
from attnc.tile.regions import Visited, survey
from attnc.tile.waste import Waste, live, waste

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE = 1 << 28  # entries of a dense map
CHARACTERS, PIXELS = 64, 512  # at most so many a side
MIXED = 3  # beside 0 empty, 1 partial, 2 full: a cell of several tiles that are not alike
NAMES = ("empty", "partial", "full", "several classes")
LETTERS = ".▒█░"
COLOURS = ("0.93", "tab:orange", "tab:blue", "tab:cyan")


@dataclass(frozen=True)
class BlockMap:
    """The classes of all tiles of one sweep of a variant, for the inputs of one call.

    tile: rows and keys of a tile. lengths: (Lq, Lk). shape: (B, Hq, tiles of rows, tiles of keys). Empty tiles are skipped;
    full ones run without the mask; partial ones run with it. All counts are Python integers, over all batches and heads.
    """

    name: str
    sweep: int
    tile: tuple[int, int]
    lengths: tuple[int, int]
    runs: Visited = field(repr=False)
    measure: Callable[[], Waste] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, Hq, tiles of rows, tiles of keys)."""
        return self.runs.grid.shape

    @property
    def total(self) -> int:
        """How many tiles there are."""
        return prod(self.shape)

    @cached_property
    def full(self) -> int:
        """Tiles whose mask is proved true."""
        return self.runs.count(True)

    @cached_property
    def partial(self) -> int:
        """Tiles whose mask is evaluated."""
        return self.runs.count(False)

    @property
    def visited(self) -> int:
        """Tiles that are computed: full and partial."""
        return self.full + self.partial

    @property
    def empty(self) -> int:
        """Tiles that are skipped."""
        return self.total - self.visited

    @property
    def sparsity(self) -> float:
        """The share of tiles that are empty."""
        return self.empty / self.total if self.total else 0.0

    @cached_property
    def waste(self) -> Waste:
        """What the dense mask is on the partial tiles, or where there are many, on some at fixed places (`exact` says)."""
        return self.measure()

    @property
    def wasted(self) -> float:
        """The share of masked pairs inside partial tiles: the work that smaller tiles would save."""
        return self.waste.share

    def to_dense(self) -> Array:
        """The classes, int8 (B, Hq, tiles of rows, tiles of keys): 0 empty, 1 partial, 2 full.

        ShapeError: there are more than 2**28 tiles.
        """
        if self.total > DENSE:
            raise ShapeError(
                f"{self.total} tiles are too many for a dense map",
                where=here(),
                cause=f"its shape would be {self.shape}, at most {DENSE} entries",
                cure="look at the counts, the text or the picture, or choose larger tiles",
            )
        r, (batch, heads, rows, columns) = self.runs, self.shape
        steps = np.zeros((r.grid.rows, columns + 1), np.int8)
        np.add.at(steps, (r.row, r.first), _code(r.full))
        np.add.at(steps, (r.row, r.last + 1), -_code(r.full))
        found = np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].reshape(*r.grid.judged, rows, columns)
        return np.broadcast_to(found, (batch, heads, rows, columns)).copy()

    def cells(self, side: int, b: int = 0, h: int = 0) -> Array:
        """The map of one head in at most side x side cells, int8: 0 empty, 1 partial, 2 full, 3 where its tiles differ."""
        start, n = self._head(b, h), self.shape[2]
        part = slice(*np.searchsorted(self.runs.row, [start, start + n]))
        row, first, last, full = (
            x[part] for x in (self.runs.row - start, self.runs.first, self.runs.last, self.runs.full)
        )
        high, wide = self._scale(side)
        counts = np.zeros((-(-n // high), -(-self.shape[3] // wide), 2))
        for column in range(counts.shape[1]):
            inside = np.minimum(last, (column + 1) * wide - 1) - np.maximum(first, column * wide) + 1
            np.add.at(counts[:, column], (row // high, full.astype(np.int64)), np.maximum(inside, 0))
        tall = np.diff(np.minimum(np.arange(len(counts) + 1) * high, n))[:, None]
        area = tall * np.diff(np.minimum(np.arange(counts.shape[1] + 1) * wide, self.shape[3]))
        partial, whole = counts[..., 0], counts[..., 1]
        none = partial + whole == 0
        return np.select([none, partial == area, whole == area], [0, 1, 2], MIXED).astype(np.int8)

    def text(self, b: int = 0, h: int = 0) -> str:
        """A line of counts, and the map of one head in at most 64 x 64 characters: █ full, ▒ partial, . empty."""
        cells = self.cells(CHARACTERS, b, h)
        high, wide = self._scale(CHARACTERS)
        legend = ", ".join(f"{LETTERS[code]} {NAMES[code]}" for code in np.unique(cells))
        scale = "" if high == wide == 1 else f"; a character is {high} x {wide} tiles"
        lines = [self.headline, f"b = {b}, h = {h}: {legend or 'no keys'}{scale}"]
        return "\n".join([*lines, *("".join(LETTERS[code] for code in row) for row in cells)])

    @property
    def headline(self) -> str:
        """The counts in words."""
        return (
            f"{self.name}, sweep {self.sweep}: {self.visited} of {self.total} tiles of {self.tile[0]} x {self.tile[1]} visited "
            f"({self.full} full, {self.partial} partial), {self.sparsity:.1%} empty"
        )

    def __str__(self) -> str:
        return self.text()

    def draw(self, path: str | Path | None = None, b: int = 0, h: int = 0) -> Figure:
        """Draw the map of one head, in at most 512 x 512 cells, and save it where a path is given. Returns the figure.

        AttncError: matplotlib is missing.
        """
        figure = new_figure(6.5, 5.5)
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        axes = figure.subplots()
        cells = self.cells(PIXELS, b, h)
        high, wide = (n * step for n, step in zip(self._scale(PIXELS), self.tile, strict=True))
        axes.imshow(
            cells, cmap=ListedColormap(COLOURS), vmin=0, vmax=MIXED, interpolation="nearest", aspect="auto",
            extent=(0, max(cells.shape[1], 1) * wide, len(cells) * high, 0),
        )  # fmt: skip
        axes.set(xlim=(0, max(self.lengths[1], 1)), ylim=(self.lengths[0], 0))
        axes.set_xlabel("keys j")
        axes.set_ylabel("queries i")
        axes.set_title(self.headline, fontsize=8)
        patches = [Patch(facecolor=COLOURS[code], label=NAMES[code]) for code in np.unique(cells)]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(NAMES), fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _scale(self, side: int) -> tuple[int, int]:
        """Tiles a cell is high and wide where at most `side` cells fit."""
        rows, columns = (max(-(-n // side), 1) for n in self.shape[2:])
        return rows, columns

    def _head(self, b: int, h: int) -> int:
        """The first row of a head in the grid."""
        batch, heads = self.shape[:2]
        if not (0 <= b < batch and 0 <= h < heads):
            raise ShapeError(
                f"no head b = {b}, h = {h}",
                where=here(),
                cause=f"there are {batch} batches of {heads} heads",
                cure="count both from 0",
            )
        grid = self.runs.grid
        return (min(b, grid.judged[0] - 1) * grid.judged[1] + min(h, grid.judged[1] - 1)) * grid.shape[2]


def _code(full: Array) -> Array:
    return np.where(full, 2, 1).astype(np.int8)


def block_map(name: str, keys: Keys, sweep: Sequence[Accumulator], inputs: Inputs, tile: tuple[int, int]) -> BlockMap:
    """The map of a sweep, given as its tile program and as its plan."""
    runs = survey(keys, inputs, tile)
    if keys.open:  # the body of certain tiles still evaluates the masks that are not decided
        runs = replace(runs, full=np.zeros_like(runs.full))
    lengths = inputs.extents["q_len"], inputs.extents["kv_len"]
    return BlockMap(name, keys.number, tile, lengths, runs, lambda: waste(live(sweep), inputs, runs, tile))


def blocks(
    graph: Graph, program: Program, problem: Problem, inputs: Inputs, tile: object = None, sweep: object = 0
) -> BlockMap:
    """The map of sweep number `sweep`, by default in the tiles of the kernel."""
    chosen = (problem.chosen.rows, problem.chosen.keys) if tile is None else _checked(tile)
    sweeps = program.sweeps
    if not isinstance(sweep, int) or not 0 <= sweep < len(sweeps):
        raise ShapeError(
            f"{graph.name} has no sweep {sweep!r}",
            where=here(),
            cause=f"it sweeps the keys {len(sweeps)} times" if sweeps else "it reads no keys",
            cure="number them from 0; explain lists them",
        )
    return block_map(graph.name, sweeps[sweep], fuse(graph).sweeps[sweep], inputs, chosen)


def no_values(k: Array, signature: Signature, operands: Mapping[str, Any]) -> Array:
    """A V of zeros that takes no memory, as wide as the operands along e want it."""
    tensors = [x for x in signature.operands.values() if x.role == "tensor" and "e" in x.axes and x.name in operands]
    widths = [np.shape(operands[x.name])[x.axes.index("e") :][:1] for x in tensors]
    return np.broadcast_to(np.zeros((), k.dtype), (*k.shape[:-1], *(widths[0] if widths and widths[0] else (1,))))


def _checked(tile: object) -> tuple[int, int]:
    """`tile` as rows and keys."""
    if isinstance(tile, tuple | list) and len(tile) == 2:
        rows, keys = tile
        if all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in (rows, keys)):
            return int(rows), int(keys)
    raise ShapeError(
        f"tile = {tile!r}",
        where=here(),
        cause="a tile is (rows, keys), both integers from 1 up",
        cure="write tile=(64, 128)",
    )
