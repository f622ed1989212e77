"""Emission of the second, careful run of a sweep, where a weight of 0 keeps NaN and infinite values from the output.

The first run multiplies as the hardware does. NaN and infinity stay in a sum, so where all sums are finite none has leaked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from attnc.backends.cuda.context import Context
from attnc.backends.cuda.leaves import LEAST
from attnc.backends.leaves import number
from attnc.tile.program import DotAcc, Keys, Map, Statement

INFINITY = {
    "bf16": ("load_shared_h", "0x7f80"),
    "f16": ("load_shared_h", "0x7c00"),
    "f32": ("load_shared_r", "0x7f800000"),
}


@contextmanager
def runs(ctx: Context, keys: Keys) -> Iterator[None]:
    """The loop around a sweep: once more, carefully, where a sum of products is not finite."""
    found = guarded([keys])
    ctx.careful = bool(found)
    if not found:
        yield
        return
    out = ctx.out
    if ctx.repairs:
        out.line("careful = True")
        yield
        ctx.careful = False
        return
    out.line("careful = False")
    with out.block("while True:"):
        yield
        not_finite(ctx, found)
        with out.block("if careful or not barrier_or(more):"):
            out.line("break")
        out.line("careful = True  # again, with weights of 0 kept from NaN and infinite values")
    ctx.careful = False


def guarded(keys: Iterable[Keys]) -> dict[str, str]:
    """Sums that weights of 0 must keep from values that are not finite, with their features."""
    bodies = [body for each in keys for body in (each.full, each.partial)]
    return {s.accumulator: s.feature for body in bodies for s in body if isinstance(s, DotAcc) and s.skip_zero}


def not_finite(ctx: Context, sums: Mapping[str, str]) -> None:
    """Print `more`: whether a sum of a thread's live rows is not finite."""
    out = ctx.out
    out.line("more = False  # whether a sum is not finite")
    with ctx.rows():
        out.line("value = cast_float(0.0)")
        for name, feature in sums.items():
            with (
                out.block(f"for ft in unrolled({ctx.vectors(1, feature).length // 8}):"),
                out.block("for e in unrolled(2):"),
            ):
                out.line(f"value = fma({ctx.accumulator(name, feature)}[rt, ft, 2 * hf + e], 0.0, value)")
        out.line("more = or_(more, and_(ne(value, 0.0), lt(first_row + 16 * rt + 8 * hf, ni)))")


def keep(ctx: Context, s: Map) -> None:
    """In a careful run: weights are 0 only where a pair is masked."""
    weight, exponent = (f"{ctx.arrays[name]}[rt, ct, 2 * hf + e]" for name in (s.name, s.graph.operands[0]["name"]))
    with ctx.out.block("if careful:"), ctx.rows(), ctx.keys():
        masked = f"le({exponent}, {number(s.graph.operands[2]['value'])})"
        ctx.out.line(f"{weight} = where({masked}, 0.0, maximum({weight}, {LEAST}))")


def take_out(ctx: Context, s: DotAcc, body: Sequence[Statement]) -> None:
    """In a careful run: notes the values of a tile that are not finite, and makes them 0. Once for all that reads the tile."""
    same = [x for x in body if isinstance(x, DotAcc) and x.values == s.values]
    if not ctx.careful or s != same[0]:
        return
    tile = ctx.tiles[s.values]
    shape = tile.shape
    load, infinity = INFINITY[ctx.types.short]
    width = shape.width.bit_length() - 1
    sizes = f"{shape.rows}, {shape.length}, {width}, {ctx.schedule.threads}"
    with ctx.out.block("if careful:"):
        ctx.out.line(f"take_out({load}, {infinity}, {tile.base}, {_notes(ctx, s)}, {sizes})")


@contextmanager
def in_range(ctx: Context, s: DotAcc, body: Sequence[Statement]) -> Iterator[None]:
    """Around a product: in a careful run, weights that float16 cannot hold are taken relative to a power of two."""
    bounded = any(isinstance(x, Map) and x.name == s.weights and x.graph.op == "weight" for x in body)
    if not ctx.careful or bounded or ctx.types.short != "f16":
        yield
        return
    out, cell = ctx.out, f"{ctx.arrays[s.weights]}[rt, ct, 2 * hf + e]"
    unit = f"{ctx.row('unit', 'float')}[rt, hf]"
    with out.block("if careful:"), ctx.rows():
        out.line("value = cast_float(1.0)")
        with ctx.keys():
            out.line(f"value = maximum_fast(value, abs({cell}))")
        for mask in (1, 2):
            out.line(f"value = maximum_fast(value, shuffle_f(value, {mask}))")
        out.line(f"{unit} = exp2(floor(log2(minimum(value, 1e38))))")
    _scale(ctx, s, cell, f"div({{}}, {unit})")
    yield
    _scale(ctx, s, cell, f"mul({{}}, {unit})")


def _scale(ctx: Context, s: DotAcc, weight: str, form: str) -> None:
    """The weights and the sums, scaled."""
    out, array = ctx.out, ctx.accumulator(s.accumulator, s.feature)
    with out.block("if careful:"), ctx.rows():
        with ctx.keys():
            out.line(f"{weight} = {form.format(weight)}")
        with (
            out.block(f"for ft in unrolled({ctx.vectors(1, s.feature).length // 8}):"),
            out.block("for e in unrolled(2):"),
        ):
            cell = f"{array}[rt, ft, 2 * hf + e]"
            out.line(f"{cell} = {form.format(cell)}")


def put_back(ctx: Context, s: DotAcc) -> None:
    """In a careful run: adds what was taken out, where its weight is not 0."""
    if not ctx.careful:
        return
    out, weights, tile = ctx.out, ctx.arrays[s.weights], ctx.tiles[s.values]
    relation = "lt" if s.skip_zero else "le"  # without the rule for weights of 0 they make NaN: both signs at once
    count = tile.shape.length // 8
    above, below = (f"{ctx.row(name, 'int')}[rt, hf]" for name in ("above", "below"))
    with out.block("if careful:"):
        with ctx.rows():
            out.line(f"{above}, {below} = 0, 0")
            with ctx.keys():
                for name, operands in ((above, "0.0, {}"), (below, "{}, 0.0")):
                    cell = operands.format(f"{weights}[rt, ct, 2 * hf + e]")
                    out.line(f"{name} = {name} | where({relation}({cell}), shl(cast_int(1), 8 * ct + e), 0)")
        with ctx.rows():
            out.line(f"{above}, {below} = of_quad(shl({above}, first_key)), of_quad(shl({below}, first_key))")
            with out.block(
                f"for n in range({2 * count}):"
            ):  # a loop that stays one: few registers matter here, not time
                out.line(f"value = unbounded({_notes(ctx, s)}, 8 * (n >> 1) + first_key + (n & 1), {above}, {below})")
                with out.block(f"for ft in unrolled({count}):"), out.block("for e in unrolled(2):"):
                    cell = f"{ctx.arrays[s.accumulator]}[rt, ft, 2 * hf + e]"
                    out.line(f"{cell} = add({cell}, where(eq(2 * ft + e, n), value, 0.0))")


def _notes(ctx: Context, s: DotAcc) -> str:
    return ctx.room(f"{s.values}_notes", 24 * ctx.tiles[s.values].shape.length)
