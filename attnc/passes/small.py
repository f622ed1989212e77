"""Small calls, which have kernels of their own (`attnc.passes.narrow`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SMALL = 2**20


def small(extents: Mapping[str, int], scalars: Iterable[int]) -> bool:
    """Whether every length and integer scalar of a call is at most 2**20 in size."""
    return max(extents.values()) <= SMALL and all(-SMALL <= x <= SMALL for x in scalars)
