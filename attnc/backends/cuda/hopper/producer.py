"""Emission of the producer: one warp that takes items from the queue, searches tiles of keys, and has them copied."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.backends.cuda.context import Context, Tile
from attnc.backends.cuda.hopper import queue
from attnc.backends.cuda.hopper.rings import FIRST, Ring
from attnc.backends.cuda.ptx import MAP
from attnc.backends.cuda.search import Search
from attnc.backends.cuda.tensor_map import TensorMap
from attnc.schedule.mma import Swizzled
from attnc.schedule.wgmma import Wgmma
from attnc.tile.program import Keys, Load


def box(ctx: Context, array: str, feature: str, shape: Swizzled, rows: int) -> str:
    """The map of an array in boxes of `rows` vectors: one panel each."""
    name = f"{array}{MAP}"
    found = TensorMap(name, array, feature, rows, shape.width // shape.itemsize)
    assert ctx.maps.setdefault(name, found) == found, f"internal error: {array} in boxes of two shapes"
    return name


def head(role: str) -> str:
    """Coordinates of the heads and the batch; an axis of stride 0 has one entry."""
    number = "h" if role == "q" else "floordiv(h, group)"
    return f"where(ne({role}_h, 0), {number}, 0), where(ne({role}_b, 0), b, 0)"


class Producer:
    """q: the tile of queries, if any is loaded. sweeps: with the rings that they fill, the first of which carries the infos."""

    def __init__(
        self, ctx: Context, q: Tile | None, full: str, empty: str, slot: str, sweeps: Sequence[tuple[Keys, list[Ring]]]
    ) -> None:
        self.ctx, self.q, self.full, self.empty, self.slot, self.sweeps = ctx, q, full, empty, slot, sweeps

    def emit(self, uneven: bool) -> None:
        """Print everything that the producer does."""
        ctx, out = self.ctx, self.ctx.out
        assert isinstance(ctx.schedule, Wgmma)
        out.line(f"registers_less({ctx.schedule.registers[0]})")
        with out.block("if warp == -4:"):
            queue.begin(ctx, uneven)
            out.line("served = 0")
            rings = {ring.turn: ring for _, found in self.sweeps for ring in found}
            for turn in rings:
                out.line(f"{turn} = resize(0, 32)")
            with out.block("while True:"):
                queue.take(ctx, uneven)
                out.line(f"mbar_wait({self.empty}, served & 1 ^ 1)  # the item before is done")
                out.line(f"store_shared_r({self.slot}, item)")
                out.line(f"store_shared_r({self.slot} + 4, tile)")
                with out.block("if item < 0:"):
                    out.line(f"mbar_arrive_if({FIRST}, {self.full})")
                    out.line("break")
                queue.item(ctx)
                self._queries()
                for keys, found in self.sweeps:
                    self._sweep(keys, found)
                out.line("served += 1")

    def _queries(self) -> None:
        out, q = self.ctx.out, self.q
        if q is None:
            out.line(f"mbar_arrive_if({FIRST}, {self.full})")
            return
        name = box(self.ctx, "q", "d", q.shape, q.shape.rows)
        self._tile(name, "q", q.base, q.shape, self.full, "i0")

    def _tile(self, name: str, role: str, target: str, shape: Swizzled, barrier: str, row: str) -> None:
        """Copies of the panels of a tile, whose bytes a barrier waits for."""
        out, columns = self.ctx.out, shape.width // shape.itemsize
        out.line(f"mbar_expect_if({FIRST}, {barrier}, {shape.bytes})")
        for panel in range(shape.bytes // shape.panel):
            place = f"{target} + {panel * shape.panel}" if panel else target
            out.line(f"tma_load_if({FIRST}, {place}, {name}, {barrier}, {columns * panel}, {row}, {head(role)})")

    def _sweep(self, keys: Keys, rings: list[Ring]) -> None:
        """One tile of keys after the other, then the news that there are no more."""
        ctx, out, first = self.ctx, self.ctx.out, rings[0]
        out.line(f"# sweep {keys.number}")
        search = Search(ctx, keys)
        search.begin()
        with out.block("while True:"):
            search.next()
            out.line(first.wait("empty"))
            out.line(f"store_shared_r({first.info}, where(more, cursor, -1))")
            with out.block("if not more:"):
                out.line(f"mbar_arrive_if({FIRST}, {first.barrier('full')})")
                out.line(first.following)
                out.line("break")
            out.line(f"full = {search.full()}")
            out.line(f"store_shared_r({first.info} + 4, where(full, 1, 0))")
            for ring in rings:
                if ring is not first:
                    out.line(ring.wait("empty"))
                if ring.room is None:
                    out.line(f"mbar_arrive_if({FIRST}, {ring.barrier('full')})")
                else:
                    shape = ring.room.shape
                    name = box(ctx, ring.role, self._feature(keys, ring), shape, shape.rows)
                    self._tile(name, ring.role, ring.place, shape, ring.barrier("full"), "cursor")
                out.line(ring.following)
            out.line(f"cursor += {ctx.schedule.keys}")

    @staticmethod
    def _feature(keys: Keys, ring: Ring) -> str:
        return next(s.feature for s in (*keys.full, *keys.partial) if isinstance(s, Load) and s.name == ring.name)
