"""Which schedule a problem gets on a target."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target

VECTORS = 4  # of queries per tile
KEYS = 128


def choose(target: Target, itemsize: int, features: Mapping[str, int], few: bool = False) -> Schedule:
    """The schedule for numbers of `itemsize` bytes (the compute type) and these feature extents. few: for at most one vector of rows."""
    width = target.vector_bytes // itemsize
    rows = width if few else VECTORS * width
    return Schedule(rows, KEYS, width, target.tile, target.bf16 and itemsize == 4).check(target, itemsize)
