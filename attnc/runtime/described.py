"""Arrays in a device's memory, as NumPy describes them: address, shape, strides, dtype. Their entries are not there."""

from __future__ import annotations

from typing import Any

import numpy as np


class Described(np.ndarray[Any, Any]):
    """What checks of shapes, strides, dtypes and overlaps take in the place of an array. To read it would end the process, so
    what a debugger or a report of an error does to variables reads nothing, and arithmetic raises.
    """

    __array_ufunc__ = None  # type: ignore[assignment]  # NumPy's way to say: no arithmetic

    def __repr__(self) -> str:
        return f"<{self.dtype} {self.shape} on a device>"

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        return repr(self)

    def __getitem__(self, index: Any) -> Any:
        if index is None:
            return super().__getitem__(None)
        raise TypeError(f"{self!r} has no entries here")

    def __iter__(self) -> Any:
        raise TypeError(f"{self!r} has no entries here")
