"""The block of 64-bit words that a kernel is called with: what stands where. A first call from the cache needs this, and no pass."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = ("counter", "scratch", "scratch_stride", "batch", "heads", "q_len", "kv_len", "group")
ROLES = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Table:
    """An operand array as the kernel reads it: how many leading axes are indexed, and its feature axes.

    A matrix (two feature axes) is read in the compute type with rows padded to whole vectors.
    """

    name: str
    indices: int
    features: tuple[str, ...]

    @property
    def matrix(self) -> bool:
        """Whether it is the right side of a projection."""
        return len(self.features) == 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Word number of everything in the block: `words['k_l']`. Strides of arrays are bytes, of tables elements.

    searches: the tables, and axes of them, whose least and greatest entries the kernel summarises before its work.
    """

    words: dict[str, int]
    roles: tuple[str, ...]
    tables: tuple[Table, ...]
    searches: tuple[tuple[str, int], ...]
    scalars: tuple[tuple[str, str], ...]
    outputs: int
    features: tuple[str, ...]
