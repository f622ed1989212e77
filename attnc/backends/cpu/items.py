"""Emission of a work item: which batch, head, queries and part of the keys it takes, where its rows lie, and which head and query they are.

Its rows are a tile of queries of one head; or, where heads share a tile, (query, head of the group) with the heads of a query side
by side, so that each key and value is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attnc.backends.cpu import ahead
from attnc.backends.cpu.context import Context
from attnc.backends.spelling import Scope
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule.cpu_form import PLAIN


@contextmanager
def items(ctx: Context) -> Iterator[None]:
    """The tiles of a head one after the other, the last (under a causal mask heaviest) first; parts of a tile are neighbours."""
    out, rows, width = ctx.out, ctx.schedule.rows, ctx.schedule.width
    length, heads = ctx.word("q_len"), ctx.word("heads")
    group = ctx.word("group") if ctx.form.share else ""
    if ctx.form.share:
        out.line(f"kv_heads = {heads} // {group}")
        length, heads = f"{length} * {group}", "kv_heads"
    out.line(f"tiles = ({length} + {rows - 1}) // {rows}")
    out.line(f"items = {ctx.word('batch')} * {heads} * tiles{' * parts' if ctx.form.split else ''}")
    plain = ctx.form == PLAIN
    if plain:
        out.line("item = fetch_add(args, 1)")
    with out.block("while item < items:" if plain else "while True:"):
        if not plain:
            out.line("item = fetch_add(args, 1)")
            with out.block("if item >= items:"):
                out.line("break")
        if ctx.form.split:
            out.line("part, item = item % parts, item // parts")
        out.line("tile = tiles - 1 - item % tiles")
        out.line(f"b, {'kv' if ctx.form.share else 'h'} = item // tiles // {heads}, item // tiles % {heads}")
        first = "row0" if ctx.form.share else "i0"
        out.line(f"{first} = tile * {rows}")
        out.line(f"ni = min({rows}, {length} - {first})")
        if ctx.form.share:
            out.line(f"i0, i1 = row0 // {group}, (row0 + ni - 1) // {group}")
        else:
            out.line("i1 = i0 + ni - 1")
        out.line(f"nx = (ni + {width - 1}) // {width}")
        own = {"b"} if ctx.form.share else {"b", "h"}
        ctx.item = Scope(out.place(), lambda x: x.axes <= own and ctx.corners(x) <= {"i0", "i1"})
        if plain:
            ahead.begin_item(ctx)
        yield
        if plain:
            ahead.end_item(ctx)


def kv_head(ctx: Context) -> str:
    """The key-value head of the item."""
    return "kv" if ctx.form.share else f"h // {ctx.word('group')}"


def index(ctx: Context, name: str) -> str:
    """Where heads share a tile: the address of the query (i) or head (h) of its rows, computed once per item."""
    address = f"row_{name}"
    if address not in ctx.places:
        group, width = ctx.word("group"), ctx.schedule.width
        place = ctx.places[address] = ctx.allocate(address, ctx.schedule.rows * 8)
        with ctx.item.out.block("for x in range(nx):"):
            row = f"iota(I, row0 + x * {width})"
            number = f"floordiv({row}, {group})" if name == "i" else f"add(mod({row}, {group}), kv * {group})"
            ctx.item.out.line(f"store({place} + x * {width * 8}, {number})")
    return ctx.places[address]


def first_and_last(ctx: Context) -> None:
    """ia, ib: the queries of the lane blocks x0 .. x1 - 1."""
    width, cols = ctx.schedule.width, ctx.schedule.block[1]
    if ctx.form.share:
        group = ctx.word("group")
        ctx.out.line(f"ia = (row0 + x0 * {width}) // {group}")
        ctx.out.line(f"ib = min((row0 + x1 * {width} - 1) // {group}, i1)")
        return
    ctx.out.line(f"ia = i0 + x0 * {width}")
    ctx.out.line(f"ib = min(ia + {cols * width - 1}, i1)")


def begin_of(ctx: Context, array: str) -> tuple[str, str]:
    """Address of the first row in an array (`q_`, `out0_`), and bytes from row to row; where heads share a tile, of `run`."""
    step, p, b, h = (ctx.word(f"{array}{part}") for part in "lpbh")
    if ctx.form.share:
        return (
            f"{p} + b * {b} + (kv * {ctx.word('group')} + lead) * {h} + (row0 + run) // {ctx.word('group')} * {step}",
            h,
        )
    return f"{p} + b * {b} + h * {h} + i0 * {step}", step


@contextmanager
def runs(ctx: Context) -> Iterator[None]:
    """Where heads share a tile, a loop over its queries: rows run .. run + count - 1 are heads of one of them, from `lead` on."""
    out, group = ctx.out, ctx.word("group")
    out.line("run = 0")
    with out.block("while run < ni:"):
        out.line(f"lead = (row0 + run) % {group}")
        out.line(f"count = min({group} - lead, ni - run)")
        yield
        out.line("run += count")


def load(ctx: Context, target: str, stored: str, n: int) -> None:
    """Queries of n numbers of this dtype into scratch, transposed; where heads share a tile, first row after row."""
    size, lanes = ctx.size, f"nx * {ctx.schedule.width}"
    if not ctx.form.share:
        source = ctx.names.fresh("q_rows")
        start, step = begin_of(ctx, "q_")
        ctx.out.line(f"{source} = {start}")
        ctx.out.line(f"pack_rows(T, {target}, {ctx.pitch}, {source}, {step}, AS_{stored}, ni, {lanes}, {n})")
        return
    pitch = ctx.padded("d")
    rows = ctx.allocate("q_rows", ctx.schedule.rows * pitch)
    with runs(ctx):
        start, step = begin_of(ctx, "q_")
        ctx.out.line(
            f"widen(F, {rows} + run * {pitch}, {pitch}, {size}, {start}, {step}, AS_{stored}, {ITEMSIZE[stored]}, count, {n}, "
            f"{ctx.schedule.width})"
        )
    ctx.out.line(f"pack_rows(T, {target}, {ctx.pitch}, {rows}, {pitch}, AS_{ctx.types.compute}, ni, {lanes}, {n})")
