"""Arrays of registers: of each thread its own, indexed by what all threads agree on."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

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


class Registers:
    """An array of `shape` whose entries are Values of one type."""

    def __init__(self, shape: Any, kind: Any) -> None:
        self.shape = tuple(int(x) for x in (shape if isinstance(shape, tuple) else (shape,)))
        self.letter = letter_of(kind)
        self.cells: list[Any] = [POISON[self.letter]] * math.prod(self.shape)

    def _place(self, index: Any) -> int:
        if type(index) is not tuple:
            index = (index,)
        if len(index) != len(self.shape):
            raise IndexError(f"{len(index)} indices into registers of shape {self.shape}")
        place = 0
        for x, extent in zip(index, self.shape, strict=True):
            k = operator.index(x)
            if not 0 <= k < extent:
                raise IndexError(f"index {tuple(map(operator.index, index))} into registers of shape {self.shape}")
            place = place * extent + k
        return place

    def __getitem__(self, index: Any) -> Value:
        return Value(self.cells[self._place(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        data = operand(value)
        is_mask = data is not None and data.dtype.kind == "b"  # which integers hold as 0 and 1
        self.cells[self._place(index)] = convert(Value(widened(value)) if is_mask else value, self.letter)
