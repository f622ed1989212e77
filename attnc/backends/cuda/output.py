"""Emission of the outputs: every thread stores the elements of its fragments, two neighbours at once where they are aligned.

What a query's accumulated features sum up to (the norm of its output) is reduced here too.
"""

from __future__ import annotations

from attnc.backends.cuda import items
from attnc.backends.cuda.body import NEUTRAL, indices, spelling
from attnc.backends.cuda.context import SHORT, Context
from attnc.ir.graph import Node, topological
from attnc.passes.expand import feature_axes
from attnc.runtime.arrays import ITEMSIZE
from attnc.tile.lower import COMBINE
from attnc.tile.program import FeatureReduce, Store


def store(ctx: Context, s: Store) -> None:
    """An output (i) or (i, f)."""
    dtype = ctx.types.outputs[s.index]
    word, size = f"out{s.index}_", ITEMSIZE[dtype]
    base = ctx.names.fresh(f"out{s.index}")
    first, row = items.place(ctx, word)
    ctx.out.line(f"{base} = {first}")
    if s.feature is None:
        with ctx.rows():
            indices(ctx, s.graph)
            ctx.out.line("r = first_row + 16 * rt + 8 * hf")
            _single(
                ctx,
                dtype,
                "and_(eq(quad, 0), lt(r, ni))",
                f"{base} + {row}",
                spelling(ctx, s.graph).spell(s.graph),
            )
        return
    n = ctx.features[s.feature]
    length = ctx.vectors(1, s.feature).length
    found = cells(s.graph)
    with ctx.rows(), ctx.out.block(f"for ft in unrolled({length // 8}):"):
        indices(ctx, s.graph)
        ctx.out.line("r, f = first_row + 16 * rt + 8 * hf, 8 * ft + first_key")
        texts = [element(ctx, s.graph, found, e, n, length) for e in range(2)]
        place = f"{base} + {row} + f * {size}"
        live = "lt(r, ni)" if length == n else f"and_(lt(r, ni), lt(f, {n}))"
        if dtype in SHORT and n % 2 == 0 and ctx.aligned:
            ctx.out.line(f"store_r_if({live}, {place}, pack_{SHORT[dtype]}({', '.join(texts)}))")
        else:
            _single(ctx, dtype, live, place, texts[0])
            after = "lt(r, ni)" if length == n else f"and_(lt(r, ni), lt(f + 1, {n}))"
            _single(ctx, dtype, after, f"{place} + {size}", texts[1])


def reads_accumulators(ctx: Context, graph: Node) -> bool:
    """Whether a graph over features reads accumulators, which lie in registers."""
    return any(x["name"] in ctx.arrays for x in cells(graph))


def reduce_features(ctx: Context, s: FeatureReduce) -> None:
    """Over a thread's features of a query, then over the four threads that share it."""
    n, length, kind = ctx.features[s.feature], ctx.vectors(1, s.feature).length, s.graph.dtype
    combine, neutral, found = COMBINE[s.how], NEUTRAL[kind][s.how], cells(s.graph)
    target = ctx.row(s.name, kind)
    with ctx.rows():
        total = ctx.names.fresh(s.name)
        ctx.out.line(f"{total} = cast_{kind}({neutral})")
        indices(ctx, s.graph)
        with ctx.out.block(f"for ft in unrolled({length // 8}):"):
            ctx.out.line("f = 8 * ft + first_key")
            for e in range(2):
                text = element(ctx, s.graph, found, e, n, length)
                if length != n:
                    text = f"where(lt(f + {e}, {n}), {text}, {neutral})"
                ctx.out.line(f"{total} = {combine}({total}, {text})")
        shuffle = "shuffle_f" if kind == "float" else "shuffle_l"
        for mask in (1, 2):
            ctx.out.line(f"{total} = {combine}({total}, {shuffle}({total}, {mask}))")
        ctx.out.line(f"{target}[rt, hf] = {total}")


def cells(graph: Node) -> list[Node]:
    """What a graph over queries and features reads."""
    return [x for x in topological([graph]) if x.op == "value" and "i" in x.axes and feature_axes(x)]


def element(ctx: Context, graph: Node, found: list[Node], e: int, n: int, length: int) -> str:
    """The text of an output's element; tables of n features are not read behind them."""
    feature = "f" if e == 0 else "(f + 1)"
    speller = spelling(ctx, graph, f"minimum({feature}, {n - 1})" if n < length else feature)
    for x in found:
        if x["name"] in ctx.arrays:
            speller.elements[x["name"]] = f"{ctx.arrays[x['name']]}[rt, ft, 2 * hf + {e}]"
    return speller.spell(graph)


def _single(ctx: Context, dtype: str, live: str, place: str, text: str) -> None:
    if dtype in SHORT:
        ctx.out.line(f"store_h_if({live}, {place}, pack_{SHORT[dtype]}({text}, 0.0))")
    else:
        ctx.out.line(f"store_f32_if({live}, {place}, {text})")
