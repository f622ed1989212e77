"""Emission of what concerns the keys of a tile: where their vectors lie, feature sums per key, score products."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.backends.cpu import few_rows, items
from attnc.backends.cpu.context import LANES, Context, Span, Vectors
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.rows import anything, lanes, matrix_place, neutral, no_features
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, node
from attnc.runtime.arrays import ITEMSIZE
from attnc.tile.lower import COMBINE
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Load


def role_start(ctx: Context, role: str) -> str:
    """The first key vector of this work item's head, computed once per item."""
    name = f"{role}_head"
    if name not in ctx.item.names.values():
        ctx.item.names[node("role", name=role)] = name
        head = f"{items.kv_head(ctx)} * {ctx.word(f'{role}_h')}"
        ctx.item.out.line(f"{name} = {ctx.word(f'{role}_p')} + b * {ctx.word(f'{role}_b')} + {head}")
    return name


def load(ctx: Context, s: Load) -> None:
    """Key vectors: used where they lie if the arithmetic can read them, else converted or computed into scratch."""
    if s.graph.op == "role":
        step = ctx.word(f"{s.graph['name']}_l")
        base = ctx.names.fresh(s.name)
        ctx.out.line(f"{base} = {role_start(ctx, s.graph['name'])} + j0 * {step}")
        source = Vectors(base, step, False, ctx.types.roles)
        if ctx.types.roles == ctx.types.compute or s.name in ctx.direct | ctx.paired:
            ctx.vectors[s.name] = source
            return
        target = ctx.key_features(s.name + "_wide", s.feature)
        ctx.vectors[s.name] = target
        n = ctx.features[s.feature]
        ctx.out.line(
            f"widen(F, {target.base}, {target.pitch}, {ctx.size}, {base}, {step}, AS_{ctx.types.roles}, "
            f"{ITEMSIZE[ctx.types.roles]}, nj, {n}, {ctx.schedule.width})"
        )
        return
    target = ctx.key_features(s.name, s.feature)
    if s.graph.op == "project":
        _project(ctx, s, target)
    else:
        ctx.vectors[s.name] = target
        with ctx.out.block("for jj in range(nj):"):
            ctx.out.line("j = j0 + jj")
            for text, _ in _chunks(ctx, s.graph, s.feature):
                ctx.out.line(f"store({target.base} + jj * {target.pitch} + f * {ctx.size}, {text})")


def _chunks(ctx: Context, graph: Node, feature: str) -> Iterator[tuple[str, str | None]]:
    """Loops over the features of a key, around what the caller prints: the graph on a vector, and its lanes if not all."""
    n, width = ctx.features[feature], ctx.schedule.width
    whole = n // width * width
    column = Scope(ctx.out.place(), no_features)
    for start, end, first in ((0, whole, None), (whole, n, str(n % width))):
        if start < end:
            with ctx.out.block(f"for f in range({start}, {end}, {width}):"):
                spelling = Spelling(ctx, [ctx.item, column, Scope(ctx.out.place(), anything)], "features", first)
                spelling.expect([graph])
                yield spelling.vector(graph), first


def _project(ctx: Context, s: Load, target: Vectors) -> None:
    vector, matrix = s.graph.operands
    source = ctx.vectors[vector["name"]]
    address, row = matrix_place(ctx, matrix)
    ctx.vectors[s.name] = target
    rows, cols = ctx.schedule.tile
    width = ctx.schedule.width * ctx.size
    n = ctx.features[s.graph["contract"]]
    ctx.out.line(
        f"gemm_zero(F, {rows}, {cols}, nj, {int(target.pitch) // width}, {source.base}, {source.pitch}, {ctx.size}, "
        f"{address}, {row}, {target.base}, {target.pitch}, {n}, 0)"
    )


def reduce(ctx: Context, s: FeatureReduce) -> None:
    """A reduction over the features of each key."""
    target = ctx.column(s.name)
    with ctx.out.block("for jj in range(nj):"):
        ctx.out.line("j = j0 + jj")
        total = ctx.names.fresh(s.name)
        kind = s.graph.dtype
        ctx.out.line(f"{total} = splat({LANES[kind]}, {neutral(s.how, kind)})")
        for text, first in _chunks(ctx, s.graph, s.feature):
            if first is not None:
                text = f"where(lt(iota(I, 0), {first}), {text}, {neutral(s.how, kind)})"
            ctx.out.line(f"{total} = {COMBINE[s.how]}({total}, {text})")
        ctx.out.line(f"store({target} + jj * 8, reduce_{s.how}({total}))")


def dot(ctx: Context, s: Dot, vectors: Span, keys: Span) -> None:
    """Scores of these queries and keys: S^T = K Q^T."""
    if ctx.form.few:
        few_rows.dot(ctx, s)
        return
    k = ctx.vectors[s.keys]
    pairs = s.keys in ctx.paired
    name, n = ("gemm_pairs", ctx.features[s.feature] // 2) if pairs else ("gemm_zero", ctx.features[s.feature])
    first, scores = keys.place(k.base, k.pitch), keys.place(ctx.pair(s.name), ctx.pitch)
    rows = ctx.places[s.rows]
    ctx.out.line(ctx.gemm(name, keys.count, first, k.pitch, str(ctx.size), rows, scores, str(n), x=vectors))


def dot_acc(ctx: Context, s: DotAcc, vectors: Span, keys: Span) -> None:
    """Accumulation over these keys for these queries: acc^T = alpha acc^T + V^T P^T."""
    if s.drop:
        _drop(ctx, s, vectors)
    if ctx.form.few:
        few_rows.dot_acc(ctx, s)
        return
    values = ctx.vectors[s.values]
    first, weights = keys.place(values.base, values.pitch), keys.place(ctx.places[s.weights], ctx.pitch)
    name = "gemm_add" if s.scale is None else "gemm_scale"
    scale = "0" if s.scale is None else ctx.places[s.scale]
    m = str(ctx.features[s.feature])

    def call(name: str) -> str:
        target = ctx.places[s.accumulator]
        return ctx.gemm(name, m, first, str(ctx.size), values.pitch, weights, target, keys.count, scale, vectors)

    if not s.skip_zero:
        ctx.out.line(call(name))
        return
    with ctx.out.block("if careful == 0:"):
        ctx.out.line(call(name))
    with ctx.out.block("else:"):
        ctx.out.line(call(name + "_masked"))


def _drop(ctx: Context, s: DotAcc, vectors: Span) -> None:
    """0 for sums of which nothing may be left: times 0, a NaN is one."""
    assert s.scale is not None
    if ctx.form.few:
        few_rows.drop(ctx, s, ctx.places[s.scale])
        return
    with lanes(ctx, vectors):
        ctx.out.line(f"gone = eq(load(F, {ctx.places[s.scale]} + o), 0.0)")
        with ctx.out.block("if any(gone):"), ctx.out.block(f"for f in range({ctx.features[s.feature]}):"):
            place = f"{ctx.places[s.accumulator]} + f * {ctx.pitch} + o"
            ctx.out.line(f"store({place}, where(gone, 0.0, load(F, {place})))")
