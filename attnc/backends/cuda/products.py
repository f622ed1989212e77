"""Emission of matrix products: by tensor cores where the roles have 16 bits, else by multiply-adds on the same fragments."""

from __future__ import annotations

from attnc.backends.cuda import shared
from attnc.backends.cuda.context import Context, Tile
from attnc.tile.program import Dot, DotAcc

CHUNK = 32  # terms of a score that are summed one by one in float32


def dot(ctx: Context, s: Dot) -> None:
    """Scores S = Q K^T."""
    out, rows, keys = ctx.out, ctx.tiles[s.rows], ctx.tiles[s.keys]
    target = ctx.pair(s.name)
    _clear(ctx, target, ctx.schedule.keys // 8)
    if not ctx.types.tensor_cores:
        _dot_float(ctx, target, rows, keys)
        return
    a = ctx.registers("a", (ctx.schedule.tall, 4), "r")
    from_row, from_key = ctx.names.fresh(f"{s.rows}_at"), ctx.names.fresh(f"{s.keys}_at")
    row = f"({16 * ctx.schedule.tall} * warp + (lane & 15))"
    out.line(f"{from_row} = {shared.matrix(rows, rows.base, row, '(lane >> 4)')}")
    out.line(f"{from_key} = {shared.matrix(keys, keys.base, '((lane & 7) + (lane >> 4) * 8)', '(lane >> 3 & 1)')}")
    with out.block(f"for kk in unrolled({rows.shape.length // 16}):"):
        with out.block(f"for rt in unrolled({ctx.schedule.tall}):"):
            place = f"{shared.step(rows, from_row, 'kk')} + rt * {16 * rows.shape.width}"
            out.line(f"{_parts(a)} = ldmatrix({place})")
        with out.block(f"for n in unrolled({ctx.schedule.keys // 16}):"):
            out.line(f"b0, b1, b2, b3 = ldmatrix({shared.step(keys, from_key, 'kk')} + n * {16 * keys.shape.width})")
            _mma(ctx, target, a)


def dot_acc(ctx: Context, s: DotAcc) -> None:
    """Accumulation: acc = alpha acc + P V."""
    out, values, tall = ctx.out, ctx.tiles[s.values], ctx.schedule.tall
    target, weights = ctx.accumulator(s.accumulator, s.feature), ctx.arrays[s.weights]
    features = values.shape.length // 8
    rescale(ctx, s)
    if not ctx.types.tensor_cores:
        _dot_acc_float(ctx, target, weights, values)
        return
    a = ctx.registers("a", (tall, 4), "r")
    start = ctx.names.fresh(f"{s.values}_at")
    out.line(f"{start} = {shared.matrix(values, values.base, '(lane & 15)', '(lane >> 4)')}")
    with out.block(f"for kk in unrolled({ctx.schedule.keys // 16}):"):
        with out.block(f"for rt in unrolled({tall}):"):
            for n in range(4):
                pair = [f"{weights}[rt, 2 * kk + {n // 2}, {2 * (n % 2) + e}]" for e in range(2)]
                out.line(f"{a}[rt, {n}] = pack_{ctx.types.short}({', '.join(pair)})")
        with out.block(f"for n in unrolled({features // 2}):"):
            out.line(f"b0, b1, b2, b3 = ldmatrix_t({shared.step(values, start, 'n')} + kk * {16 * values.shape.width})")
            _mma(ctx, target, a)


def rescale(ctx: Context, s: DotAcc) -> None:
    """acc = alpha acc."""
    out, target, count = ctx.out, ctx.accumulator(s.accumulator, s.feature), ctx.vectors(1, s.feature).length // 8
    if s.scale is not None:
        with ctx.rows(), out.block(f"for ft in unrolled({count}):"), out.block("for e in unrolled(2):"):
            element = f"{target}[rt, ft, 2 * hf + e]"
            scale = f"{ctx.arrays[s.scale]}[rt, hf]"
            out.line(f"{element} = {dropped(scale, element) if s.drop else f'mul({scale}, {element})'}")


def dropped(scale: str, element: str) -> str:
    """A sum times 0 or 1, where 0 leaves nothing of it, not even a NaN."""
    return f"where(eq({scale}, 0.0), 0.0, {element})"


def _clear(ctx: Context, target: str, columns: int) -> None:
    out = ctx.out
    with ctx.rows(), out.block(f"for ct in unrolled({columns}):"), out.block("for e in unrolled(2):"):
        out.line(f"{target}[rt, ct, 2 * hf + e] = 0.0")


def _parts(a: str) -> str:
    return ", ".join(f"{a}[rt, {n}]" for n in range(4))


def _mma(ctx: Context, target: str, a: str) -> None:
    """Two column tiles, 2 n and 2 n + 1, of every row tile."""
    with ctx.out.block(f"for rt in unrolled({ctx.schedule.tall}):"):
        for n, b in enumerate(("b0, b1", "b2, b3")):
            ctx.out.line(f"ct = 2 * n + {n}" if n else "ct = 2 * n")
            cells = ", ".join(f"{target}[rt, ct, {e}]" for e in range(4))
            ctx.out.line(f"{cells} = mma_{ctx.types.short}({_parts(a)}, {b}, {cells})")


def _dot_float(ctx: Context, target: str, rows: Tile, keys: Tile) -> None:
    out, columns = ctx.out, ctx.schedule.keys // 8
    part = ctx.registers("part", (ctx.schedule.tall, columns, 4), "f")
    x = ctx.registers("row_features", (ctx.schedule.tall, 2), "f")
    y = ctx.registers("key_features", (columns, 2), "f")
    with out.block(f"for start in range(0, {rows.features}, {CHUNK}):"):
        _clear(ctx, part, columns)
        with out.block(f"for f in range(start, min(start + {CHUNK}, {rows.features})):"):
            with ctx.rows():
                out.line(f"{x}[rt, hf] = {shared.element(rows, 'row', 'f', 'f32')}")
            with ctx.keys():
                out.line(f"{y}[ct, e] = {shared.element(keys, 'key', 'f', 'f32')}")
            with ctx.rows(), ctx.keys():
                cell = f"{part}[rt, ct, 2 * hf + e]"
                out.line(f"{cell} = fma({x}[rt, hf], {y}[ct, e], {cell})")
        with ctx.rows(), ctx.keys():
            cell = f"{target}[rt, ct, 2 * hf + e]"
            out.line(f"{cell} = add({cell}, {part}[rt, ct, 2 * hf + e])")


def _dot_acc_float(ctx: Context, target: str, weights: str, values: Tile) -> None:
    """A weight lies in one of the four threads that share a row: each reads those of the three others in turn."""
    out = ctx.out
    p = ctx.registers("p", (ctx.schedule.tall, 2), "f")
    with ctx.keys(), out.block("for turn in range(4):"):
        with ctx.rows():
            out.line(f"{p}[rt, hf] = shuffle_f({weights}[rt, ct, 2 * hf + e], turn)")
        out.line("key = 8 * ct + 2 * (quad ^ turn) + e")
        with out.block(f"for ft in unrolled({values.shape.length // 8}):"), out.block("for c in unrolled(2):"):
            place = f"{values.base} + {shared.offset(values, 'key', '(8 * ft + first_key + c)')}"
            out.line(f"value = load_shared_f({place})")
            with ctx.rows():
                cell = f"{target}[rt, ft, 2 * hf + c]"
                out.line(f"{cell} = fma({p}[rt, hf], value, {cell})")
