"""Emission of a sweep in parts: a block writes the states of its part, a merge kernel makes one of those of all parts.

The workspace holds a record for each row (batch, head, query) and part: whether any tile was visited, then the states. A block of
the merge kernel, one warp, takes one row: its 16 rows of fragments take every 16th part, and become one by shuffles, always in
the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from attnc.backends.cuda import items
from attnc.backends.cuda.body import begin_states, spelling
from attnc.backends.cuda.context import Context
from attnc.backends.cuda.products import dropped
from attnc.backends.leaves import number
from attnc.ir.graph import Node, topological
from attnc.schedule.mma import Mma
from attnc.tile.lower import COMBINE
from attnc.tile.program import PART, Join, Merge, Save, State

MERGE = Mma(1, 1, 16)  # the schedule of merge kernels
SLOTS = 16  # parts that a warp merges at once
LOAD = {"float": "load_f32", "int": "load_i64"}
STORE = {"float": "store_f32_if", "int": "store_l_if"}
ZERO = {"float": "0.0", "int": "0"}
SHUFFLE = {"float": "shuffle_f", "int": "shuffle_l"}


@dataclass(frozen=True, slots=True)
class Record:
    """Where the states of a row and part lie: bytes from the record's begin; the first word says whether there are any."""

    places: Mapping[str, int]
    bytes: int


def record(states: Iterable[State], features: Mapping[str, int]) -> Record:
    """Whatever the order of the states: integers of 8 bytes first, so that all numbers lie evenly, then by name."""
    places, end = {}, 8
    for s in sorted(states, key=lambda s: (s.kind != "int", s.name)):
        places[s.name] = end
        end += (8 if s.kind == "int" else 4) * (1 if s.feature is None else features[s.feature])
    return Record(places, -(-end // 16) * 16)


def save(ctx: Context, s: Save) -> None:
    """The states of a part; of a part without tiles only that it has none."""
    out, where = ctx.out, record(s.states, ctx.features)
    row = f"scratch + (({items.number(ctx)}) * parts + part) * {where.bytes}"
    out.line("# the states of this part of the keys")
    with ctx.rows():
        out.line("r = first_row + 16 * rt + 8 * hf")
        out.line(f"store_l_if(and_(eq(quad, 0), lt(r, ni)), {row}, where(now >= 0, 1, 0))")
    with out.block("if now >= 0:"), ctx.rows():
        out.line("r = first_row + 16 * rt + 8 * hf")
        out.line(f"address = {row}")
        for x in s.states:
            place, array = f"address + {where.places[x.name]}", ctx.arrays[x.name]
            if x.feature is None:
                out.line(f"{STORE[x.kind]}(and_(eq(quad, 0), lt(r, ni)), {place}, {array}[rt, hf])")
                continue
            n = ctx.features[x.feature]
            with out.block(f"for ft in unrolled({_tiles(ctx, x)}):"), out.block("for e in unrolled(2):"):
                out.line("f = 8 * ft + first_key + e")
                live = "lt(r, ni)" if n == 8 * _tiles(ctx, x) else f"and_(lt(r, ni), lt(f, {n}))"
                out.line(f"store_f32_if({live}, {place} + 4 * f, {array}[rt, ft, 2 * hf + e])")


def merge(ctx: Context, s: Merge) -> None:
    """The states of a row, in all rows of the tile: the maxima, then what is scaled by them."""
    out = ctx.out
    where = record([join.state for join in s.joins], ctx.features)
    out.line("# the states of all parts")
    out.line(f"records = scratch + ((b * heads + h) * q_len + i0) * parts * {where.bytes}")
    begin_states(ctx, [join.state for join in s.joins])
    for _, joins in groupby(s.joins, lambda join: join.rank):
        same = list(joins)
        _every_part(ctx, same, where)
        for join in same:
            _across(ctx, join)


def _every_part(ctx: Context, joins: list[Join], where: Record) -> None:
    """Each row of the tile joins the parts that are its own."""
    out = ctx.out
    with out.block(f"for p in range(0, parts, {SLOTS}):"), ctx.rows():
        out.line("part = p + first_row + 8 * hf")
        out.line(f"address = records + minimum(part, parts - 1) * {where.bytes}")
        out.line("live = and_(lt(part, parts), ne(load_i64(address), 0))")
        scales: dict[Node, str] = {}
        for join in joins:
            if join.graph is not None and join.graph not in scales:
                scales[join.graph] = _scale(ctx, join.graph, where)
        for join in joins:
            x = join.state
            with _features(ctx, x) as (element, behind):
                found = f"{LOAD[x.kind]}(address + {where.places[x.name]}{behind})"
                if join.term is not None:
                    found = scales[join.term]
                elif join.scale is not None:
                    scale = scales[join.scale]
                    found = dropped(scale, found) if join.drop else f"mul({scale}, {found})"
                cell = f"{ctx.arrays[x.name]}[{element}]"
                out.line(f"{cell} = {COMBINE[join.how]}({cell}, where(live, {found}, {number(x.initial)}))")


def _scale(ctx: Context, scale: Node, where: Record) -> str:
    """The factor or term of a part."""
    for x in topological([scale]):
        if x.op == "value" and x["name"].endswith(PART):
            own = x["name"].removesuffix(PART)
            array = ctx.row(x["name"], x["kind"])
            ctx.out.line(
                f"{array}[rt, hf] = where(live, {LOAD[x['kind']]}(address + {where.places[own]}), {ZERO[x['kind']]})"
            )
    name = ctx.names.fresh("scale")
    ctx.out.line(f"{name} = {spelling(ctx, scale).spell(scale)}")
    return name


def _across(ctx: Context, join: Join) -> None:
    """The rows of the tile become one: a thread's two, then those of the eight threads with the same columns."""
    state, out, combine = join.state, ctx.out, COMBINE[join.how]
    array, shuffle = ctx.arrays[state.name], SHUFFLE[state.kind]
    total = ctx.names.fresh(state.name)

    def fold(low: str, high: str) -> None:
        out.line(f"{total} = {combine}({low}, {high})")
        for mask in (4, 8, 16):
            out.line(f"{total} = {combine}({total}, {shuffle}({total}, {mask}))")
        out.line(f"{low} = {total}")
        out.line(f"{high} = {total}")

    if state.feature is None:
        fold(f"{array}[0, 0]", f"{array}[0, 1]")
        return
    with out.block(f"for ft in unrolled({_tiles(ctx, state)}):"), out.block("for e in unrolled(2):"):
        fold(f"{array}[0, ft, e]", f"{array}[0, ft, 2 + e]")


def _tiles(ctx: Context, state: State) -> int:
    """Tiles of 8 features of an accumulator."""
    assert state.feature is not None
    return ctx.vectors(1, state.feature).length // 8


@contextmanager
def _features(ctx: Context, state: State) -> Iterator[tuple[str, str]]:
    """Loops over the features of a state of a row, if any: its element in registers, and what is added to its place."""
    if state.feature is None:
        yield "rt, hf", ""
        return
    with ctx.out.block(f"for ft in unrolled({_tiles(ctx, state)}):"), ctx.out.block("for e in unrolled(2):"):
        n, f = ctx.features[state.feature], "8 * ft + first_key + e"
        inside = f"({f})" if n == 8 * _tiles(ctx, state) else f"minimum({f}, {n - 1})"
        yield "rt, ft, 2 * hf + e", f" + 4 * {inside}"
