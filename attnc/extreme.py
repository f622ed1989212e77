"""The least or greatest entry of a table over boxes of indices, for many boxes at once: what the op `extreme` means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SHORT_SIDE = 8  # entries along the second varying axis of a box up to which its extreme is known
_UNKNOWN = {
    "min": {"b": False, "i": -(2**63), "f": -math.inf},
    "max": {"b": True, "i": 2**63 - 1, "f": math.inf},
}  # fmt: skip


def extreme(
    table: Array, how: str, axis: int, varying: Sequence[int], lows: Sequence[Array], highs: Sequence[Array]
) -> Array:
    """For each box, `how` ("min" or "max") of the entries from lows[n] to highs[n] along each axis n: flat arrays (boxes,).

    Ends are clamped to the table, and a high end below the low one counts as equal. Only the axes in `varying` extend: `axis`,
    and at most one more, over SHORT_SIDE entries or the result is unknown (the least number for "min", the greatest for
    "max"). A NaN counts as -inf for "min" and as inf for "max".
    """
    if table.dtype.kind == "f":
        table = np.where(np.isnan(table), _UNKNOWN[how]["f"], table).astype(table.dtype)
    choose: Any = np.minimum if how == "min" else np.maximum
    low = [np.clip(x, 0, n - 1) for x, n in zip(lows, table.shape, strict=True)]
    high = [np.clip(x, first, n - 1) for x, first, n in zip(highs, low, table.shape, strict=True)]
    short = [n for n in varying if n != axis]
    assert len(short) <= 1, "a table is searched along two axes at most"
    if not short:
        return _ranges(table, axis, low, high[axis], choose)
    (n,) = short
    length = high[n] - low[n] + 1
    steps = np.arange(min(int(length.max(initial=1)), SHORT_SIDE))[:, None]
    low[n] = np.minimum(low[n] + steps, high[n])  # every entry of the short side is a query of its own
    found = choose.reduce(_ranges(table, axis, low, high[axis], choose), axis=0)
    return np.where(length <= SHORT_SIDE, found, np.asarray(_UNKNOWN[how][table.dtype.kind], table.dtype))


def _ranges(
    table: Array, axis: int, low: Sequence[Array], high: Array, choose: Callable[[Array, Array], Array]
) -> Array:
    """Along `axis` from low[axis] to high, at low[n] along the others.

    A range is two overlapping ones of 2**level entries, whose extremes follow from those of the level below.
    """
    *index, high = np.broadcast_arrays(*low, high)
    level = np.frexp(high - index[axis] + 1)[1] - 1
    found = np.empty(high.shape, table.dtype)
    for n in range(int(level.max(initial=-1)) + 1):
        if n:
            half, rows = 2 ** (n - 1), np.moveaxis(table, axis, 0)
            table = np.moveaxis(choose(rows[:-half], rows[half:]), 0, axis)
        here = level == n
        at = [x[here] for x in index]
        first = table[tuple(at)]
        at[axis] = high[here] + 1 - 2**n
        found[here] = choose(first, table[tuple(at)])
    return found
