"""How far a result is from the reference, relative to the reference's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.interp import Array

FLOOR = 1e-2  # outputs below this size are compared absolutely: what is left of larger intermediate values is rounding
TOLERANCE = 1e-10


def distance(reference: Array, found: Array) -> float:
    """max |reference - found| / max |reference|; inf where shapes differ, or a NaN or an infinity stands in one only."""
    if reference.shape != found.shape:
        return float("inf")
    finite = np.isfinite(reference)
    special = np.where(finite, 0.0, reference)
    if not np.array_equal(special, np.where(np.isfinite(found), 0.0, found), equal_nan=True):
        return float("inf")
    scale = max(float(np.abs(reference[finite]).max(initial=0.0)), FLOOR)
    return float(np.abs(reference[finite] - found[finite]).max(initial=0.0)) / scale


def farthest(reference: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest distance of any output."""
    if len(reference) != len(found):
        return float("inf")
    return max(map(distance, reference, found))
