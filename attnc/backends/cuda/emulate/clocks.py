"""What happened before what: of each warp, how much of the doings of others it has been told.

Actors are warps, groups of threads (for what several of their warps write at once) and barriers that copies arrive at. Each
counts its moments. A stamp is a moment and its actor in one number; 0, the stamp of what never happened, is known to all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BITS = 7  # of a stamp, for the actor
ACTORS, MASK = 1 << BITS, (1 << BITS) - 1
GROUPS, BARRIERS = 32, 64  # actors before are warps; from there on groups; and barriers
NEVER = np.iinfo(np.int32).max  # a stamp that nobody is told


class Clocks:
    """Of a block; `sizes`: how many warps its groups have."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.warps = sum(sizes)
        self.known = np.zeros((self.warps, ACTORS), np.int32)
        own = np.arange(self.warps)
        self.known[own, own] = 1
        self.counts = [0] * len(sizes)

    def stamps(self, warps: Array) -> Array:
        """The present of each of some warps."""
        found: Array = self.known[warps, warps] << BITS | warps
        return found

    def common(self, group: int) -> int:
        """The present of a group as one."""
        self.counts[group] += 1
        return self.counts[group] << BITS | (GROUPS + group)

    def publish(self, warps: Array, whole: int | None = None) -> Array:
        """What some warps have done and know, to be told to others. whole: the group, if they are all of its warps."""
        told: Array = self.known[warps].max(axis=0)
        if whole is not None:
            told[GROUPS + whole] = self.counts[whole]
        self.known[warps, warps] += 1
        return told

    def acquire(self, warps: Array, told: Array) -> None:
        """Tells it some warps."""
        self.known[warps] = np.maximum(self.known[warps], told)

    def unknown(self, stamps: Array, warps: Array) -> Array:
        """Where stamps have not been told: (n, k) of them, and the warp that asks for each row, (n, 1)."""
        place = (stamps & MASK) + warps * ACTORS
        late: Array = (stamps >> BITS) > self.known.reshape(-1)[place]
        return late

    def unknown_to_all(self, stamps: Array, warps: Array) -> Array:
        """Where stamps have not been told to each of some warps."""
        late: Array = (stamps >> BITS) > self.known[warps].min(axis=0)[stamps & MASK]
        return late
