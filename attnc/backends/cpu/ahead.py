"""Emission of requests for memory that is soon touched: the queries of a worker's next item, and the outputs of this one.

They are made one cache line at a time while the scores of an item's last tile become weights, which is arithmetic alone. All at
once, in a loop of their own, they bring nothing: more lines than a core has in flight hold up what follows. A worker takes its
next item from the queue then, before it ends this one, to know where that lies. An address may be wrong: nothing is read or
written there, so that rows that lie apart are asked for in vain.
"""

from __future__ import annotations

from attnc.backends.cpu.context import Context
from attnc.backends.cpu.room import LINE
from attnc.schedule.cpu_form import PLAIN
from attnc.tile.program import Keys, Load, Store


def begin_item(ctx: Context) -> None:
    """At the begin of an item: nothing is known of the next one, and where the outputs lie is."""
    start, out = "following, q_ahead = -1, 0", _output(ctx)
    ctx.out.line(start)
    if out is not None:
        p, b, h, step = (ctx.word(f"out{out}_{part}") for part in "pbhl")
        ctx.out.line(f"out_ahead = {p} + b * {b} + h * {h} + i0 * {step}")


def end_item(ctx: Context) -> None:
    """The next item, taken now unless it is known."""
    with ctx.out.block("if following < 0:"):
        ctx.out.line("following = fetch_add(args, 1)")
    ctx.out.line("item = following")


def begin_sweep(ctx: Context, keys: Keys) -> None:
    """Whether this is the sweep whose last tile looks ahead."""
    ctx.looks_ahead = ctx.form == PLAIN and keys is [s for s in ctx.program.steps if isinstance(s, Keys)][-1]


def begin_tile(ctx: Context, stop: str) -> None:
    """At the begin of a tile of a sweep that ends before key `stop`: in its last one, takes the next item."""
    if not ctx.looks_ahead:
        return
    ctx.out.line(f"last = j0 + nj >= {stop}")
    with ctx.out.block("if last and following < 0:"):
        ctx.out.line("following = fetch_add(args, 1)")
        if _queries(ctx):
            p, b, h, step = (ctx.word(f"q_{part}") for part in "pbhl")
            heads = ctx.word("heads")
            place = f"following // tiles // {heads} * {b} + following // tiles % {heads} * {h}"
            row = f"(tiles - 1 - following % tiles) * {ctx.schedule.rows}"
            ctx.out.line(f"q_ahead = {p} + {place} + {row} * {step}")


def lines_of(ctx: Context, number: int, alone: bool) -> list[tuple[str, str]]:
    """Before loop `number` over the keys of a tile: how it asks for which lines. alone: there is no other such loop."""
    found = []
    for asks, array in enumerate(("q", "out")):
        if ctx.looks_ahead and (alone or asks == number):
            output = _output(ctx)
            if _queries(ctx) if array == "q" else output is not None:
                step = ctx.word("q_l" if array == "q" else f"out{output}_l")
                name = ctx.names.fresh(f"{array}_line")
                ctx.out.line(f"{name} = {array}_ahead + x * {ctx.schedule.width} * {step}")
                found.append(("ask_to_read" if array == "q" else "ask_to_write", name))
    return found


def request(ctx: Context, lines: list[tuple[str, str]]) -> None:
    """In that loop: one line of each."""
    if lines:
        with ctx.out.block("if last:"):
            for ask, line in lines:
                ctx.out.line(f"{ask}({line} + jj * {LINE})")


def _queries(ctx: Context) -> bool:
    return any(isinstance(s, Load) and s.graph.op == "role" and s.graph["name"] == "q" for s in ctx.program.steps)


def _output(ctx: Context) -> int | None:
    """The first output that has features."""
    return next((s.index for s in ctx.program.steps if isinstance(s, Store) and s.feature is not None), None)
