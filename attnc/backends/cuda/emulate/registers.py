"""Arrays of registers: of each thread its own, indexed by what all threads agree on."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Fault, Race
from attnc.backends.cuda.emulate.values import LETTERS, Value, convert, operand, widened

# What a register holds before anything is written to it: NaN, or a pattern that a wrong address cannot hide.
POISON: dict[str, Any] = {
    "f": np.float32(np.nan), "d": np.float64(np.nan), "r": np.int32(0x5A5A5A5A), "l": np.int64(0x5A5A5A5A5A5A5A5A),
}  # fmt: skip


def letter_of(kind: Any) -> str:
    """The letter of a letter, a NumPy dtype, or anything that a dtype's name is the name of."""
    if isinstance(kind, str) and kind in POISON:
        return kind
    name = getattr(kind, "__name__", None) or str(kind)
    for letter in POISON:
        if LETTERS[letter].name == name:
            return letter
    raise TypeError(f"registers hold {', '.join(LETTERS[x].name for x in POISON)}, not {name}")


class Order:
    """Counts what orders the registers of a group's threads; `fence`: when the last wgmma_fence was, 0 before the first."""

    def __init__(self) -> None:
        self.time, self.fence = 1, 0

    def tick(self) -> int:
        """The next moment."""
        self.time += 1
        return self.time


class Registers:
    """An array of `shape` whose entries are Values of one type.

    results, sources: how many wgmma under way write and read it. touched: when threads last accessed it; held: when the
    compiler was first told to keep what came before, since then. fresh: results came, and it was not told since then.
    """

    def __init__(self, shape: Any, kind: Any, order: Order) -> None:
        self.shape = tuple(int(x) for x in (shape if isinstance(shape, tuple) else (shape,)))
        self.letter, self.order = letter_of(kind), order
        self.dtype = LETTERS[self.letter]
        self.cells: list[Any] = [POISON[self.letter]] * math.prod(self.shape)
        self.results = self.sources = self.touched = self.held = 0
        self.fresh = False

    def hold(self) -> None:
        """The compiler moves no access over this."""
        self.fresh = self.fresh and self.results > 0
        if self.held <= self.touched:
            self.held = self.order.tick()

    def ready(self, name: str) -> None:
        """Fault: wgmma may not use it now."""
        if not self.order.fence:
            raise Fault("wgmma before the first wgmma_fence")
        if self.touched and self.held <= self.touched:
            raise Fault(
                f"wgmma uses {name} without a hold after threads have used them: the compiler may move that behind it"
            )
        if self.touched and self.order.fence <= self.held:
            raise Fault(f"wgmma uses {name} without a wgmma_fence after threads have used them")

    def _place(self, index: Any) -> int:
        # The counter of a loop, most often.
        if type(index) is Value and type(index.data) is np.int64 and len(self.shape) == 1:
            place = int(index.data)
            if 0 <= place < self.shape[0]:
                return place
        if type(index) is not tuple:
            index = (index,)
        if len(index) != len(self.shape):
            raise IndexError(f"{len(index)} indices into registers of shape {self.shape}")
        place = 0
        for x, extent in zip(index, self.shape, strict=True):
            if type(x) is int:
                k = x
            elif type(x) is Value and type(x.data) is np.int64:  # the counter of a loop, most often
                k = int(x.data)
            else:
                k = operator.index(x)
            if not 0 <= k < extent:
                raise IndexError(f"index {tuple(map(operator.index, index))} into registers of shape {self.shape}")
            place = place * extent + k
        return place

    def __getitem__(self, index: Any) -> Value:
        if self.results or self.fresh:
            self._unready("read")
        self.touched = self.order.time
        return Value(self.cells[self._place(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.results or self.sources or self.fresh:
            self._unready("written")
        self.touched = self.order.time
        if type(value) is Value and value.data.dtype is self.dtype:
            self.cells[self._place(index)] = value.data
            return
        data = operand(value)
        is_mask = data is not None and data.dtype.kind == "b"  # which integers hold as 0 and 1
        self.cells[self._place(index)] = convert(Value(widened(value)) if is_mask else value, self.letter)

    def _unready(self, done: str) -> None:
        if self.results or (self.sources and done == "written"):
            use = "results come to them" if self.results else "it reads them"
            raise Race(
                f"registers of shape {self.shape} are {done} while wgmma is under way and {use}: no wgmma_wait came"
            )
        if self.fresh:
            raise Fault(
                f"registers of shape {self.shape} are {done} without a hold after the wgmma_wait: the compiler may move that before it"
            )
