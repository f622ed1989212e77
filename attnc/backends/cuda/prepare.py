"""Emission of feature vectors that a kernel computes: from a tile in shared memory into another one, rounded to the roles' dtype.

Every thread computes single numbers. Projections are sums of products in float32, without tensor cores.
"""

from __future__ import annotations

from attnc.backends.cuda import shared
from attnc.backends.cuda.body import indices, spelling
from attnc.backends.cuda.context import Context, Tile
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node
from attnc.passes.expand import feature_axes
from attnc.tile.program import Load

CHUNK = 32  # terms that are summed one by one


def of_rows(ctx: Context, s: Load) -> None:
    """Vectors of the queries. A warp reads and writes its own ones only."""
    tile = ctx.tiles[s.name] = ctx.allocate(s.name, ctx.schedule.rows, s.feature)
    ctx.out.line(f"# {s.name}: vectors of the queries, computed")
    with ctx.rows():
        indices(ctx, s.graph)
        alone = Scope(ctx.out.place(), _no_features)
        with ctx.out.block(f"for ft in unrolled({tile.shape.length // 8}):"), ctx.out.block("for e in unrolled(2):"):
            ctx.out.line("c = 8 * ft + first_key + e")
            _write(ctx, s, tile, "row", "True", alone)
    ctx.publish("i")


def of_keys(ctx: Context, s: Load) -> None:
    """Vectors of the keys of a tile; those behind the last key are 0."""
    tile = ctx.tiles[s.name] = ctx.allocate(s.name, ctx.schedule.keys, s.feature)
    at_once = 8 * ctx.schedule.warps
    passes = -(-tile.shape.length // at_once)
    ctx.out.line(f"# {s.name}: vectors of the keys, computed")
    with ctx.keys():
        indices(ctx, s.graph)
        ctx.out.line("live = lt(now + first_key + 8 * ct + e, kv_len)")
        alone = Scope(ctx.out.place(), _no_features)
        with ctx.out.block(f"for n in range({passes}):"):
            c = f"{at_once} * n + 8 * warp + (lane >> 2)"
            if tile.shape.length % at_once:  # the last feature again, by several threads
                c = f"minimum({c}, {tile.shape.length - 1})"
            ctx.out.line(f"c = {c}")
            _write(ctx, s, tile, "key", "live", alone)
    ctx.publish("j")


def _no_features(x: Node) -> bool:
    """Whether x can be computed outside of a loop over features."""
    return not feature_axes(x)


def _write(ctx: Context, s: Load, tile: Tile, side: str, live: str, alone: Scope) -> None:
    """Feature c of a vector; padding is 0."""
    out = ctx.out
    if tile.features < tile.shape.length:
        live = f"lt(c, {tile.features})" if live == "True" else f"and_({live}, lt(c, {tile.features}))"
        out.line(f"f = minimum(c, {tile.features - 1})")
    else:
        out.line("f = c")
    text = _projected(ctx, s, alone) if s.graph.op == "project" else spelling(ctx, s.graph, "f", alone).spell(s.graph)
    value = text if live == "True" else f"where({live}, {text}, 0.0)"
    place = f"{tile.base} + {shared.offset(tile, shared.ROW[side], 'c')}"
    if ctx.types.tensor_cores:
        out.line(f"store_shared_h({place}, pack_{ctx.types.short}({value}, 0.0))")
    else:
        out.line(f"store_shared_f({place}, {value})")


def _projected(ctx: Context, s: Load, alone: Scope) -> str:
    """Prints the sum over the features x of the vector times column f of the matrix; where the sum is."""
    out, n = ctx.out, ctx.features[s.graph["contract"]]
    vector, matrix = s.graph.operands
    total, part = ctx.names.fresh(s.name), ctx.names.fresh("part")
    columns = spelling(ctx, matrix, "f", alone)
    place = columns.place(matrix, [columns.spell(x, alone) for x in matrix.operands])
    table, axes = f"t_{matrix['name']}", len(matrix.operands)
    row, column = (ctx.word(f"{table}_s{axes + n}") for n in range(2))
    out.line(f"{total} = cast_float(0.0)")
    with out.block(f"for first in range(0, {n}, {CHUNK}):"):
        out.line(f"{part} = cast_float(0.0)")
        with out.block(f"for x in range(first, min(first + {CHUNK}, {n})):"):
            number = spelling(ctx, vector, "x").spell(vector)
            out.line(f"value = load_f32({ctx.word(f'{table}_p')} + ({place} + x * {row} + f * {column}) * 4)")
            out.line(f"{part} = fma({number}, value, {part})")
        out.line(f"{total} = add({total}, {part})")
    return total
