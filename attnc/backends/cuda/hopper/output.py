"""Emission of outputs that the copy engine stores: each consumer writes its rows to shared memory, one thread has them copied."""

from __future__ import annotations

from attnc.backends.cuda import output
from attnc.backends.cuda.body import indices
from attnc.backends.cuda.context import SHORT, Context, Tile
from attnc.backends.cuda.hopper.producer import box
from attnc.backends.cuda.shared import chunk
from attnc.schedule.mma import CHUNK
from attnc.schedule.wgmma import GROUP, UNIT
from attnc.tile.program import Store

ELECTED = f"eq(thread() & {GROUP - 1}, 0)"


def copied(ctx: Context, s: Store) -> bool:
    """Whether the copy engine can store an output: features of 16 bits, whole chunks of them."""
    return s.feature is not None and ctx.types.outputs[s.index] in SHORT and ctx.features[s.feature] * 2 % CHUNK == 0


def store(ctx: Context, s: Store, room: Tile) -> None:
    """An output (i, f) through `room`, a tile of all rows of the block."""
    assert s.feature is not None
    out, short, shape = ctx.out, SHORT[ctx.types.outputs[s.index]], room.shape
    name = box(ctx, f"out{s.index}", s.feature, shape, UNIT)
    cells = output.cells(s.graph)
    out.line("tma_wait_read(0)  # of the output before")
    out.line(ctx.meet("i"))
    with ctx.rows(), out.block(f"for ft in unrolled({shape.length // 8}):"):
        indices(ctx, s.graph)
        out.line("r, f = first_row + 8 * hf, 8 * ft + first_key")
        texts = [output.element(ctx, s.graph, cells, e, ctx.features[s.feature], shape.length) for e in range(2)]
        place = f"{room.base} + {chunk(room, 'r', 'ft')} + 4 * quad"
        out.line(f"store_shared_r({place}, pack_{short}({', '.join(texts)}))")
    out.line("async_fence()")
    out.line(ctx.meet("i"))
    columns = shape.width // shape.itemsize
    for panel in range(shape.bytes // shape.panel):
        place = f"{room.base} + {panel * shape.panel} + (warp >> 2) * {UNIT * shape.width}"
        heads = f"where(ne(out{s.index}_h, 0), h, 0), where(ne(out{s.index}_b, 0), b, 0)"
        row = f"i0 + (warp >> 2) * {UNIT}"
        out.line(f"tma_store_if({ELECTED}, {name}, {place}, {columns * panel}, {row}, {heads})")
    out.line("tma_commit()")
