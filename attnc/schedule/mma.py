"""The numbers that the CUDA skeleton `mma` is filled with: warps, tiles, and how tiles lie in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CHUNK = 16  # bytes that one copy moves, and one row of a matrix that ldmatrix reads
LINE = 128  # bytes that all banks of shared memory serve at once


@dataclass(frozen=True, slots=True)
class Swizzled:
    """How feature vectors lie in shared memory: panels of rows of `width` bytes, chunks of 16 bytes permuted within a row.

    Eight consecutive rows of a chunk then lie in different banks, as ldmatrix reads them. `length`: features with padding.
    """

    rows: int
    length: int
    itemsize: int
    width: int

    @property
    def chunks(self) -> int:
        """Chunks of a row of a panel."""
        return self.width // CHUNK

    @property
    def shift(self) -> int:
        """Rows that share a line of all banks, as a power of two."""
        return (LINE // self.width).bit_length() - 1

    @property
    def panel(self) -> int:
        """Bytes of a panel."""
        return self.rows * self.width

    @property
    def bytes(self) -> int:
        """Of the tile."""
        return self.rows * self.length * self.itemsize


def swizzled(rows: int, features: int, itemsize: int) -> Swizzled:
    """The layout of `rows` vectors, in panels as wide as divides them: 128, 64 or 32 bytes."""
    step = 32 // itemsize
    length = -(-features // step) * step
    size = length * itemsize
    return Swizzled(rows, length, itemsize, next(w for w in (128, 64, 32) if size % w == 0))


@dataclass(frozen=True, slots=True)
class Mma:
    """`warps` of 32 threads, each with `tall` times 16 queries; `keys` per tile, two tiles of keys in flight."""

    warps: int
    tall: int
    keys: int

    @property
    def rows(self) -> int:
        """Queries of a tile."""
        return 16 * self.tall * self.warps

    @property
    def tolerated(self) -> int:
        """Bytes of code that save registers in memory which do not matter."""
        return 0

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.warps


def candidates(features: int) -> Iterator[Mma]:
    """Schedules for head dims up to `features`, the fastest first; later ones need fewer registers or less shared memory."""
    if features <= 64:
        yield from (Mma(4, 2, 64), Mma(4, 2, 32))
    else:
        yield from (Mma(8, 1, 64), Mma(8, 1, 32))
    yield from (Mma(4, 1, 64), Mma(4, 1, 32), Mma(4, 1, 16), Mma(2, 1, 16), Mma(1, 1, 16))
