"""Emission of what concerns shared memory: where an element of a tile lies, copies into it, and the addresses of ldmatrix."""

from __future__ import annotations

from attnc.backends.cuda.context import Context, Tile
from attnc.schedule.mma import CHUNK

LOAD = {
    "bf16": "low_bf16(load_shared_h({}))",
    "f16": "low_f16(load_shared_h({}))",
    "f32": "load_shared_f({})",
}
# The vector of a tile that a thread's element belongs to.
ROW = {"row": "(first_row + 16 * rt + 8 * hf)", "key": "(first_key + 8 * ct + e)"}


def _inside(tile: Tile, row: str, number: str) -> str:
    """Where a chunk lies within its panel."""
    mask = tile.shape.chunks - 1
    swizzle = f"{row} & {mask}" if tile.shape.shift == 0 else f"{row} >> {tile.shape.shift} & {mask}"
    return f"{row} * {tile.shape.width} + (({number} ^ {swizzle}) << 4)"


def chunk(tile: Tile, row: str, number: str) -> str:
    """Where a chunk of 16 bytes of a row lies within the tile."""
    s = tile.shape
    if s.panel == s.bytes:
        return _inside(tile, row, number)
    return f"{number} // {s.chunks} * {s.panel} + " + _inside(tile, row, f"{number} % {s.chunks}")


def offset(tile: Tile, row: str, feature: str) -> str:
    """Where one number lies within the tile."""
    per = CHUNK // tile.shape.itemsize
    return f"{chunk(tile, row, f'({feature} // {per})')} + {feature} % {per} * {tile.shape.itemsize}"


def element(tile: Tile, side: str, feature: str, short: str) -> str:
    """The element of a thread's row ('row') or key ('key') as a float."""
    return LOAD[short].format(f"{tile.base} + {offset(tile, ROW[side], feature)}")


def copy(ctx: Context, tile: Tile, target: str, source: str, row: str, count: str) -> None:
    """Issues the copies of a tile: `count` rows, the others zeros. Row n is at `source` + `row` with n for {}.

    Where rows are not made of aligned chunks of 16 bytes, numbers are read and written one pair after the other, at once.
    """
    out, s = ctx.out, tile.shape
    size = tile.features * s.itemsize
    if ctx.aligned:
        per = s.length * s.itemsize // CHUNK
    else:
        per = s.length // 2
    passes, rest = divmod(s.rows * per, ctx.schedule.threads)
    assert rest == 0, f"{s.rows} rows of {per} parts are not shared evenly by {ctx.schedule.threads} threads"
    out.line(f"last = {count} - 1")
    with out.block(f"for p in range({passes}):"):
        out.line(f"x = p * {ctx.schedule.threads} + thread()")
        out.line(f"r, c = x // {per}, x % {per}")
        step = f" + c * {CHUNK}" if ctx.aligned else ""
        out.line(f"address = {source} + {row.format('minimum(r, last)')}{step}")
        if ctx.aligned:
            full = size == s.length * s.itemsize
            live = "le(r, last)" if full else f"and_(le(r, last), lt(c, {size // CHUNK}))"
            out.line(f"copy16({target} + {chunk(tile, 'r', 'c')}, address, where({live}, 16, 0))")
        else:
            _pair(ctx, tile, target)


def _pair(ctx: Context, tile: Tile, target: str) -> None:
    """Two numbers of row r; zeros where there are none."""
    out, s, short = ctx.out, tile.shape, ctx.types.short
    for n, name in enumerate(("even", "odd")):
        feature = f"2 * c + {n}" if n else "2 * c"
        number = f"load_{short}(address + minimum({feature}, {tile.features - 1}) * {s.itemsize})"
        out.line(f"{name} = where(and_(le(r, last), lt({feature}, {tile.features})), {number}, 0.0)")
    goal = f"{target} + {offset(tile, 'r', '(2 * c)')}"
    if short == "f32":
        out.line(f"store_shared_f({goal}, even)")
        out.line(f"store_shared_f({goal} + 4, odd)")
    else:
        out.line(f"store_shared_r({goal}, pack_{short}(even, odd))")


def matrix(tile: Tile, base: str, row: str, high: str) -> str:
    """The address that a thread gives to ldmatrix: row `row` of a tile, chunk `high` (0 or 1) of the first pair of chunks."""
    return f"{base} + {_inside(tile, row, high)}"


def step(tile: Tile, address: str, pair: str) -> str:
    """That address moved to another pair of chunks: 16 features of 16 bits."""
    pairs = tile.shape.chunks // 2
    if tile.shape.panel == tile.shape.bytes:
        return f"({address} ^ {pair} << 5)"
    if pairs == 1:
        return f"({address} + {pair} * {tile.shape.panel})"
    return f"({address} + {pair} // {pairs} * {tile.shape.panel} ^ {pair} % {pairs} << 5)"
