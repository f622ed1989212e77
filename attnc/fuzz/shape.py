"""The extents of a random call: small, with lengths that tiles do not divide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

LENGTHS = (1, 2, 3, 5, 8, 17)
MOST_TILES = 4  # per side, which bounds the time of the tile interpreter


@dataclass(frozen=True, slots=True)
class Shape:
    """Q is (batch, kv_heads * group, q_len, d), K (kv_batch, kv_heads, kv_len, d), V has e, projections give r."""

    batch: int
    kv_batch: int
    kv_heads: int
    group: int
    q_len: int
    kv_len: int
    d: int
    e: int
    r: int
    tile: tuple[int, int]

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.group

    def extent(self, axis: str) -> int:
        """The extent of a named axis."""
        extents = {
            "b": self.batch, "h": self.heads, "g": self.kv_heads, "i": self.q_len, "j": self.kv_len,
            "d": self.d, "e": self.e, "r": self.r,
        }  # fmt: skip
        return extents[axis]


def random_shape(rng: Random, lengths: Sequence[int] = LENGTHS, dims: Sequence[int] = ()) -> Shape:
    """Extents and a tile that is smaller than the lengths where they allow it. dims: the features of q, k and of v are of these."""
    q_len, kv_len = rng.choice(lengths), rng.choice(lengths)
    batch = rng.randint(1, 2)
    sides = [rng.randint(-(-n // MOST_TILES), max(n - 1, -(-n // MOST_TILES))) for n in (q_len, kv_len)]
    return Shape(
        batch=batch,
        kv_batch=rng.choice((1, batch)),
        kv_heads=rng.randint(1, 2),
        group=rng.randint(1, 2),
        q_len=q_len,
        kv_len=kv_len,
        d=rng.choice(dims) if dims else rng.randint(1, 5),
        e=rng.choice(dims) if dims else rng.randint(1, 4),
        r=rng.randint(1, 4),
        tile=(sides[0], sides[1]),
    )
