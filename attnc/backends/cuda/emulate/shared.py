"""Shared memory of a block: what a copy has not brought yet cannot be seen, and what warps do without a barrier raises.

Memory is looked at in halves of words. Of each half it is known who wrote it and which warps read it, and when; whether a
copy is on its way to it; and whether the copy engine or the tensor cores are reading it. Within a warp the order of the
program is taken for granted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.clocks import GROUPS, MASK, NEVER, Clocks
from attnc.backends.cuda.emulate.faults import Misaligned, OutOfBounds, Race

Array = np.ndarray[Any, Any]
Copy = tuple[Array, Array, Array]  # addresses, their 16-byte cells, and what comes there: int16 (threads, 8)
BASE = 1024  # the address of the first byte; zero would hide a forgotten shared()
USERS = "wgmma, a TMA store or an mbarrier"


class SharedMemory:
    """`size` bytes; all of them NaN, whatever the float format, until they are written.

    writer, readers: stamps of the last writes, and the moments of the last reads by each warp. fenced: where threads wrote,
    the stamp of the fence that shows it to the copy engine and the tensor cores. used: how many of these are reading.
    """

    def __init__(self, size: int, clocks: Clocks) -> None:
        self.size, self.clocks = size, clocks
        halves = -(-size // 16) * 8
        self.data = np.full(halves, -1, np.int16)
        self.writer = np.zeros(halves, np.int32)
        self.readers = np.zeros((halves, clocks.warps), np.int32)
        self.fenced = np.zeros(halves, np.int32)
        self.flying = np.zeros(halves, np.bool_)
        self.used = np.zeros(halves, np.int16)

    def places(self, addresses: Array, size: int, by: str | int) -> Array:
        """Addresses counted in steps of `size` bytes from the first; by: who accesses them, or the first of its threads."""
        offset = addresses.astype(np.int64) - BASE
        if size > self.size or np.count_nonzero(offset.view(np.uint64) > self.size - size):  # below 0 is far above
            outside = (offset < 0) | (offset + size > self.size)
            raise OutOfBounds(
                f"{_where(addresses, outside, by)} is accessed, {size} bytes, outside the {self.size} that are there"
            )
        uneven = offset & (size - 1)
        if np.count_nonzero(uneven):
            raise Misaligned(f"{_where(addresses, uneven != 0, by)} is no multiple of the {size} bytes of the access")
        found: Array = offset // size
        return found

    # -- the copy engine and the tensor cores, whose accesses are cells of 16 bytes

    def begin_read(self, cells: Array, warps: Array, by: str) -> Array:
        """Halves of words, int16 (cells, 8), that nobody may change before `finish_read`. They see what all `warps` do."""
        done = f"is read by {by}"
        self._forbid(self._cells(self.flying)[cells], cells, f"{done} while a copy to it is under way")
        self._after_writes(cells, warps, done)
        self._cells(self.used)[cells] += 1
        found: Array = self._cells(self.data)[cells]
        return found

    def finish_read(self, cells: Array, warps: Array) -> None:
        """They have been read, which counts as done now by these warps."""
        self._cells(self.used)[cells] -= 1
        readers = self.readers.reshape(-1, 8, self.clocks.warps)
        for warp in warps:
            readers[cells, :, warp] = self.clocks.known[warp, warp]

    def begin_load(self, cells: Array, warps: Array) -> None:
        """A copy to them is under way, begun by a warp."""
        done = "is the goal of a copy"
        self._forbid(self._cells(self.flying)[cells], cells, f"{done} while another one to it is under way")
        self._forbid(self._cells(self.used)[cells], cells, f"{done} while {USERS} uses it")
        self._after_writes(cells, warps, done)
        told = self.clocks.known[warps].min(axis=0)[: self.clocks.warps]
        read = (self.readers.reshape(-1, 8, self.clocks.warps)[cells] > told).any(axis=2)
        self._forbid(read, cells, f"{done}: another warp read it, and no barrier came between")
        self._cells(self.flying)[cells] = True

    def _after_writes(self, cells: Array, warps: Array, done: str) -> None:
        wrote = self.clocks.unknown_to_all(self._cells(self.writer)[cells], warps)
        self._forbid(wrote, cells, f"{done}: another warp wrote it, and no barrier came between")
        hidden = self.clocks.unknown_to_all(self._cells(self.fenced)[cells], warps)
        self._forbid(hidden, cells, f"{done}: threads wrote it, and no async_fence of theirs came before the barrier")

    def finish_load(self, cells: Array, values: Array, stamp: int) -> None:
        """The copy has come."""
        self._cells(self.flying)[cells] = False
        self._cells(self.data)[cells] = values
        self._cells(self.writer)[cells] = stamp
        self._cells(self.fenced)[cells] = 0

    def fence(self, warps: Array, group: int) -> None:
        """Shows what warps, all those of a group, have written to the copy engine and the tensor cores."""
        open_ = np.flatnonzero(self.fenced == NEVER)
        if len(open_):
            actors = self.writer[open_] & MASK
            now = np.zeros(MASK + 1, np.int32)
            now[warps] = self.clocks.stamps(warps)
            now[GROUPS + group] = self.clocks.common(group)
            mine = now[actors] != 0
            self.fenced[open_[mine]] = now[actors[mine]]

    @staticmethod
    def _cells(halves: Array) -> Array:
        return halves.reshape(-1, 8)

    @staticmethod
    def _forbid(wrong: Array, cells: Array, what: str) -> None:
        if wrong.any():
            raise Race(f"shared memory: byte {16 * int(cells[int(wrong.any(axis=1).argmax())])} {what}")


class Window:
    """Shared memory as the threads of a group see it, and the copies that they have under way."""

    def __init__(self, memory: SharedMemory, threads: Array, group: int) -> None:
        self.memory, self.clocks, self.group = memory, memory.clocks, group
        self.first = int(threads[0])
        self.warp = (threads.astype(np.int64) >> 5)[:, None]
        self.open: list[Copy] = []  # copies that no group holds yet
        self.groups: list[list[Copy]] = []

    def read(self, addresses: Array, size: int) -> Array:
        """Halves of words at the threads' addresses: int16 (threads, size / 2)."""
        index = self.memory.places(addresses, size, self.first)
        flying = self._rows(self.memory.flying, size)[index]
        self._forbid(flying, addresses, "is read while a copy to it is under way")
        wrote = self._wrote(index, size)
        self._forbid(wrote, addresses, "is read: another warp wrote it, and no barrier came between")
        warp = self.warp[:, 0]
        self._readers(size)[index, :, warp] = self.clocks.known[warp, warp][:, None]
        found: Array = self._rows(self.memory.data, size)[index]
        return found

    def write(self, addresses: Array, values: Array) -> None:
        """int16 (threads, size / 2) to the threads' addresses. Several warps may write the same value to one place."""
        size = 2 * values.shape[1]
        index = self.memory.places(addresses, size, self.first)
        self._before_write(addresses, index, size)
        foreign = self._wrote(index, size)
        wrote = foreign & (self._rows(self.memory.data, size)[index] != values)
        self._forbid(wrote, addresses, "is overwritten: another warp wrote it since the last barrier")
        self._land(addresses, index, values, foreign)

    def copy(self, addresses: Array, values: Array) -> None:
        """Starts a copy of int16 (threads, 8) to the threads' addresses: until it is waited for, nobody may touch them."""
        index = self.memory.places(addresses, 16, self.first)
        self._before_write(addresses, index, 16)
        wrote = self._wrote(index, 16)
        self._forbid(wrote, addresses, "is the goal of a copy: another warp wrote it since the last barrier")
        self._rows(self.memory.flying, 16)[index] = True
        self.open.append((addresses, index, values))

    def commit(self) -> None:
        """Makes the copies begun since the last call a group; there may be none."""
        self.groups.append(self.open)
        self.open = []

    def wait(self, pending: int) -> None:
        """Ends all groups but the last `pending`: their bytes are there, for others after a barrier."""
        while len(self.groups) > pending:
            for addresses, index, values in self.groups.pop(0):
                self._rows(self.memory.flying, 16)[index] = False
                self._land(addresses, index, values)

    def _before_write(self, addresses: Array, index: Array, size: int) -> None:
        flying = self._rows(self.memory.flying, size)[index]
        self._forbid(flying, addresses, "is overwritten while a copy to it is under way")
        used = self._rows(self.memory.used, size)[index]
        self._forbid(used, addresses, f"is overwritten while {USERS} uses it")
        told = self.clocks.known[self.warp, : self.clocks.warps]
        late: Array = self._readers(size)[index] > told
        if np.count_nonzero(late):
            read: Array = np.any(late, axis=2)
            self._forbid(read, addresses, "is overwritten: another warp read it since the last barrier")

    def _land(self, addresses: Array, index: Array, values: Array, common: Array | None = None) -> None:
        size = 2 * values.shape[1]
        rows, writer = self._rows(self.memory.data, size), self._rows(self.memory.writer, size)
        rows[index] = values
        self._forbid(rows[index] != values, addresses, "is written by several threads at once, with different values")
        self._rows(self.memory.fenced, size)[index] = NEVER
        stamp = self.clocks.stamps(self.warp).astype(np.int32)
        writer[index] = stamp
        # Of several warps at one place, the last one's stamp stands: the others see that it is not theirs.
        lost = writer[index] != stamp
        lost = lost if common is None else lost | common
        if np.count_nonzero(lost):
            threads, halves = np.nonzero(lost)
            writer[index[threads], halves] = self.clocks.common(self.group)

    def _wrote(self, index: Array, size: int) -> Array:
        """Where a write is the last one of which a thread's warp has not been told: bool (threads, size / 2)."""
        return self.clocks.unknown(self._rows(self.memory.writer, size)[index], self.warp)

    def _readers(self, size: int) -> Array:
        return self.memory.readers.reshape(-1, size // 2, self.clocks.warps)

    @staticmethod
    def _rows(halves: Array, size: int) -> Array:
        return halves.reshape(-1, size // 2)

    def _forbid(self, wrong: Array, addresses: Array, what: str) -> None:
        if np.count_nonzero(wrong):  # faster than any()
            raise Race(f"{_where(addresses, np.any(wrong, axis=1), self.first)} {what}")


def _where(addresses: Array, wrong: Array, by: str | int) -> str:
    row = int(wrong.argmax())
    who = by if isinstance(by, str) else f"thread {by + row}"
    return f"shared memory: byte {int(addresses[row]) - BASE}, by {who},"
