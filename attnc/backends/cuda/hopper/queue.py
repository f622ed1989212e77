"""Emission of the queue of work items: tiles of queries of a head, those with the most keys first.

A block takes the next number from a counter in the workspace. Where tiles can differ in their keys, the heavy tiles of several heads
come first, then their lighter ones: as many heads as have their keys and values in the second cache at once.
"""

from __future__ import annotations

from attnc.backends.cuda.context import Context
from attnc.backends.cuda.executable import FLAG, QUEUE
from attnc.backends.spelling import Scope
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule.wgmma import UNIT

CACHE = 2**25  # bytes of keys and values that are worked on at once: two thirds of the second cache of an H100


def begin(ctx: Context, uneven: bool) -> None:
    """Print, for the producer, how many items there are. uneven: whether their tiles differ in their keys."""
    out, rows = ctx.out, ctx.schedule.rows
    out.line(f"tiles = resize(floordiv(q_len + {rows - 1}, {rows}), 32)")
    out.line("items = resize(batch * heads * tiles, 32)")
    if uneven:
        size = ITEMSIZE[ctx.types.roles] * (ctx.features["d"] + ctx.features["e"])
        out.line(f"section = maximum(floordiv({CACHE}, maximum(kv_len * {size}, 1)), 1) * group  # heads")
        out.line("section = resize(minimum(section, batch * heads), 32)")


def take(ctx: Context, uneven: bool) -> None:
    """Print which tile of which head item `number` is, counting the heads of all batches; the item behind the last is -1."""
    out = ctx.out
    out.line("number = broadcast(atomic_next(eq(lane, 0), scratch))")
    if uneven:
        out.line("first_head = mul(floordiv(number, mul(section, tiles)), section)")
        out.line("rest = mod(number, mul(section, tiles))")
        out.line("wide = minimum(section, resize(batch * heads - first_head, 32))")
        out.line("tile, item = sub(sub(tiles, 1), floordiv(rest, wide)), add(first_head, mod(rest, wide))")
    else:
        out.line("tile, item = sub(sub(tiles, 1), mod(number, tiles)), floordiv(number, tiles)")
    out.line("item = where(lt(number, items), item, -1)")


def item(ctx: Context) -> None:
    """Print what it holds: b, h, i0..i1, and ni live rows."""
    out, rows = ctx.out, ctx.schedule.rows
    out.line("b, h = floordiv(item, heads), mod(item, heads)")
    out.line(f"i0 = tile * {rows}")
    out.line(f"ni = minimum({rows}, q_len - i0)")
    out.line("i1 = i0 + ni - 1")
    ctx.item = Scope(out.place(), lambda x: x.axes <= {"b", "h"} and ctx.corners(x) <= {"i0", "i1"})


def flag(ctx: Context) -> str:
    """The address of the flag of a consumer's rows."""
    units = f"floordiv(q_len + {UNIT - 1}, {UNIT})"
    return f"scratch + {QUEUE} + {FLAG} * (item * {units} + tile * {ctx.schedule.rows // UNIT} + (warp >> 2))"
