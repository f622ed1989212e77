"""The numbers that a skeleton is filled with."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.schedule.target import Target

TALL = 12  # rows of a matrix tile that has few vectors


@dataclass(frozen=True, slots=True)
class Schedule:
    """`rows` queries and `keys` keys per tile, `width` lanes per vector, micro-kernels of `tile` rows x vectors.

    bf16: scores of bfloat16 vectors are sums of products of pairs. wide: lanes of the features in products for few queries.
    """

    rows: int
    keys: int
    width: int
    tile: tuple[int, int]
    bf16: bool = field(default=False, repr=False)
    wide: int = field(default=0, repr=False)

    @property
    def block(self) -> tuple[int, int]:
        """The matrix tile of partial tiles, whose queries skip keys in blocks of as many vectors."""
        return of_vectors(self.tile, min(self.tile[1], 2))

    def check(self, target: Target, itemsize: int) -> Schedule:
        """Itself; AssertionError where the target cannot run it."""
        assert self.rows % self.width == 0, f"{self.rows} rows are no whole vectors of {self.width}"
        assert self.width * itemsize <= target.vector_bytes, f"{self.width} lanes of {itemsize} bytes"
        assert not self.bf16 or (target.bf16 and self.width * itemsize == 64), f"{self.width} pairs of bfloat16"
        assert self.keys > 0 and self.tile[0] > 0 and self.tile[1] > 0
        return self


def of_vectors(tile: tuple[int, int], vectors: int) -> tuple[int, int]:
    """Rows and vectors of the matrix tile for no more `vectors` than the tile has: as many results, but at most TALL rows."""
    rows, wide = tile
    return (rows, wide) if vectors == wide else (max(rows, min(rows * wide // vectors, TALL)), vectors)
