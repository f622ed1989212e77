"""Least and greatest entries of ranges of a table: summaries, made by a launch of their own, and the questions of tiles.

Along one axis a table is cut into blocks of 64 entries; two segment trees over the blocks hold their least and greatest
entries. Node 1 is the root, 2k and 2k + 1 are the children of k, the leaves begin at `blocks`; for each combination of the
other indices (a row) there are 2 * blocks numbers of 8 bytes for the least entries and as many for the greatest, int64 or
float64, in the layout of the CPU.

`table` is (address, elements from entry to entry, entries, address of the summary); `place` is the element at which the row
begins, `row` its number; `load` is the intrinsic that reads an entry, of `size` bytes. Every question is clamped to the
table. NaN counts as the least of least, and the greatest of greatest entries. The threads of a warp ask one question
together, and each gets the answer: entries are read by one thread each, and so are the levels of a tree.
"""

from __future__ import annotations

from typing import Any

from attnc.backends.cuda.elementwise import cast_float, cast_int, maximum, minimum, ne, resize, shl, where
from attnc.backends.cuda.intrinsics import (
    barrier,
    device,
    load_f64,
    load_i64,
    shuffle_f,
    shuffle_l,
    store_d_if,
    store_l_if,
    thread,
)

INF = float("inf")
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
SHIFT = 6  # blocks of 64 entries
ENTRY = 8


def _across(letter: str, combine: Any, shuffle: Any) -> Any:
    """The function that combines a number of each thread of a warp."""

    @device(letter)
    def across(x: Any) -> Any:
        for k in range(5):
            x = combine(x, shuffle(x, 1 << k))
        return x

    return across


def _search(letter: str, number: Any, read: Any, combine: Any, neutral: Any, tree: int) -> Any:
    """The function that gives each thread its part of the least (tree 0) or greatest (tree 1) of entries low..high."""

    @device(letter)
    def scan(load: Any, size: Any, table: Any, place: Any, low: Any, end: Any, found: Any) -> Any:
        lane = thread() & 31
        for k in range(low, end, 32):
            entry = minimum(k + lane, end - 1)  # the last one again rather than one beyond
            found = combine(found, number(load(table[0] + (place + entry * table[1]) * size)))
        return found

    @device(letter)
    def climb(root: Any, left: Any, right: Any, found: Any) -> Any:
        """Of the leaves left..right - 1: on each level at most two nodes stick out of those that the next level covers."""
        level = resize(thread() & 31, 64)
        left, right = (left + shl(1, level) - 1) >> level, right >> level
        first, last = (left < right) & (left & 1 == 1), (left < right) & (right & 1 == 1)
        at_first, at_last = root + where(first, left, 1) * ENTRY, root + where(last, right - 1, 1) * ENTRY
        found = combine(found, where(first, number(read(at_first)), number(neutral)))
        return combine(found, where(last, number(read(at_last)), number(neutral)))

    @device(letter)
    def part(load: Any, size: Any, table: Any, place: Any, row: Any, low: Any, high: Any) -> Any:
        n = table[2]
        low = minimum(maximum(low, 0), n - 1)
        high = maximum(minimum(high, n - 1), low)
        blocks = (n + 63) >> SHIFT
        first, last = (low + 63) >> SHIFT, where(high == n - 1, blocks, (high + 1) >> SHIFT)  # whole: first..last - 1
        found = number(neutral)
        if first >= last:
            return scan(load, size, table, place, low, high + 1, found)
        found = scan(load, size, table, place, low, first << SHIFT, found)
        found = scan(load, size, table, place, last << SHIFT, high + 1, found)
        root = table[3] + (2 * row + tree) * blocks * (2 * ENTRY)
        return climb(root, first + blocks, last + blocks, found)

    return part


