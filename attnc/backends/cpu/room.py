"""Memory that a call needs besides its arrays: of each worker, and of all workers for the states of parts of the keys."""

from __future__ import annotations

from dataclasses import dataclass

LINE = 64  # bytes of a cache line


@dataclass(frozen=True, slots=True)
class Room:
    """worker: bytes of each worker's scratch. record: bytes of the states of one part of a tile, and `row` more for each two rows.

    What all workers share lies before the scratch of worker 0, and is addressed downwards from there: first a counter of 8 bytes
    for each tile, then the records (`attnc.backends.cpu.parts`).
    """

    worker: int
    record: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Tiles:
    """Of a call in parts: how many tiles of all batches and heads, rows of a tile, and parts of each."""

    tiles: int = 0
    rows: int = 0
    parts: int = 0

    @property
    def counters(self) -> int:
        """Bytes of all counters, filled up to whole lines."""
        return -(-8 * self.tiles // LINE) * LINE

    def bytes(self, room: Room) -> int:
        """Of counters and records."""
        return self.counters + self.tiles * self.parts * (room.record + -(-self.rows // 2) * room.row)

    @property
    def phases(self) -> int:
        """How often the kernel runs."""
        return 1


@dataclass(frozen=True, slots=True)
class Pieces:
    """Of a call with a past: how many batches and heads, pieces of the queries and of the keys (`attnc.backends.cpu.past_pieces`)."""

    heads: int
    queries: int
    keys: int

    @property
    def phases(self) -> int:
        """How often the kernel runs: for the states of all pieces first."""
        return 2 if self.queries + self.keys > 2 else 1

    @property
    def counters(self) -> int:
        """None: items do not wait for each other, phases do."""
        return 0

    @property
    def parts(self) -> int:
        """Work items of each head, at most."""
        return self.queries + self.keys - 1 if self.phases > 1 else 1

    def bytes(self, room: Room) -> int:
        """Of the phase and the records."""
        return LINE + self.heads * self.parts * room.record if self.phases > 1 else 0


NO_PARTS = Tiles()
