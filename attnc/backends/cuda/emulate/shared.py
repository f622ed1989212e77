"""Shared memory of a block: what a copy has not brought yet cannot be seen, and what warps do without a barrier raises.

Memory is looked at in halves of words. Of each half it is known which warp wrote and which read it since the last barrier,
and whether a copy is on its way to it. Within a warp the order of the program is taken for granted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Misaligned, OutOfBounds, Race

Array = np.ndarray[Any, Any]
Copy = tuple[Array, Array, Array]  # addresses, their 16-byte cells, and what comes there: int16 (threads, 8)
BASE = 1024  # the address of the first byte; zero would hide a forgotten shared()
NOBODY, SEVERAL = -1, -2


class SharedMemory:
    """`size` bytes for a block of `threads`; all of them NaN, whatever the float format, until they are written."""

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        halves = -(-size // 16) * 8
        self.data = np.full(halves, -1, np.int16)
        self.writer = np.full(halves, NOBODY, np.int8)
        self.reader = np.full(halves, NOBODY, np.int8)
        self.flying = np.zeros(halves, np.bool_)
        self.warp = (np.arange(threads) >> 5).astype(np.int8)[:, None]
        self.open: list[Copy] = []  # copies that no group holds yet
        self.groups: list[list[Copy]] = []

    def read(self, addresses: Array, size: int) -> Array:
        """Halves of words at the threads' addresses: int16 (threads, size / 2)."""
        index = self._places(addresses, size)
        flying = self._rows(self.flying, size)[index]
        self._forbid(flying, addresses, "is read while a copy to it is under way")
        wrote = self._foreign(self.writer, index, size)
        self._forbid(wrote, addresses, "is read: another warp wrote it, and no barrier came between")
        self._claim(self.reader, index, size)
        found: Array = self._rows(self.data, size)[index]
        return found

    def write(self, addresses: Array, values: Array) -> None:
        """int16 (threads, size / 2) to the threads' addresses. Several warps may write the same value to one place."""
        size = 2 * values.shape[1]
        index = self._places(addresses, size)
        self._before_write(addresses, index, size)
        wrote = self._foreign(self.writer, index, size) & (self._rows(self.data, size)[index] != values)
        self._forbid(wrote, addresses, "is overwritten: another warp wrote it since the last barrier")
        self._land(addresses, index, values)

    def copy(self, addresses: Array, values: Array) -> None:
        """Starts a copy of int16 (threads, 8) to the threads' addresses: until it is waited for, nobody may touch them."""
        index = self._places(addresses, 16)
        self._before_write(addresses, index, 16)
        wrote = self._foreign(self.writer, index, 16)
        self._forbid(wrote, addresses, "is the goal of a copy: another warp wrote it since the last barrier")
        self._rows(self.flying, 16)[index] = True
        self._claim(self.writer, index, 16)
        self.open.append((addresses, index, values))

    def commit(self) -> None:
        """Makes the copies begun since the last call a group; there may be none."""
        self.groups.append(self.open)
        self.open = []

    def wait(self, pending: int) -> None:
        """Ends all groups but the last `pending`: their bytes are there, for others after a barrier."""
        while len(self.groups) > pending:
            for addresses, index, values in self.groups.pop(0):
                self._rows(self.flying, 16)[index] = False
                self._land(addresses, index, values)

    def barrier(self) -> None:
        """What happened before has happened for all warps."""
        self.writer.fill(NOBODY)
        self.reader.fill(NOBODY)

    def _before_write(self, addresses: Array, index: Array, size: int) -> None:
        flying = self._rows(self.flying, size)[index]
        self._forbid(flying, addresses, "is overwritten while a copy to it is under way")
        read = self._foreign(self.reader, index, size)
        self._forbid(read, addresses, "is overwritten: another warp read it since the last barrier")

    def _land(self, addresses: Array, index: Array, values: Array) -> None:
        size = 2 * values.shape[1]
        rows = self._rows(self.data, size)
        rows[index] = values
        self._forbid(rows[index] != values, addresses, "is written by several threads at once, with different values")
        self._claim(self.writer, index, size)

    def _foreign(self, shadow: Array, index: Array, size: int) -> Array:
        """Where a shadow names another warp than the thread's: bool (threads, size / 2)."""
        warp = self._rows(shadow, size)[index]
        foreign: Array = (warp != NOBODY) & (warp != self.warp)
        return foreign

    def _claim(self, shadow: Array, index: Array, size: int) -> None:
        """Notes the threads' warps in a shadow."""
        rows = self._rows(shadow, size)
        before = rows[index]
        after = np.where((before == NOBODY) | (before == self.warp), self.warp, np.int8(SEVERAL))
        rows[index] = after
        # Of several warps at one place, the last one's entry stands: the others see that it is not theirs.
        lost = rows[index] != after
        if lost.any():
            threads, halves = np.nonzero(lost)
            rows[index[threads], halves] = SEVERAL

    @staticmethod
    def _rows(halves: Array, size: int) -> Array:
        return halves.reshape(-1, size // 2)

    def _places(self, addresses: Array, size: int) -> Array:
        offset = addresses.astype(np.int64) - BASE
        outside = (offset < 0) | (offset + size > self.size)
        if outside.any():
            raise OutOfBounds(
                f"{_where(addresses, outside)} is accessed, {size} bytes, outside the {self.size} that are there"
            )
        uneven = (offset & (size - 1)) != 0
        if uneven.any():
            raise Misaligned(f"{_where(addresses, uneven)} is no multiple of the {size} bytes of the access")
        found: Array = offset // size
        return found

    @staticmethod
    def _forbid(wrong: Array, addresses: Array, what: str) -> None:
        if wrong.any():
            raise Race(f"{_where(addresses, np.any(wrong, axis=1))} {what}")


def _where(addresses: Array, wrong: Array) -> str:
    thread = int(wrong.argmax())
    return f"shared memory: byte {int(addresses[thread]) - BASE}, by thread {thread},"
