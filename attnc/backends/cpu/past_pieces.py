"""Emission of long calls of programs with a past, in pieces that are worked on at once.

First each piece of keys gives its own states (phase 0): of the keys that all queries see, pieces of the keys, then for each piece of
queries but the last the keys that its tiles are the first to see. Then pieces of queries (phase 1) begin with the sum of the states
before them. What a piece is follows from the lengths alone, so that nothing depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attnc.backends.cpu.context import ALIGN, Context
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.room import Room
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node
from attnc.schedule.cpu_form import PIECE, PIECES
from attnc.tile.past import Outer, Past, Power


def step(ctx: Context) -> int:
    """Bytes of a vector."""
    return ctx.schedule.width * ctx.size


def size(ctx: Context, outer: Outer) -> int:
    """Bytes of a state, its rows filled up to whole vectors."""
    if outer.out is None:
        return step(ctx) if outer.feature is None else ctx.padded(outer.feature)
    return (1 if outer.feature is None else ctx.features[outer.feature]) * ctx.padded(outer.out)


def state(ctx: Context, outer: Outer) -> str:
    """Where a state lies."""
    return ctx.allocate(f"{outer.name}_past", size(ctx, outer))


def top(ctx: Context, p: Power) -> str:
    """Where the greatest exponent of a power's states lies."""
    return ctx.allocate(f"{p.state}_past", step(ctx))


def spelling(ctx: Context) -> Spelling:
    """A speller of numbers of the head and of the key."""
    return Spelling(ctx, [ctx.item, Scope(ctx.out.place(), lambda x: True)])


def number(spell: Spelling, graph: Node) -> str:
    """The text of a number of the compute type."""
    return f"splat(T, {spell.spell(graph)})"


def room(ctx: Context) -> Room:
    """Of the records: what a piece leaves, its number of keys, the last of them, and its states."""
    past = ctx.program.past
    assert past is not None
    return Room(0, _layout(ctx, past)[1])


def _record(number: str) -> str:
    """The address of a record of this head."""
    return f"shared - {ALIGN} - (item // count * (leading + pieces - 1) + {number} + 1) * each"


def begin(ctx: Context) -> None:
    """How long pieces are, how many, and which phase this is; once per call."""
    out, q_len, kv_len = ctx.top, ctx.word("q_len"), ctx.word("kv_len")
    out.line(f"length = {PIECE}  # queries or keys of a piece")
    with out.block(f"while length * {PIECES} < max({q_len}, {kv_len}):"):
        out.line("length *= 2")
    out.line(f"pieces, leading = ({q_len} + length - 1) // length, max(({kv_len} + length - 1) // length, 1)")
    out.line(f"shared = load(int64, args + {8 * ctx.layout.words['scratch']})")
    out.line("phase = 1")
    with out.block("if pieces + leading > 2:"):
        out.line(f"phase = load(int64, shared - {ALIGN})")
    out.line(f"each = {room(ctx).record}  # bytes of a record")
    out.line("count = pieces")
    with out.block("if phase == 0:"):
        out.line("count = leading + pieces - 1")
    out.line(f"items = {ctx.word('batch')} * {ctx.word('heads')} * count")


def item(ctx: Context) -> None:
    """Which piece this is: `begin` to `end` are its queries, its keys end before `behind`."""
    out, heads = ctx.out, ctx.word("heads")
    out.line(f"b, h, piece = item // count // {heads}, item // count % {heads}, item % count")
    out.line("from_states, pos, behind = pieces + leading > 2, 0, " + ctx.word("kv_len"))
    out.line(f"begin, end = piece * length, min(piece * length + length, {ctx.word('q_len')})")
    with out.block("if phase == 0 and piece < leading:  # keys that all queries see"):
        out.line("from_states, pos, behind = False, piece * length, min(piece * length + length, behind)")
        out.line("begin, end = 0, 1")
    with out.block(
        "if phase == 0 and piece >= leading:  # keys that these queries, and the first behind them, see first"
    ):
        out.line("begin = (piece - leading) * length")
        out.line("end = begin + length + 1")
    out.line("before = pos")
    out.line(f"record = {_record('piece')}")


def save(ctx: Context, past: Past) -> None:
    """The states of a piece of keys go into its record."""
    out = ctx.out
    with out.block("if phase == 0:"):
        out.line("store(record, known)")
        out.line("store(record + 8, pos - 1)")
        for n, p in enumerate(past.powers):
            out.line(f"store(record + {ALIGN * (1 + n)}, load(T, {top(ctx, p)}))")
        for outer, place in _layout(ctx, past)[0]:
            with out.block(f"for o in range(0, {size(ctx, outer)}, {step(ctx)}):"):
                out.line(f"store(record + {place} + o, load(F, {state(ctx, outer)} + o))")


def _layout(ctx: Context, past: Past) -> tuple[list[tuple[Outer, int]], int]:
    """Where the states lie in a record, behind its numbers and the greatest exponents; and how long it is."""
    found, place = [], ALIGN * (1 + len(past.powers))
    for outer in past.outers:
        found.append((outer, place))
        place += -(-size(ctx, outer) // ALIGN) * ALIGN
    return found, place


def fold(ctx: Context, past: Past) -> None:
    """The states begin with those of all keys before these queries: sums of the pieces' states, at the greatest exponent of all."""
    out = ctx.out
    with out.block("if phase == 1:"):
        for n, p in enumerate(past.powers):
            with _records(ctx):
                fresh = _relative(ctx, n, p)
                out.line(f"store({top(ctx, p)}, maximum_fast({fresh}, load(T, {top(ctx, p)})))")
        with _records(ctx):
            scales = []
            for n, p in enumerate(past.powers):
                relative = _relative(ctx, n, p)
                rho, scale = ctx.names.fresh("rho"), ctx.names.fresh("scale")
                out.line(f"{rho} = load(T, {top(ctx, p)})")
                out.line(f"{scale} = splat(F, weight({relative}, splat(T, where(eq({rho}, -INF), 0.0, {rho})), -INF))")
                scales.append(scale)
            for outer, place in _layout(ctx, past)[0]:
                own = state(ctx, outer)
                with out.block(f"for o in range(0, {size(ctx, outer)}, {step(ctx)}):"):
                    part = f"load(F, record + {place} + o)"
                    term = part if outer.power is None else f"mul({scales[outer.power]}, {part})"
                    out.line(f"store({own} + o, add(load(F, {own} + o), {term}))")
            out.line("known = 1")


@contextmanager
def _records(ctx: Context) -> Iterator[None]:
    """A loop over the records of the keys before."""
    out = ctx.out
    with out.block("for r in range(leading + piece):"):
        out.line(f"record = {_record('r')}")
        with out.block("if load(int64, record) > 0:"):
            yield


def _relative(ctx: Context, n: int, p: Power) -> str:
    """A record's greatest exponent, relative to the key `seen`."""
    out, name = ctx.out, ctx.names.fresh("exponent")
    out.line("was = load(int64, record + 8)")
    spell = spelling(ctx)
    spell.expect([p.moved])
    out.line(f"{name} = add(load(T, record + {ALIGN * (1 + n)}), {number(spell, p.moved)})")
    return name
