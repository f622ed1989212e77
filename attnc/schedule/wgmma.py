"""The numbers that the CUDA skeleton `wgmma` is filled with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wgmma:
    """`consumers` groups of 128 threads, each with 64 queries; `keys` per tile; one more group has tiles of keys copied."""

    consumers: int
    keys: int

    @property
    def rows(self) -> int:
        """Queries of a tile."""
        return 64 * self.consumers

    @property
    def threads(self) -> int:
        """Of a block."""
        return 128 * (self.consumers + 1)
