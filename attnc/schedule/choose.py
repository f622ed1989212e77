"""Which schedule a problem gets on a target."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.schedule.cpu_form import PLAIN, CpuForm, most
from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target

VECTORS = 4  # of queries per tile
KEYS = 128
LONG = (
    1024  # of keys that are only passed over, by few queries: the processor fetches longer runs of K, then of V, ahead
)


def choose(target: Target, itemsize: int, features: Mapping[str, int], form: CpuForm = PLAIN) -> Schedule:
    """The schedule for numbers of `itemsize` bytes (the compute type) and these feature extents."""
    width = target.vector_bytes // itemsize
    if form.few:
        lanes = most(width)  # of the rows; those of the features are as many as there are
        return Schedule(lanes, LONG if form.long else KEYS, lanes, target.tile, wide=width).check(target, itemsize)
    return Schedule(VECTORS * width, KEYS, width, target.tile, target.bf16 and itemsize == 4).check(target, itemsize)
