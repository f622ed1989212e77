"""Emission of a sweep for few queries: their features and accumulators row by row, and the two products on them (`few.py`).

Everything else keeps its place: scores are [key][query], row statistics and finished accumulators [feature][query].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc.backends.cpu.context import Context
from attnc.tile.program import Dot, DotAcc, Keys, Load, State, Statement, reads


def direct(statements: Sequence[Statement]) -> set[str]:
    """The key features that nothing but products reads: those need not be widened."""
    found = {s.name for s in statements if isinstance(s, Load)}
    others = [reads(s) for s in statements if not isinstance(s, Dot | DotAcc)]
    return found.difference(*others)


def holds(ctx: Context, s: State) -> bool:
    """Whether a state is an accumulator that is kept row by row."""
    return ctx.form.few and s.feature is not None


def queries(ctx: Context, keys: Keys) -> None:
    """The rows of all scores of a sweep, each filled up to whole vectors with zeros."""
    width, count = ctx.schedule.width, ctx.schedule.rows
    found = {s.rows: s.feature for s in (*keys.full, *keys.partial) if isinstance(s, Dot)}
    for name, feature in found.items():
        n, pitch = ctx.features[feature], ctx.wide(feature)
        place = ctx.row_major[name] = ctx.allocate(f"{name}_few", count * pitch)
        if n * ctx.size < pitch:
            ctx.out.line(f"fill(F, {place}, {count}, {pitch}, {pitch // (width * ctx.size)}, {width * ctx.size})")
        source = f"{ctx.places[name]}, {ctx.pitch}"
        ctx.out.line(f"unpack_rows(T, {place}, {pitch}, AS_{ctx.types.compute}, {source}, {count}, {n})")


def state(ctx: Context, name: str, feature: str) -> None:
    """An accumulator of zeros, its rows an even number."""
    pitch, step = ctx.wide(feature), ctx.schedule.width * ctx.size
    if name not in ctx.row_major:
        ctx.row_major[name] = ctx.allocate(f"{name}_few", ctx.schedule.rows * pitch)
    ctx.out.line(f"fill(F, {ctx.row_major[name]}, (ni + 1) // 2 * 2, {pitch}, {pitch // step}, {step})")


def finite(ctx: Context, s: DotAcc) -> str:
    """Whether an accumulator has neither NaN nor infinity."""
    return f"all_finite(F, {ctx.row_major[s.accumulator]}, ni, {ctx.wide(s.feature)}, {ctx.features[s.feature]})"


def transpose(ctx: Context, states: Iterable[State]) -> None:
    """Finished accumulators to where all other steps read them."""
    for s in states:
        if s.feature is not None:
            n, source = ctx.features[s.feature], f"{ctx.row_major[s.name]}, {ctx.wide(s.feature)}"
            target = f"{ctx.row_features(s.name, s.feature)}, {ctx.pitch}"
            lanes = f"nx * {ctx.schedule.width}"
            ctx.out.line(f"pack_rows(T, {target}, {source}, AS_{ctx.types.compute}, ni, {lanes}, {n})")


def dot(ctx: Context, s: Dot) -> None:
    """Scores of all keys of the tile."""
    k, n, q = ctx.vectors[s.keys], ctx.features[s.feature], ctx.row_major[s.rows]
    rows = f"{q}, {ctx.wide(s.feature)}"
    ctx.out.line(f"few_dot(G, AS_{k.stored}, {n}, ni, nj, {k.base}, {k.pitch}, {rows}, {ctx.pair(s.name)})")


def dot_acc(ctx: Context, s: DotAcc) -> None:
    """Accumulation over all keys of the tile."""
    v, n = ctx.vectors[s.values], ctx.features[s.feature]
    name, scale = ("few_add", "0") if s.scale is None else ("few_scale", ctx.places[s.scale])
    target = f"{ctx.row_major[s.accumulator]}, {ctx.wide(s.feature)}"
    operands = f"G, AS_{v.stored}, {n}, ni, nj, {v.base}, {v.pitch}, {ctx.places[s.weights]}, {target}, {scale}"
    if not s.skip_zero:
        ctx.out.line(f"{name}({operands})")
        return
    with ctx.out.block("if careful == 0:"):
        ctx.out.line(f"{name}({operands})")
    with ctx.out.block("else:"):
        ctx.out.line(f"{name}_masked({operands})")


def drop(ctx: Context, s: DotAcc, scale: str) -> None:
    """0 for rows of an accumulator whose scale is 0."""
    pitch, step = ctx.wide(s.feature), ctx.schedule.width * ctx.size
    with ctx.out.block("for r in range(ni):"), ctx.out.block(f"if load(T, {scale} + r * {ctx.size}) == 0.0:"):
        ctx.out.line(f"fill(F, {ctx.row_major[s.accumulator]} + r * {pitch}, 1, {pitch}, {pitch // step}, {step})")
