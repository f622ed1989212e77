"""Emission of a sweep in parts: each worker leaves the states of its part of the keys; who ends a tile's last part merges them.

A record holds how many keys the part has, then its states: numbers of the rows, then accumulators, row by row in kernels for few
queries. Parts are merged in their order, so that nothing depends on who was first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby

from attnc.backends import classes
from attnc.backends.cpu import few_rows
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.context import ALIGN, Context
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.room import Room
from attnc.backends.spelling import Scope
from attnc.ir.graph import node
from attnc.schedule.cpu_form import PARTS, least
from attnc.tile.lower import COMBINE, row
from attnc.tile.program import PART, Join, Keys, Merge, Program, State

NAMES = (
    "part parts length begin behind first last lead each record records counters kv_heads kv row0 run count r p factor"
)


def begin(ctx: Context) -> None:
    """Where keys are cut, as `attnc.schedule.cpu_form` cuts them; once per call."""
    out, length = ctx.top, ctx.word("kv_len")
    out.line(f"length = {least(ctx.form.few)}  # keys of a part")
    with out.block(f"while length * {PARTS} < {length}:"):
        out.line("length *= 2")
    out.line(f"parts = max(({length} + length - 1) // length, 1)")
    out.line(f"counters = load(int64, args + {8 * ctx.layout.words['scratch']})")


def room(ctx: Context, states: Sequence[State]) -> Room:
    """Of the records of a sweep with these states; see `Room`."""
    numbers = ALIGN + sum(_bytes(ctx, s) for s in states if not few_rows.holds(ctx, s))
    rows = 2 * sum(ctx.wide(s.feature) for s in states if s.feature is not None and ctx.form.few)
    return Room(0, numbers, rows)


def emit(ctx: Context, steps: Callable[[Program], None], part: Program, whole: Program) -> None:
    """A work item: its part of the keys, and if it ends the last part of its tile, the merge and what follows it."""
    (keys,) = part.sweeps
    (merge,) = (s for s in whole.steps if isinstance(s, Merge))
    out = ctx.out
    out.line(f"begin, behind = part * length, min(part * length + length, {ctx.word('kv_len')})")
    start, stop = classes.ends(ctx, keys.run or keys.hull, partial(Spelling, ctx))
    out.line(f"first, last = max({start}, begin), min({stop}, behind)")
    size = room(ctx, keys.states)
    out.line(f"each = {size.record}" + (f" + (ni + 1) // 2 * {size.row}" if size.row else ""))
    out.line(f"records = counters - (items // parts + 7) // 8 * {ALIGN} - item * parts * each")
    out.line("record = records - (part + 1) * each")
    out.line("store(record, max(last - first, 0))")
    with out.block("if first < last:"):
        for s, place in _states(ctx, keys.states):
            _put(ctx, s, place)
        steps(part)
    for s in keys.states:
        ctx.memory.pop((s.name, _bytes(ctx, s)), None)
        ctx.row_major.pop(s.name, None)
    with out.block("if fetch_add(counters - 8 * (item + 1), 1) == parts - 1:  # all parts are done"):
        for s in keys.states:
            row_side.state(ctx, s)
        for _, joins in groupby(merge.joins, lambda join: join.rank):
            _merge(ctx, keys, list(joins))
        if ctx.form.few:
            few_rows.transpose(ctx, keys.states)
        steps(whole)


def _bytes(ctx: Context, s: State) -> int:
    """Of a state in scratch."""
    return ctx.schedule.rows * 8 if s.feature is None else ctx.features[s.feature] * ctx.pitch


def _states(ctx: Context, states: Sequence[State]) -> Iterator[tuple[State, str]]:
    """The states in a record, and the variables with their addresses, which this prints."""
    end, rows = ALIGN, 0
    fixed = room(ctx, states).record
    for s in states:
        place = ctx.names.fresh(f"{s.name}_part")
        if few_rows.holds(ctx, s):
            assert s.feature is not None
            ctx.out.line(f"{place} = record + {fixed}" + (f" + (ni + 1) // 2 * {rows}" if rows else ""))
            rows += 2 * ctx.wide(s.feature)
        else:
            ctx.out.line(f"{place} = record + {end}")
            end += _bytes(ctx, s)
        yield s, place


def _put(ctx: Context, s: State, place: str) -> None:
    """From here on the state is kept in its record."""
    if few_rows.holds(ctx, s):
        ctx.row_major[s.name] = place
    else:
        ctx.memory[s.name, _bytes(ctx, s)] = place


def _merge(ctx: Context, keys: Keys, joins: Sequence[Join]) -> None:
    """These states of all parts, one part after the other."""
    out = ctx.out
    with out.block("for p in range(parts):"):
        out.line("record = records - (p + 1) * each")
        with out.block("if load(int64, record) > 0:"):
            found = dict(_states(ctx, keys.states))
            for s, place in found.items():
                ctx.places[s.name + PART] = place
            with row_side.lanes(ctx):
                spelling = Spelling(ctx, [ctx.item, Scope(out, row_side.anything)])
                spelling.expect(list(dict.fromkeys(join.graph for join in joins if join.graph is not None)))
                for join in joins:
                    _join(ctx, join, spelling)
            for join in joins:
                if few_rows.holds(ctx, join.state):
                    _join_rows(ctx, join, found[join.state])


def _join(ctx: Context, join: Join, spelling: Spelling) -> None:
    """A number of the rows, or features [f][query]; of row-major accumulators only the factors are kept."""
    s, out = join.state, ctx.out
    scope = spelling.scopes[-1]
    own: str | None = None
    if join.scale is not None:
        own = scope.names.get(join.scale) or spelling.name(join.scale, spelling.vector(join.scale), scope, "factor")
    if few_rows.holds(ctx, s):
        if own is not None:
            out.line(f"store({ctx.row(s.name + '_factor')} + o, {own})")
        return
    if s.feature is None:
        number = row(s.name + PART, s.kind)
        if join.term is not None:
            number = join.term
        elif join.scale is not None:
            number = node("mul", join.scale, number)
        graph = node(COMBINE[join.how], row(s.name, s.kind), number)
        text = spelling.vector(graph, s.kind)
        out.line(f"store({ctx.places[s.name]} + {ctx.offset(s.kind)}, {text})")
        return
    with out.block(f"for f in range({ctx.features[s.feature]}):"):
        place, part = (f"load(F, {ctx.places[name]} + f * {ctx.pitch} + o)" for name in (s.name, s.name + PART))
        new = part if own is None else f"mul({own}, {part})"
        if join.drop:
            new = f"where(eq({own}, 0.0), 0.0, {part})"
        out.line(f"store({ctx.places[s.name]} + f * {ctx.pitch} + o, {COMBINE[join.how]}({place}, {new}))")


def _join_rows(ctx: Context, join: Join, part: str) -> None:
    """An accumulator, row by row."""
    s, out = join.state, ctx.out
    assert s.feature is not None
    pitch, step = ctx.wide(s.feature), ctx.schedule.width * ctx.size
    with out.block("for r in range(ni):"):
        new = f"load(F, {part} + r * {pitch} + f)"
        if join.scale is not None:
            out.line(f"factor = load(T, {ctx.row(s.name + '_factor')} + r * {ctx.size})")
            new = f"mul(factor, {new})"
        stays = nullcontext() if not join.drop else out.block("if factor != 0.0:")
        with stays, out.block(f"for f in range(0, {pitch}, {step}):"):
            place = f"{ctx.row_major[s.name]} + r * {pitch} + f"
            out.line(f"store({place}, {COMBINE[join.how]}(load(F, {place}), {new}))")
