"""Stages of tiles in shared memory, and the barriers that say whether one is full or empty.

Turn n of a ring is in stage n % stages. A stage's barriers change their phase once in every round of the ring: who fills it waits until
it was emptied one round before, who empties it waits until it was filled in this round. Both sides count their turns.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.cuda.context import Context, Tile

WORD = 8  # bytes of a barrier
INFO = 8  # bytes that say which tile a stage holds
FIRST = "eq(lane, 0)"


@dataclass(frozen=True, slots=True)
class Ring:
    """Tiles `name` of keys. full, empty: texts of the addresses of the first stage's barriers. turn: the variable that counts.

    infos: the address of what is said of the first stage's tile, where this ring is the first of a sweep: where it begins, -1 behind
    the last; and whether it is full. room: None where nothing is copied, and infos are all that a sweep's tiles need.
    """

    name: str
    role: str
    room: Tile | None
    full: str
    empty: str
    infos: str
    turn: str
    stages: int

    @property
    def stage(self) -> str:
        """Number of the stage."""
        return f"({self.turn} & {self.stages - 1})"

    @property
    def info(self) -> str:
        """The address of what is said of the stage's tile."""
        return f"{self.infos} + {INFO} * {self.stage}"

    def barrier(self, which: str) -> str:
        """The address of the stage's barrier."""
        return f"{getattr(self, which)} + {WORD} * {self.stage}"

    def wait(self, which: str) -> str:
        """Until the stage is full in this round, or empty since the one before."""
        round_ = f"{self.turn} >> {self.stages.bit_length() - 1}"
        parity = f"{round_} & 1" if which == "full" else f"{round_} & 1 ^ 1"
        return f"mbar_wait({self.barrier(which)}, {parity})"

    @property
    def place(self) -> str:
        """The address of the stage's tile."""
        assert self.room is not None
        return f"{self.room.base} + {self.stage} * {self.room.shape.bytes}"

    @property
    def following(self) -> str:
        """The statement that counts a turn."""
        return f"{self.turn} = resize({self.turn} + 1, 32)"

    def release(self) -> tuple[str, str]:
        """A warp has read the stage for the last time."""
        return f"mbar_arrive_if({FIRST}, {self.barrier('empty')})", self.following


class Barriers:
    """The barriers of a block, one behind the other, and how many arrivals each counts."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.counts = ctx, list[int]()
        self.base = ctx.names.fresh("bars")

    def new(self, stages: int, count: int) -> str:
        """The address of the first of as many barriers that count to `count`."""
        place = WORD * len(self.counts)
        self.counts += [count] * stages
        return f"{self.base} + {place}" if place else self.base

    def begin(self) -> None:
        """Print their place and initial state; all threads of the block meet here."""
        top = self.ctx.top
        top.line(f"{self.base} = {self.ctx.room(self.base, WORD * len(self.counts))}")
        for n, count in enumerate(self.counts):
            top.line(f"mbar_init_if(eq(thread(), 0), {self.base} + {WORD * n}, {count})")
        top.line("mbar_fence()")
        top.line("barrier()")
