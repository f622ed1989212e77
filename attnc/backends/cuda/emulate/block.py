"""The block that runs: groups of its threads, each in lockstep, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.barriers import Barriers
from attnc.backends.cuda.emulate.clocks import Clocks
from attnc.backends.cuda.emulate.faults import Fault
from attnc.backends.cuda.emulate.mbarriers import MBarriers
from attnc.backends.cuda.emulate.memory import Memory
from attnc.backends.cuda.emulate.pool import Pool
from attnc.backends.cuda.emulate.registers import Order
from attnc.backends.cuda.emulate.shared import SharedMemory, Window
from attnc.backends.cuda.emulate.tma import Stores
from attnc.backends.cuda.emulate.turns import Turns
from attnc.backends.cuda.emulate.values import Value, convert, operand, spread
from attnc.backends.cuda.emulate.wgmma import Products

Array = np.ndarray[Any, Any]


class Block:
    """A block of `grid`; `sizes`: the threads of its groups."""

    def __init__(self, grid: int, sizes: tuple[int, ...], shared_bytes: int, memory: Memory) -> None:
        self.grid, self.shared_bytes, self.memory, self.threads = grid, shared_bytes, memory, sum(sizes)
        self.warps = tuple(n // 32 for n in sizes)
        self.groups = [Group(self, k, sum(sizes[:k]), n) for k, n in enumerate(sizes)]
        self.index = 0

    def begin(self, index: int) -> None:
        """Starts the block of that index."""
        self.index = index
        self.clocks = Clocks(self.warps)
        self.shared = SharedMemory(self.shared_bytes, self.clocks)
        self.barriers, self.mbarriers = Barriers(self.clocks), MBarriers(self.shared)
        self.pool = Pool(self.threads)
        self.turns = Turns([group.name for group in self.groups])
        for group in self.groups:
            group.begin()

    def run(self, bodies: list[Callable[[], None]]) -> None:
        """A body for each group."""

        def whole(group: Group, body: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                with np.errstate(all="ignore"):
                    body()
                    group.end()

            return run

        self.turns.run([whole(group, body) for group, body in zip(self.groups, bodies, strict=True)])
        self.mbarriers.end()
        self.pool.end()


class Group:
    """Threads of a block that go in lockstep, with control flow of their own."""

    def __init__(self, block: Block, number: int, first: int, n: int) -> None:
        self.block, self.number, self.n, self.memory = block, number, n, block.memory
        self.threads = np.arange(first, first + n, dtype=np.int32)
        self.places = np.arange(n)
        self.warps = np.arange(first // 32, (first + n) // 32)
        self.name = f"threads {first}..{first + n - 1}"

    def begin(self) -> None:
        """Starts a block."""
        self.shared = Window(self.block.shared, self.threads, self.number)
        self.order, self.stores, self.products = Order(), Stores(), Products()

    def end(self) -> None:
        """Fault: it returned while something of it was under way."""
        self.stores.end(self)
        self.products.end()

    def vector(self, x: Any, letter: str) -> Array:
        """An operand, an entry per thread."""
        result: Array = spread(convert(x, letter), self.n)
        return result

    def wait(self, ready: Callable[[], bool], reason: Callable[[], str]) -> None:
        """Others go on until `ready`."""
        self.block.turns.wait(self.number, ready, reason)

    def whole(self, warps: Array) -> int | None:
        """Its number, if these are all of its warps."""
        return self.number if len(warps) == len(self.warps) else None

    def acting(self, predicate: Any) -> Array:
        """The indices of the threads where a predicate holds."""
        return np.flatnonzero(self.vector(predicate, "p"))

    @staticmethod
    def one(x: Any, what: str) -> int:
        """An operand that all threads must agree on."""
        data = operand(x)
        if data is None or data.dtype.kind not in "iu":
            raise TypeError(f"{what} is no integer")
        return Value(data).__index__()

    @staticmethod
    def constant(x: Any, allowed: Any, what: str) -> int:
        """An operand that is written into the instruction."""
        if type(x) is not int or x not in allowed:
            raise Fault(f"{what} is {x}, which is not one of the constants {allowed}")
        return x