def _question(
    letter: str, number: Any, read: Any, shuffle: Any, combine: Any, neutral: Any, unknown: Any, tree: int
) -> tuple[Any, Any]:
    """The functions that find the least or greatest entry of a part of a row, and of several rows."""
    across = _across(letter, combine, shuffle)
    part = _search(letter, number, read, combine, neutral, tree)

    @device(letter)
    def of_row(load: Any, size: Any, table: Any, place: Any, row: Any, low: Any, high: Any) -> Any:
        found = across(part(load, size, table, place, row, low, high))
        return where(ne(found, found), number(unknown), found)

    @device(letter)
    def of_rows(
        load: Any, size: Any, table: Any, place: Any, row: Any, step: Any, rows: Any, n: Any, most: Any, top: Any,
        bottom: Any, low: Any, high: Any,
    ) -> Any:  # fmt: skip
        """Of rows top..bottom of n, `step` elements and `rows` rows apart; unknown where there are more than `most`."""
        top = minimum(maximum(top, 0), n - 1)
        bottom = maximum(minimum(bottom, n - 1), top)
        if bottom - top >= most:
            return number(unknown)
        found = number(neutral)
        for k in range(top, bottom + 1):
            found = combine(found, part(load, size, table, place + k * step, row + k * rows, low, high))
        found = across(found)
        return where(ne(found, found), number(unknown), found)

    return of_row, of_rows


def _summarise(letter: str, number: Any, read: Any, store: Any, shuffle: Any, lowest: Any, highest: Any) -> Any:
    """The function with which one block of `warps` warps fills the summary of one row."""
    least_of, greatest_of = _across(letter, minimum, shuffle), _across(letter, maximum, shuffle)

    @device("")
    def leaves(load: Any, size: Any, table: Any, place: Any, least: Any, greatest: Any, warps: Any) -> None:
        base, stride, n, _ = table
        blocks = (n + 63) >> SHIFT
        lane, warp = thread() & 31, thread() >> 5
        for first in range(0, blocks, warps):
            k = first + warp
            left = minimum((k << SHIFT) + lane, n - 1)
            right = minimum((k << SHIFT) + lane + 32, n - 1)
            x = number(load(base + (place + left * stride) * size))
            y = number(load(base + (place + right * stride) * size))
            low, high = least_of(minimum(x, y)), greatest_of(maximum(x, y))
            none, chosen = ne(low, low), (lane == 0) & (k < blocks)
            store(chosen, least + (blocks + k) * ENTRY, where(none, number(lowest), low))
            store(chosen, greatest + (blocks + k) * ENTRY, where(none, number(highest), high))

    @device("")
    def inner(least: Any, greatest: Any, blocks: Any, warps: Any) -> None:
        begin = 1
        while 2 * begin < blocks:
            begin = 2 * begin
        while begin > 0:  # the lowest level first: nodes begin..2 * begin - 1
            barrier()
            end = minimum(2 * begin, blocks)
            for first in range(begin, end, 32 * warps):
                chosen = first + thread() < end
                k = where(chosen, first + thread(), begin)
                low, high = least + 2 * k * ENTRY, greatest + 2 * k * ENTRY
                store(chosen, least + k * ENTRY, minimum(number(read(low)), number(read(low + ENTRY))))
                store(chosen, greatest + k * ENTRY, maximum(number(read(high)), number(read(high + ENTRY))))
            begin = begin >> 1

    @device("")
    def summarise(load: Any, size: Any, table: Any, place: Any, row: Any, warps: Any) -> None:
        blocks = (table[2] + 63) >> SHIFT
        least = table[3] + row * blocks * (4 * ENTRY)
        greatest = least + blocks * (2 * ENTRY)
        leaves(load, size, table, place, least, greatest, warps)
        inner(least, greatest, blocks, warps)

    return summarise


summarise_int = _summarise("l", cast_int, load_i64, store_l_if, shuffle_l, INT_MIN, INT_MAX)
summarise_float = _summarise("f", cast_float, load_f64, store_d_if, shuffle_f, -INF, INF)
least_int, least_int_rows = _question("l", cast_int, load_i64, shuffle_l, minimum, INT_MAX, INT_MIN, 0)
greatest_int, greatest_int_rows = _question("l", cast_int, load_i64, shuffle_l, maximum, INT_MIN, INT_MAX, 1)
least_float, least_float_rows = _question("f", cast_float, load_f64, shuffle_f, minimum, INF, -INF, 0)
greatest_float, greatest_float_rows = _question("f", cast_float, load_f64, shuffle_f, maximum, -INF, INF, 1)
