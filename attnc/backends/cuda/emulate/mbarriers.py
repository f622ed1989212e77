"""Barriers in shared memory: a phase ends when as many as were agreed have arrived and all bytes expected have come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.clocks import ACTORS, BARRIERS, BITS
from attnc.backends.cuda.emulate.faults import Fault, Misaligned
from attnc.backends.cuda.emulate.shared import BASE, SharedMemory

Array = np.ndarray[Any, Any]
MOST = 2**20 - 1  # arrivals, and bytes


@dataclass(frozen=True, slots=True)
class Load:
    """Bytes under way: the cells of 16 bytes that they go to, what comes there, and the phase that they count for."""

    cells: Array
    values: Array
    phase: int

    @property
    def bytes(self) -> int:
        """How many they are."""
        return 16 * len(self.cells)


@dataclass(slots=True)
class MBarrier:
    """parity of a wait: of the phase that it waits for. made: the stamp of the initialisation; seen: of the fence behind it."""

    name: str
    count: int
    actor: int
    made: int
    pending: int
    seen: int | None = None
    bytes: int = 0
    phase: int = 0
    told: Array = field(default_factory=lambda: np.zeros(ACTORS, np.int32))
    released: Array = field(default_factory=lambda: np.zeros(ACTORS, np.int32))
    loads: list[Load] = field(default_factory=list)


class MBarriers:
    """Of a block, by their addresses."""

    def __init__(self, shared: SharedMemory) -> None:
        self.shared, self.clocks = shared, shared.clocks
        self.all: dict[int, MBarrier] = {}

    def init(self, group: Any, thread: int, address: int, count: int) -> None:
        """By a thread of the group."""
        where = self.shared.places(np.array([address]), 8, "an mbarrier")
        name = f"the mbarrier at byte {address - BASE}"
        if address in self.all:
            raise Fault(f"{name} is initialised twice")
        if not 0 < count <= MOST:
            raise Fault(f"{name} is to count {count} arrivals: 1..{MOST} are possible")
        if len(self.all) == ACTORS - BARRIERS:
            raise Fault(f"more than {ACTORS - BARRIERS} mbarriers: the emulator has no room for them")
        self.shared.used.reshape(-1, 4)[where] += 1
        warp = group.threads[thread : thread + 1] >> 5
        stamp = int(self.clocks.stamps(warp)[0])
        self.all[address] = MBarrier(name, count, BARRIERS + len(self.all), stamp, count)

    def fence(self, group: Any) -> None:
        """Shows the barriers that the group has initialised to all who are told of it."""
        for x in self.all.values():
            if x.seen is None and (x.made & 31) in group.warps:
                x.seen = int(self.clocks.stamps(np.array([x.made & 31]))[0])

    def at(self, address: int, warps: Array) -> MBarrier:
        """The barrier at an address, that some warps use."""
        if address % 8:
            raise Misaligned(f"an mbarrier at byte {address - BASE}: they lie at multiples of 8")
        x = self.all.get(address)
        if x is None:
            raise Fault(f"there is no mbarrier at byte {address - BASE}: it was not initialised")
        if x.seen is None:
            raise Fault(f"{x.name} is used, and no mbar_fence came after its initialisation")
        if self.clocks.unknown_to_all(np.array([x.seen]), warps).any():
            raise Fault(f"{x.name} is used, and no barrier came between its mbar_fence and another warp's use")
        return x

    def arrive(self, group: Any, predicate: Any, address: Any, expected: Any = None) -> None:
        """Each thread whose predicate holds arrives; before, it may expect bytes."""
        chosen, addresses = group.acting(predicate), group.vector(address, "r")
        bytes_ = None if expected is None else group.vector(expected, "r")
        for where in sorted(set(addresses[chosen].tolist())):
            threads = chosen[addresses[chosen] == where]
            warps = np.unique(group.threads[threads] >> 5)
            x = self.at(where, warps)
            if bytes_ is not None:
                self._expect(x, int(bytes_[threads].sum()), int(bytes_[threads].min()))
            if len(threads) > x.pending:
                raise Fault(f"{x.name}: {len(threads)} arrive, {x.pending} are awaited in this phase")
            x.told = np.maximum(x.told, self.clocks.publish(warps, group.whole(warps)))
            x.pending -= len(threads)
            self._advance(x)

    @staticmethod
    def _expect(x: MBarrier, total: int, least: int) -> None:
        if least < 0 or x.bytes + total > MOST:
            raise Fault(f"{x.name} is to expect {total} bytes more: 0..{MOST} are possible")
        x.bytes += total

    def wait(self, group: Any, address: int, parity: int) -> None:
        """Until the phase of that parity has ended."""
        if parity not in (0, 1):
            raise Fault(f"mbar_wait for the parity {parity}: it is 0 or 1")
        x = self.at(address, group.warps)

        def ready() -> bool:
            if x.phase & 1 == parity:
                self._land(x)
            return x.phase & 1 != parity

        def reason() -> str:
            coming = sum(load.bytes for load in x.loads)
            return (
                f"{x.name}, parity {parity}: phase {x.phase} awaits {x.pending} of {x.count} arrivals, and {x.bytes} bytes, "
                f"of which {coming} are under way"
            )

        group.wait(ready, reason)
        self.clocks.acquire(group.warps, x.released)

    def load(self, x: MBarrier, warp: Array, cells: Array, values: Array) -> None:
        """Starts a copy to cells of 16 bytes. It comes as late as it may: when somebody waits who lacks nothing else."""
        self.shared.begin_load(cells, warp)
        x.loads.append(Load(cells, values, x.phase))

    def _land(self, x: MBarrier) -> None:
        coming = sum(load.bytes for load in x.loads)
        if x.pending or coming < x.bytes:
            return
        if coming > x.bytes:
            raise Fault(f"{x.name}: {coming} bytes come, {x.bytes} are expected in this phase")
        for load in x.loads:
            self.shared.finish_load(load.cells, load.values, (x.phase + 1) << BITS | x.actor)
        x.loads.clear()
        x.bytes = 0
        self._advance(x)

    def _advance(self, x: MBarrier) -> None:
        if x.pending or x.bytes:
            return
        if x.loads:
            coming = sum(load.bytes for load in x.loads)
            raise Fault(f"{x.name}: its phase ends while {coming} bytes are under way that it does not expect")
        x.phase += 1
        x.told[x.actor] = x.phase
        x.released = x.told.copy()
        x.pending = x.count

    def end(self) -> None:
        """Fault: the block ended before bytes had come."""
        for x in self.all.values():
            if x.loads:
                raise Fault(f"the block ends while copies are under way, which nobody waited for at {x.name}")
