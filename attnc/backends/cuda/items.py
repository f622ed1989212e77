"""Emission of a kernel's beginning: the queries, and the part of the keys, that a block takes, and which query a thread's row is.

Three ways: a tile of queries of one head; where ctx.share, a tile of rows (query, head of a group), queries first, so that their
mask stays narrow; and for a merge, one query of one head in all rows of the tile, each of which merges parts of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from attnc.backends.cuda.context import Context
from attnc.backends.spelling import Scope
from attnc.schedule.short import LEAST, PARTS
from attnc.tile.program import Merge, Save


def begin(ctx: Context) -> None:
    """i0..i1, b and h (kv where heads share the tile), ni: live rows; the last (under a causal mask heaviest) tile first."""
    steps = ctx.program.steps
    merging, parted = (any(isinstance(s, kind) for s in steps) for kind in (Merge, Save))
    if merging or parted:
        _parts(ctx)
    if merging:
        ctx.out.line("item, i0 = floordiv(block(), q_len), mod(block(), q_len)")
        ctx.out.line("b, h = floordiv(item, heads), mod(item, heads)")
        ctx.out.line("i1, ni = i0, 1")
    elif ctx.share:
        _shared_tile(ctx, parted)
    else:
        _tile(ctx, parted)
    own = {"b"} if ctx.share else {"b", "h"}
    ctx.item = Scope(ctx.out.place(), lambda x: x.axes <= own and ctx.corners(x) <= {"i0", "i1"})


def _parts(ctx: Context) -> None:
    """The parts of the keys, as `attnc.schedule.short` cuts them."""
    top = ctx.top
    top.line(f"length = {LEAST}  # keys of a part")
    with top.block(f"while length * {PARTS} < kv_len:"):
        top.line("length *= 2")
    top.line("parts = maximum(floordiv(kv_len + length - 1, length), 1)")


def _number(ctx: Context, parted: bool) -> None:
    """Number of the tile and of the head, and the part."""
    ctx.out.line("tile, item = tiles - 1 - mod(block(), tiles), floordiv(block(), tiles)")
    if parted:
        ctx.out.line("part, item = mod(item, parts), floordiv(item, parts)")


def _tile(ctx: Context, parted: bool) -> None:
    out, rows = ctx.out, ctx.schedule.rows
    out.line(f"tiles = floordiv(q_len + {rows - 1}, {rows})")
    _number(ctx, parted)
    out.line("b, h = floordiv(item, heads), mod(item, heads)")
    out.line(f"i0 = tile * {rows}")
    out.line(f"ni = minimum({rows}, q_len - i0)")
    out.line("i1 = i0 + ni - 1")


def _shared_tile(ctx: Context, parted: bool) -> None:
    """Row r of the tile is number row0 + r of (query, head of the group); those behind the last repeat it."""
    out, rows = ctx.out, ctx.schedule.rows
    out.line(f"tiles = floordiv(q_len * group + {rows - 1}, {rows})")
    _number(ctx, parted)
    out.line("b, kv = floordiv(item, floordiv(heads, group)), mod(item, floordiv(heads, group))")
    out.line(f"row0 = tile * {rows}")
    out.line(f"ni = minimum({rows}, q_len * group - row0)")
    out.line("i0, i1 = floordiv(row0, group), floordiv(row0 + ni - 1, group)")
    row_h, row_i = (
        ctx.registers("row_h", (ctx.schedule.tall, 2), "l"),
        ctx.registers("row_i", (ctx.schedule.tall, 2), "r"),
    )
    with ctx.rows():
        out.line("x = row0 + minimum(first_row + 16 * rt + 8 * hf, ni - 1)")
        out.line(f"{row_h}[rt, hf], {row_i}[rt, hf] = kv * group + mod(x, group), resize(floordiv(x, group), 32)")


def kv_head(ctx: Context) -> str:
    """The key-value head of the block."""
    return "kv" if ctx.share else "floordiv(h, group)"


def row_indices(ctx: Context, read: Collection[Any]) -> None:
    """The query, and where heads share the tile the head, of a thread's row, as far as they are read."""
    if "h" in read and ctx.share:
        ctx.out.once(f"h = {ctx.arrays['row_h']}[rt, hf]")
    if "i" in read:
        own = f"{ctx.arrays['row_i']}[rt, hf]" if ctx.share else "resize(i0 + first_row + 16 * rt + 8 * hf, 32)"
        ctx.out.once(f"i = {own}")


def queries(ctx: Context) -> tuple[str, str]:
    """Of row r of the queries in memory: what all rows add to their place, and what row `{}` adds to that."""
    if not ctx.share:
        return "q_p + b * q_b + h * q_h + i0 * q_l", "{} * q_l"
    number = "row0 + {0}"
    return "q_p + b * q_b + kv * group * q_h", f"mod({number}, group) * q_h + floordiv({number}, group) * q_l"


def place(ctx: Context, word: str) -> tuple[str, str]:
    """Of a thread's row of an output: what all rows add to its place, and what a row adds to that."""
    if not ctx.share:
        return f"{word}p + b * {word}b + h * {word}h + i0 * {word}l", f"r * {word}l"
    h, i = (f"{ctx.arrays[name]}[rt, hf]" for name in ("row_h", "row_i"))
    return f"{word}p + b * {word}b", f"{h} * {word}h + {i} * {word}l"


def number(ctx: Context) -> str:
    """The number of a thread's row among those of all batches and heads."""
    if not ctx.share:
        return "(b * heads + h) * q_len + i0 + first_row + 16 * rt + 8 * hf"
    h, i = (f"{ctx.arrays[name]}[rt, hf]" for name in ("row_h", "row_i"))
    return f"(b * heads + {h}) * q_len + {i}"
