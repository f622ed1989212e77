"""Emission of matrix products by wgmma: started here, done when `wgmma_wait` says so.

Operands in shared memory are described by 64 bits: where they begin, and how their rows of 128, 64 or 32 swizzled bytes lie
(PTX ISA, "Shared memory matrix layout" and "matrix descriptor"). Fragments of results are those of mma.m16n8k16.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnc.backends.cuda.context import Context, Tile
from attnc.backends.cuda.products import rescale
from attnc.schedule.mma import Swizzled
from attnc.schedule.wgmma import UNIT
from attnc.tile.program import Dot, DotAcc

KIND = {128: 1, 64: 2, 32: 3}  # of a swizzle, by the bytes of a row
UNUSED = 16  # the distance that a descriptor of rows of features does not need


def descriptor(address: str, shape: Swizzled, leading: int) -> str:
    """The bits for a matrix that begins at `address`; leading: bytes from one panel to the next, where the matrix crosses panels."""
    bits = leading >> 4 << 16 | 8 * shape.width >> 4 << 32 | KIND[shape.width] << 62
    bits -= bits >> 63 << 64  # words are signed
    return f"(({address}) & 0x3ffff) >> 4 | {bits:#x}"


def _step(tile: Tile) -> str:
    """From the first 16 features of rows to those of step kk, in units of 16 bytes."""
    s, steps = tile.shape, tile.shape.width // 32
    if s.panel == s.bytes:
        return "2 * kk"
    return f"{s.panel >> 4} * kk" if steps == 1 else f"kk // {steps} * {s.panel >> 4} + kk % {steps} * 2"


def scores(ctx: Context, products: Iterable[Dot]) -> None:
    """Start S = Q K^T for the rows of each consumer, as one group."""
    out, found = ctx.out, list(products)
    for s in found:
        out.line(f"hold({ctx.pair(s.name)})")
    out.line("wgmma_fence()")
    for s in found:
        rows, keys, target = ctx.tiles[s.rows], ctx.tiles[s.keys], ctx.pair(s.name)
        left, right = ctx.names.fresh(f"{s.rows}_at"), ctx.names.fresh(f"{s.keys}_at")
        own = f"{rows.base} + (warp >> 2) * {UNIT * rows.shape.width}"
        out.line(f"{left} = {descriptor(own, rows.shape, UNUSED)}")
        out.line(f"{right} = {descriptor(keys.base, keys.shape, UNUSED)}")
        with out.block(f"for kk in unrolled({rows.shape.length // 16}):"):
            operands = f"{left} + {_step(rows)}, {right} + {_step(keys)}"
            out.line(f'wgmma_ss({target}, {operands}, kk, "{ctx.types.short}", 0)')
    out.line("wgmma_commit()")


def packed(ctx: Context, s: DotAcc) -> str:
    """The registers of weights in 16 bits."""
    return ctx.registers(f"{s.weights}_packed", (1, ctx.schedule.keys // 16, 4), "r")


def prepare(ctx: Context, s: DotAcc) -> None:
    """acc = alpha acc, and the weights in 16 bits: what must be done before the product may start."""
    out, weights = ctx.out, ctx.arrays[s.weights]
    rescale(ctx, s)
    a = packed(ctx, s)
    with out.block(f"for kk in unrolled({ctx.schedule.keys // 16}):"):
        for n in range(4):
            pair = [f"{weights}[0, 2 * kk + {n // 2}, {2 * (n % 2) + e}]" for e in range(2)]
            out.line(f"{a}[0, kk, {n}] = pack_{ctx.types.short}({', '.join(pair)})")


def accumulate(ctx: Context, products: Iterable[DotAcc]) -> None:
    """Start acc += P V of prepared operands, as one group."""
    out, found = ctx.out, list(products)
    hold(ctx, found)
    out.line("wgmma_fence()")
    for s in found:
        values = ctx.tiles[s.values]
        at = ctx.names.fresh(f"{s.values}_at")
        out.line(f"{at} = {descriptor(values.base, values.shape, values.shape.panel)}")
        with out.block(f"for kk in unrolled({ctx.schedule.keys // 16}):"):
            operands = f"{packed(ctx, s)}, kk, {at} + {values.shape.width} * kk"
            out.line(f'wgmma_rs({ctx.arrays[s.accumulator]}, {operands}, 1, "{ctx.types.short}", 1)')
    out.line("wgmma_commit()")


def hold(ctx: Context, products: Iterable[Dot | DotAcc]) -> None:
    """The compiler may move no use of the products' registers across this point."""
    for s in products:
        if isinstance(s, Dot):
            ctx.out.line(f"hold({ctx.pair(s.name)})")
        else:
            ctx.out.line(f"hold({ctx.accumulator(s.accumulator, s.feature)})")
            ctx.out.line(f"hold({packed(ctx, s)})")
