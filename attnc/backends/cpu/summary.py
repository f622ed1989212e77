"""Least and greatest entries of ranges of a table: summaries made once per call, and the questions that tiles ask of them.

Along one axis a table is cut into blocks of 64 entries; two segment trees over the blocks hold their least and greatest
entries. Node 1 is the root, 2k and 2k + 1 are the children of k, the leaves begin at `blocks`; for each combination of the
other indices (a row) there are 2 * blocks numbers of 8 bytes for the least entries and as many for the greatest.

`table` is (address, elements from entry to entry, entries, address of the summary); `place` is the element at which the row
begins, `row` its number. Every question is clamped to the table. NaN counts as the least of least, and the greatest of
greatest entries. `kind`: the token of SIMD values as which entries are read.
"""

from typing import Any

from numba.core import types
from numba.core.extending import intrinsic, register_jitable

from attnc.backends.cpu.elementwise import maximum, minimum
from attnc.backends.cpu.lanes import token, width_of
from attnc.backends.cpu.memory import gather, load, load_as, reduce_max, reduce_min, splat, storage_format, store

INF = float("inf")
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
SHIFT = 6  # blocks of 64 entries
ENTRY = 8


@intrinsic
def _lanes(typingctx: Any, kind: Any) -> Any:
    """How many lanes `kind` has."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.int64, width_of(token(kind)))

    return types.int64(kind), codegen


@intrinsic
def _bytes(typingctx: Any, stored: Any) -> Any:
    """The size of a number in memory."""
    size = storage_format(stored)[1]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.int64, size)

    return types.int64(stored), codegen


def _unchecked(function: Any, result: Any) -> Any:
    """A Python function as one that is called without a check for exceptions: it has none, and the check would need Python.

    (Where LLVM does not inline a function into a kernel it cannot see that.)
    """

    @intrinsic
    def call(typingctx: Any, *kinds: Any) -> Any:
        inner = result(*kinds)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = [builder.extract_value(args[0], n) for n in range(len(kinds))]
            compiled = context.compile_subroutine(builder, function, inner)
            return context.call_internal_no_propagate(builder, compiled.fndesc, inner, values)[1]

        return result(types.StarArgTuple(kinds)), codegen

    return call


def _summarise(number: Any, lowest: Any, highest: Any) -> Any:
    """The function that fills the summary of one row."""

    @register_jitable
    def block(kind: Any, stored: Any, table: Any, place: Any, begin: Any, end: Any) -> Any:
        base, stride, _, _ = table
        least, greatest = highest, lowest
        if stride == 1:
            step = _lanes(kind)
            low, high = splat(kind, highest), splat(kind, lowest)
            while begin + step <= end:
                x = load_as(kind, base + (place + begin) * _bytes(stored), stored)
                low, high = minimum(low, x), maximum(high, x)
                begin += step
            least, greatest = minimum(least, reduce_min(low)), maximum(greatest, reduce_max(high))
        for k in range(begin, end):
            entry = gather(kind, base, place + k * stride, stored)
            least, greatest = minimum(least, entry), maximum(greatest, entry)
        if least != least:
            least, greatest = lowest, highest
        return least, greatest

    def summarise(kind: Any, stored: Any, table: Any, place: Any, row: Any) -> None:
        _, _, n, summary = table
        blocks = (n + 63) >> SHIFT
        least = summary + row * blocks * (4 * ENTRY)
        greatest = least + blocks * (2 * ENTRY)
        for k in range(blocks):
            low, high = block(kind, stored, table, place, k << SHIFT, min((k + 1) << SHIFT, n))
            store(least + (blocks + k) * ENTRY, low)
            store(greatest + (blocks + k) * ENTRY, high)
        for k in range(blocks - 1, 0, -1):
            below = 2 * k * ENTRY
            store(least + k * ENTRY, minimum(load(number, least + below), load(number, least + below + ENTRY)))
            store(greatest + k * ENTRY, maximum(load(number, greatest + below), load(number, greatest + below + ENTRY)))

    return _unchecked(summarise, types.void)


def _question(number: Any, combine: Any, neutral: Any, unknown: Any, tree: int) -> tuple[Any, Any]:
    """The functions that find the least (tree 0) or greatest (tree 1) entry of a part of a row, and of several rows."""

    @register_jitable
    def scan(kind: Any, stored: Any, table: Any, place: Any, low: Any, end: Any, found: Any) -> Any:
        for k in range(low, end):
            found = combine(found, gather(kind, table[0], place + k * table[1], stored))
        return found

    @register_jitable
    def of_row(kind: Any, stored: Any, table: Any, place: Any, row: Any, low: Any, high: Any) -> Any:
        n = table[2]
        low = min(max(low, 0), n - 1)
        high = max(min(high, n - 1), low)
        blocks = (n + 63) >> SHIFT
        first, last = (low + 63) >> SHIFT, (high + 1) >> SHIFT  # whole blocks: first..last - 1
        if high == n - 1:
            last = blocks
        found = number(neutral)
        if first >= last:
            found = scan(kind, stored, table, place, low, high + 1, found)
        else:
            found = scan(kind, stored, table, place, low, first << SHIFT, found)
            found = scan(kind, stored, table, place, last << SHIFT, high + 1, found)
            root = table[3] + (2 * row + tree) * blocks * (2 * ENTRY)
            left, right = first + blocks, last + blocks
            while left < right:
                if left & 1:
                    found = combine(found, load(number, root + left * ENTRY))
                    left += 1
                if right & 1:
                    right -= 1
                    found = combine(found, load(number, root + right * ENTRY))
                left >>= 1
                right >>= 1
        return number(unknown) if found != found else found

    def of_rows(
        kind: Any, stored: Any, table: Any, place: Any, row: Any, step: Any, rows: Any, n: Any, most: Any, top: Any,
        bottom: Any, low: Any, high: Any,
    ) -> Any:  # fmt: skip
        """Of rows top..bottom of n, `step` elements and `rows` rows apart; unknown where there are more than `most`."""
        top = min(max(top, 0), n - 1)
        bottom = max(min(bottom, n - 1), top)
        if bottom - top >= most:
            return number(unknown)
        found = number(neutral)
        for k in range(top, bottom + 1):
            found = combine(found, of_row(kind, stored, table, place + k * step, row + k * rows, low, high))
        return found

    return _unchecked(of_row, number), _unchecked(of_rows, number)


summarise_int = _summarise(types.int64, INT_MIN, INT_MAX)
summarise_float = _summarise(types.float64, -INF, INF)
least_int, least_int_rows = _question(types.int64, minimum, INT_MAX, INT_MIN, 0)
greatest_int, greatest_int_rows = _question(types.int64, maximum, INT_MIN, INT_MAX, 1)
least_float, least_float_rows = _question(types.float64, minimum, INF, -INF, 0)
greatest_float, greatest_float_rows = _question(types.float64, maximum, -INF, INF, 1)
