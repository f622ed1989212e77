"""Emission of a program with a past: a work item is a head, its tiles of queries one after the other; states of the keys that all
queries of a tile see go from tile to tile, and the sweep begins behind those keys.

The states are numbers of a head; what queries take from them, and what keys add, are matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attnc.backends.cpu import keys as key_side
from attnc.backends.cpu import past_pieces as pieces
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.context import Context, Vectors
from attnc.backends.cpu.past_pieces import number, size, spelling, state, step, top
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, substitute
from attnc.passes.bound import corner
from attnc.tile.past import I0, Column, Outer, Past, Power, Share
from attnc.tile.program import FeatureReduce, Load, RowMap

NAMES = (
    "pos was seen before first last total length leading pieces count phase shared each piece begin end behind from_states known record "
    "exponent empty known_top sums r"
)


def _past(ctx: Context) -> Past:
    assert ctx.program.past is not None, ctx.program.quadratic
    return ctx.program.past


@contextmanager
def items(ctx: Context) -> Iterator[None]:
    """The heads; for each its tiles of queries, in order, each after the keys that it is the first to see as a whole."""
    out, rows, width, length = ctx.out, ctx.schedule.rows, ctx.schedule.width, ctx.word("q_len")
    past = _past(ctx)
    pieces.begin(ctx)
    with out.block("while True:"):
        out.line("item = fetch_add(args, 1)")
        with out.block("if item >= items:"):
            out.line("break")
        pieces.item(ctx)
        for outer in past.outers:
            out.line(f"fill(F, {state(ctx, outer)}, 1, 0, {size(ctx, outer) // step(ctx)}, {step(ctx)})")
        for p in past.powers:
            out.line(f"store({top(ctx, p)}, splat(F, -INF))")
        out.line("known = 0  # whether the states know a key")
        with out.block(f"for i0 in range(begin, end, {rows}):"):
            out.line(f"ni = min({rows}, {length} - i0)")
            out.line("i1 = i0 + ni - 1")
            out.line(f"nx = (ni + {width - 1}) // {width}")
            ctx.item = Scope(out.place(), lambda x: x.axes <= {"b", "h"} and ctx.corners(x) <= {"i0", "i1"})
            _see(ctx, past)
            with out.block("if phase == 0:"):
                out.line("continue")
            yield
        pieces.save(ctx, past)


def _see(ctx: Context, past: Past) -> None:
    """The keys pos .. last that all queries of this tile see, and those before it did not."""
    out = ctx.out
    spell = spelling(ctx)
    text = spell.spell(past.last)
    out.line(f"before, was, seen = pos, pos - 1, max(pos, min({text} + 1, behind)) - 1")
    out.line("pos = seen + 1")
    with out.block("if i0 == begin and from_states:  # those keys are in other items' states"):
        out.line("before = pos")
        pieces.fold(ctx, past)
    with out.block(f"for j0 in range(before, pos, {ctx.schedule.keys}):"):
        out.line(f"nj = min({ctx.schedule.keys}, pos - j0)")
        ctx.begin_body()
        for s in past.loads:
            key_side.load(ctx, s) if isinstance(s, Load) else key_side.reduce(ctx, s)
        for n, p in enumerate(past.powers):
            _weigh(ctx, p, [x for x in past.outers if x.power == n])
        for made in past.made:
            if isinstance(made, Column):
                _column(ctx, made.name, made.graph)
            else:
                key_side.load(ctx, made)
        for outer in past.outers:
            _add(ctx, outer)
        out.line("known = 1")


def _column(ctx: Context, name: str, graph: Node) -> None:
    """A number for each key."""
    place = ctx.column(name)
    with ctx.out.block("for jj in range(nj):"):
        ctx.out.line("j = j0 + jj")
        spell = spelling(ctx)
        spell.expect([graph])
        ctx.out.line(f"store({place} + jj * 8, {number(spell, graph)})")


def _weigh(ctx: Context, p: Power, outers: list[Outer]) -> None:
    """The weights of these keys, and the states relative to the greatest exponent so far."""
    out, place = ctx.out, top(ctx, p)
    column = ctx.column(p.column)
    old, fresh, rho, scale = (ctx.names.fresh(name) for name in ("old", "fresh", "rho", "scale"))
    out.line(f"{old} = load(T, {place})")
    with out.block("if j0 == before and known:  # relative to another key now"):
        spell = spelling(ctx)
        spell.expect([p.moved])
        out.line(f"{old} = add({old}, {number(spell, p.moved)})")
    out.line(f"{fresh} = {old}")
    with out.block("for jj in range(nj):"):
        out.line("j = j0 + jj")
        spell = spelling(ctx)
        spell.expect([p.keys])
        out.line(f"exponent = {number(spell, p.keys)}")
        out.line(f"store({column} + jj * 8, exponent)")
        out.line(f"{fresh} = maximum_fast(exponent, {fresh})")
    if p.masked > float("-inf"):
        out.line(f"{fresh} = splat(T, where(le({fresh}, {p.masked!r}), -INF, {fresh}))")
    out.line(f"{rho} = splat(T, where(eq({fresh}, -INF), 0.0, {fresh}))")
    out.line(f"store({place}, {fresh})")
    masked = "-INF" if p.masked == float("-inf") else repr(p.masked)
    weights = ctx.column(p.weights)
    with out.block("for jj in range(nj):"):
        out.line(f"store({weights} + jj * 8, splat(T, weight(load(T, {column} + jj * 8), {rho}, {masked})))")
    out.line(f"{scale} = splat(F, weight({old}, {rho}, -INF))")
    for outer in outers:
        kept = state(ctx, outer)
        with out.block(f"for o in range(0, {size(ctx, outer)}, {step(ctx)}):"):
            out.line(f"store({kept} + o, mul(load(F, {kept} + o), {scale}))")


def _whole(ctx: Context, name: str, feature: str) -> Vectors:
    """Features of the keys that can be read in whole vectors: where they lie, or copied."""
    found, n = ctx.vectors[name], ctx.features[feature]
    if found.padded or n % ctx.schedule.width == 0:
        return found
    target = ctx.key_features(name + "_whole", feature)
    ctx.out.line(
        f"widen(F, {target.base}, {target.pitch}, {ctx.size}, {found.base}, {found.pitch}, AS_{ctx.types.compute}, "
        f"{ctx.size}, nj, {n}, {ctx.schedule.width})"
    )
    ctx.vectors[name] = target
    return target


def _add(ctx: Context, outer: Outer) -> None:
    """state += keys^T values."""
    out, place = ctx.out, state(ctx, outer)
    if outer.values is None:
        _add_keys(ctx, outer)
        return
    assert outer.out is not None
    values = _whole(ctx, outer.values, outer.out)
    if outer.feature is None:
        m, start, pitch = 1, ctx.places[outer.keys], "8"
    else:
        m, keys = ctx.features[outer.feature], ctx.vectors[outer.keys]
        start, pitch = keys.base, keys.pitch
    rows, cols = ctx.schedule.tile
    wide = ctx.padded(outer.out)
    vectors = wide // step(ctx)
    out.line(
        f"gemm_add(F, {rows}, {cols}, {m}, {vectors}, {start}, {ctx.size}, {pitch}, {values.base}, {values.pitch}, {place}, "
        f"{wide}, nj, 0)"
    )


def _add_keys(ctx: Context, outer: Outer) -> None:
    """state += the sum of the keys."""
    out, place = ctx.out, state(ctx, outer)
    if outer.feature is None:
        out.line("total = splat(T, 0.0)")
        with out.block("for jj in range(nj):"):
            out.line(f"total = add(total, load(T, {ctx.places[outer.keys]} + jj * 8))")
        out.line(f"store({place}, add(load(T, {place}), total))")
        return
    keys = _whole(ctx, outer.keys, outer.feature)
    with out.block(f"for o in range(0, {ctx.padded(outer.feature)}, {step(ctx)}):"):
        out.line("sums = splat(F, 0.0)")
        with out.block("for jj in range(nj):"):
            out.line(f"sums = add(sums, load(F, {keys.base} + jj * {keys.pitch} + o))")
        out.line(f"store({place} + o, add(load(F, {place} + o), sums))")


def begin(ctx: Context) -> None:
    """The states of a sweep before the first key that not all queries of the tile see."""
    past, out = _past(ctx), ctx.out
    with out.block("if careful == 0 and known:"):
        for s in past.rows:
            match s:
                case Load():
                    row_side.load(ctx, s)
                case FeatureReduce():
                    row_side.reduce(ctx, s)
                case RowMap():
                    row_side.row_map(ctx, s)
        for p in past.powers:
            with row_side.lanes(ctx):
                out.line(
                    f"store({ctx.places[p.state]} + o, add(load(F, {ctx.places[p.rows]} + o), load(T, {top(ctx, p)})))"
                )
        for share in past.shares:
            _share(ctx, past, share)


def _share(ctx: Context, past: Past, share: Share) -> None:
    """What the queries take from the states."""
    target = ctx.places[share.accumulator]
    for term, (rows, outer) in enumerate(share.terms):
        n = 1 if outer.feature is None else ctx.features[outer.feature]
        place, name = state(ctx, outer), "gemm_add" if term else "gemm_zero"
        if share.out is None:
            call = ctx.gemm(name, "1", place, "0", str(ctx.size), ctx.places[rows], target, str(n))
        else:
            m = str(ctx.features[share.out])
            call = ctx.gemm(name, m, place, str(ctx.size), str(ctx.padded(share.out)), ctx.places[rows], target, str(n))
        ctx.out.line(call)
    if share.power is None:
        return
    power = past.powers[share.power]
    m, rows = ctx.places[power.state], ctx.places[power.rows]
    count = 1 if share.out is None else ctx.features[share.out]
    with row_side.lanes(ctx):
        ctx.out.line(f"empty, known_top = eq(load(F, {rows} + o), -INF), lt(load(F, {m} + o), INF)")
        with ctx.out.block("if any(or_(empty, not_(known_top))):"), ctx.out.block(f"for f in range({count}):"):
            cell = f"{target} + f * {ctx.pitch} + o"
            # a maximum that is not finite says nothing of the keys: NaN, so that the pairs are visited
            ctx.out.line(
                f"store({cell}, where(known_top, mul(load(F, {cell}), where(empty, splat(F, 0.0), 1.0)), NAN))"
            )


def ends(ctx: Context, start: str, stop: str) -> tuple[str, str]:
    """Where the sweep begins and ends: behind the keys of the past, and before those that no query of the tile sees."""
    (last,) = substitute([_past(ctx).last], {corner(I0): corner("i1")})
    ctx.out.line(f"first = max({start}, pos * (1 - careful))")
    ctx.out.line(f"last = min({stop}, {spelling(ctx).spell(last)} + 1)")
    return "first", "last"


def finite(ctx: Context) -> list[str]:
    """Whether the sums are, one by one: where they are not, a weight of 0 may hide what it weighs."""
    return [row_side.finite(ctx, share.accumulator, share.out) for share in _past(ctx).shares]
