"""The numbers that the CUDA skeleton `wgmma` is filled with: warpgroups, tiles, stages and registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GROUP = 128  # threads of a warpgroup, whose matrix instructions take 64 rows
UNIT = 64  # those rows
# Registers of a thread of the producer and of the consumers, which together have what a block is launched with: 168 of each of 384
# threads, 128 of each of 512. The later pairs are for searches of tiles that need more.
REGISTERS = {2: ((40, 232), (88, 208), (120, 192)), 3: ((32, 160),)}
FIXED = 32  # registers of a consumer besides fragments: addresses, counters, row statistics
KEYS = (128, 112, 96, 80, 64, 48, 32, 16)  # of a tile
WIDE = 176  # of a tile whose pairs are all alike
NARROW = 64  # head dims up to which the accumulators of three consumers fit
FEW = 8  # ops of a pair that leave registers for large tiles
PINGPONG = 128  # head dims up to which consumers take turns at the tensor cores


@dataclass(frozen=True, slots=True)
class Wgmma:
    """A producer warpgroup and `consumers` of 64 queries each; `keys` per tile, `stages` tiles in flight, a power of two.

    overlap: the scores of a tile are computed during the softmax of the one before. pingpong: consumers take turns. search: how
    many registers the producer has, 0 to 2.
    """

    consumers: int
    keys: int
    stages: int = 2
    overlap: bool = True
    pingpong: bool = True
    search: int = 0

    @property
    def tall(self) -> int:
        """Row tiles of 16 queries of a warp."""
        return 1

    @property
    def warps(self) -> int:
        """That compute."""
        return 4 * self.consumers

    @property
    def rows(self) -> int:
        """Queries of a tile."""
        return UNIT * self.consumers

    @property
    def threads(self) -> int:
        """Of a block."""
        return GROUP * (self.consumers + 1)

    @property
    def groups(self) -> tuple[int, ...]:
        """Threads that take the same way through the kernel: the producer, the warps beside it, each consumer."""
        return (32, GROUP - 32, *(GROUP,) * self.consumers)

    @property
    def tolerated(self) -> int:
        """Bytes of code that save registers in memory which do not matter: most are of searches, for which the producer has time."""
        return 320

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread of the producer, and of a consumer."""
        return REGISTERS[self.consumers][self.search]


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides which schedules fit. query: bytes of a row of loaded and computed vectors in shared memory.

    ring: bytes of a key in every stage. key: bytes of its computed vectors. pairs: tiles of scores that live at once, counting
    weights as half a tile. features: of all accumulators. widest: of one vector. masked: whether tiles differ. search: how much
    the search of tiles computes, 0 or 1. pair: ops of a pair.
    """

    query: int
    ring: int
    key: int
    pairs: float
    features: int
    widest: int
    overlap: bool
    masked: bool = False
    search: int = 0
    pair: int = 0


def candidates(x: Shape, shared: int) -> Iterator[Wgmma]:
    """Schedules whose tiles fit in `shared` bytes and, by estimate, in registers; the fastest first, then those that need less."""
    three = x.widest <= NARROW and x.pair <= FEW and not x.search and not x.key
    tried = [(3, x.search, most) for most in KEYS[:1] if three]
    first = max(x.search, int(x.pair > FEW))
    tried += [(2, search, most) for search, most in ((first, WIDE), (first + 1, KEYS[0]), (2, KEYS[0]), (2, KEYS[-4]))]
    found = dict.fromkeys(s for option in tried if (s := _fitting(x, shared, *option)) is not None)
    yield from found


def _fitting(x: Shape, shared: int, consumers: int, search: int, most: int) -> Wgmma | None:
    """The one with the most keys, up to `most`."""
    budget = 2 * (REGISTERS[consumers][search][1] - FIXED - x.features // 2)
    wide = most == WIDE and x.overlap and not x.masked and x.pair <= FEW
    for keys in (WIDE, *KEYS) if wide else [n for n in KEYS if n <= most]:
        room = shared - UNIT * consumers * x.query - keys * x.key
        if keys * x.pairs <= budget and 2 * keys * x.ring <= room:
            stages = 4 if 4 * keys * x.ring <= room else 2
            return Wgmma(consumers, keys, stages, x.overlap, x.overlap and x.widest <= PINGPONG, search)
    return None
