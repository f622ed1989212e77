"""Registers that warps of a block hand to each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Fault

ALL, MOST = 65536, 255  # registers of a multiprocessor, and of a thread
ALLOWED = range(24, 257, 8)


class Pool:
    """What a block of `threads` starts with: as many registers per thread as a launch can give to all."""

    def __init__(self, threads: int) -> None:
        self.start = min(ALL // threads // 8 * 8, MOST)
        self.total = self.start * threads
        self.each = np.full(threads // 32, self.start)

    def less(self, warps: Any, count: int) -> None:
        """Gives registers back."""
        if (self.each[warps] < count).any():
            raise Fault(f"registers_less({count}): the warps have {self.each[warps].min()} registers per thread")
        self.each[warps] = count

    def more(self, warps: Any, count: int) -> bool:
        """Takes registers, if there are enough."""
        if (self.each[warps] > count).any():
            raise Fault(f"registers_more({count}): the warps have {self.each[warps].max()} registers per thread")
        wanted = self.each.copy()
        wanted[warps] = count
        if 32 * int(wanted.sum()) > self.total:
            return False
        self.each = wanted
        return True

    def reason(self, count: int) -> str:
        """What a warp waits for."""
        return (
            f"{count} registers per thread of the block's {self.total}, of which {32 * int(self.each.sum())} are taken"
        )

    def end(self) -> None:
        """Fault: of four warps some have given or taken registers, others have not."""
        for first in range(0, len(self.each), 4):
            four = self.each[first : first + 4]
            if (four != four[0]).any():
                raise Fault(
                    f"warps {first}..{first + len(four) - 1} end with {four.tolist()} registers: they change them together"
                )
