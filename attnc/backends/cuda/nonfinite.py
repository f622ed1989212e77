"""Products with values that are NaN or infinite, where a weight of 0 must add nothing: Python that kernels call.

Such values are noted and replaced by 0 before the product, and what those with a weight that is not 0 add comes behind it. For
each feature there are three numbers of 64 bits in shared memory: of which of the tile's keys the value is NaN, inf and -inf.
"""

from __future__ import annotations

from typing import Any

from attnc.backends.cuda.elementwise import and_, eq, minimum, ne, or_, resize, shl, where
from attnc.backends.cuda.intrinsics import barrier, device, load_shared_r, shuffle_l, store_shared_r, thread

INF, NAN = float("inf"), float("nan")
NOTE = 24  # bytes of a feature


@device("l")
def of_quad(bits: Any) -> Any:
    """The bits that any of the four threads has that share a row."""
    bits = bits | shuffle_l(bits, 1)
    return bits | shuffle_l(bits, 2)


@device("")
def take_out(load: Any, infinity: Any, tile: Any, notes: Any, rows: Any, length: Any, width: Any, threads: Any) -> Any:
    """Notes what is not finite in a tile of keys and writes 0 in its place.

    load: reads an element's bits from shared memory; infinity: the bits of inf. rows vectors of `length` elements lie in panels
    of 2**width bytes a row, chunks of 16 bytes permuted. All threads of the block call it.
    """
    wide = infinity > 65535  # elements of 4 bytes
    for start in range(0, length, threads):
        f = minimum(start + thread(), length - 1)  # the last feature again, by several threads
        size = where(wide, 2, 1)
        chunk = f >> (4 - size)
        panel, inside = chunk >> (width - 4), chunk & (shl(1, width - 4) - 1)
        place = tile + panel * shl(rows, width) + ((f & ((16 >> size) - 1)) << size)
        nans, above, below = 0, 0, 0
        for key in range(rows):
            swizzle = (key >> (7 - width)) & (shl(1, width - 4) - 1)
            bits = resize(load(place + shl(key, width) + ((inside ^ swizzle) << 4)), 64)
            magnitude = bits & where(wide, 0x7FFFFFFF, 0x7FFF)
            bit = shl(1, key)
            nans = nans | where(magnitude > infinity, bit, 0)
            above = above | where(and_(magnitude == infinity, bits == magnitude), bit, 0)
            below = below | where(and_(magnitude == infinity, bits != magnitude), bit, 0)
        note = notes + NOTE * f
        for word in range(2):
            store_shared_r(note + 4 * word, nans >> (32 * word))
            store_shared_r(note + 8 + 4 * word, above >> (32 * word))
            store_shared_r(note + 16 + 4 * word, below >> (32 * word))
    barrier()
    for start in range(0, rows * length >> where(wide, 0, 1), threads):  # words
        place = tile + 4 * (start + thread())
        word = resize(load_shared_r(place), 64)
        if wide:
            word = where(eq(word & infinity, infinity), 0, word)
        else:
            high = shl(infinity, 16)
            word = where(eq(word & infinity, infinity), word & -65536, word)
            word = where(eq(word & high, high), word & 65535, word)
        store_shared_r(place, word)
    barrier()


@device("l")
def _note(place: Any) -> Any:
    low, high = resize(load_shared_r(place), 64), resize(load_shared_r(place + 4), 64)
    return (low & 0xFFFFFFFF) | (high << 32)


@device("f")
def unbounded(notes: Any, f: Any, above: Any, below: Any) -> Any:
    """What the values of feature f that were taken out add: 0, inf, -inf or NaN; above, below: keys of weights above and below 0."""
    place = notes + NOTE * f
    nans, positive, negative = _note(place), _note(place + 8), _note(place + 16)
    up = ne((positive & above) | (negative & below), 0)
    down = ne((positive & below) | (negative & above), 0)
    lost = or_(ne(nans & (above | below), 0), and_(up, down))
    return where(lost, NAN, where(up, INF, where(down, -INF, 0.0)))
