"""Which schedule a problem gets on a target."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.schedule.cpu_form import PLAIN, CpuForm, most
from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target

VECTORS = 4  # of queries per tile
KEYS = {32: 128, 16: 192}  # per tile, by the number of registers: tiles of scores that stay in the first cache
LONG = 1024  # keys that are only passed over, by few queries: the processor fetches longer runs of K, then of V, ahead


def choose(target: Target, itemsize: int, features: Mapping[str, int], form: CpuForm = PLAIN) -> Schedule:
    """The schedule for numbers of `itemsize` bytes (the compute type) and these feature extents."""
    width = target.vector_bytes // itemsize
    keys = KEYS[target.registers]
    if form.few:
        lanes = most(width)  # of the rows; those of the features are as many as there are
        return Schedule(lanes, LONG if form.long else keys, lanes, target.tile, wide=width).check(target, itemsize)
    pairs = target.bf16 and itemsize == 4
    return Schedule(VECTORS * width, keys, width, target.tile, pairs).check(target, itemsize)
