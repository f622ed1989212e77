"""Global memory: NumPy arrays under 64-bit addresses that mean nothing outside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Fault, Misaligned, OutOfBounds, Race
from attnc.backends.cuda.tensor_map import ITEMSIZE, LONGEST, STEP, Geometry

Array = np.ndarray[Any, Any]
SHIFT = 40  # arrays lie 2**40 bytes apart: no address that is wrong by less than that falls into a neighbour
WIDTHS = (128, 64, 32)  # bytes of the rows of a box
MAPS = 1 << 60  # tensor maps are numbered from here on


@dataclass(frozen=True, slots=True)
class Allocation:
    """A contiguous array: its bytes, where they lie in this process, and its name for messages."""

    bytes: Array
    start: int
    name: str


class Memory:
    """The arrays of a launch. Writes go straight to them."""

    def __init__(self) -> None:
        self.allocations: list[Allocation] = []
        self.maps: list[Geometry] = []

    def address(self, array: Array, name: str = "") -> int:
        """The address of the first element of `array`: of a view, inside the array that it is a view of.

        ValueError: the memory that the array is a part of is not contiguous.
        """
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        number = self._number(owner, name)
        base: int = self.allocations[number].start
        here: int = array.__array_interface__["data"][0]
        return ((number + 1) << SHIFT) + here - base

    def tensor_map(self, geometry: Geometry) -> int:
        """A kernel's argument that describes an array to the copy engine. Fault: the driver would not encode it."""
        _check(geometry)
        self.maps.append(geometry)
        return MAPS + len(self.maps) - 1

    def geometry(self, handle: int) -> Geometry:
        """What `tensor_map` was given."""
        if not MAPS <= handle < MAPS + len(self.maps):
            raise Fault(f"{handle:#x} is no tensor map")
        return self.maps[handle - MAPS]

    def _number(self, owner: Array, name: str) -> int:
        start = owner.__array_interface__["data"][0]
        for k, known in enumerate(self.allocations):
            if known.start == start and known.bytes.nbytes == owner.nbytes:
                return k
        if not (owner.flags.c_contiguous or owner.flags.f_contiguous):
            raise ValueError(f"the array of shape {owner.shape} and strides {owner.strides} is not contiguous")
        label = name or f"array {len(self.allocations)} ({owner.dtype}, shape {owner.shape})"
        self.allocations.append(Allocation(owner.ravel(order="K").view(np.uint8), start, label))
        return len(self.allocations) - 1

    def read(self, addresses: Array, dtype: str) -> Array:
        """Elements of dtype, one at each address."""
        result = np.empty(len(addresses), dtype)
        for threads, elements, index in self._places(addresses, result.dtype):
            result[threads] = elements[index]
        return result

    def write(self, addresses: Array, values: Array) -> None:
        """Each of `values` to its address. Race: two of them differ and go to the same address."""
        for threads, elements, index in self._places(addresses, values.dtype, writing=True):
            elements[index] = values[threads]
            if (elements[index].view(np.uint8) != values[threads].view(np.uint8)).any():
                raise Race("threads store different values to one address of global memory")

    def _places(
        self, addresses: Array, dtype: np.dtype[Any], writing: bool = False
    ) -> Iterator[tuple[Any, Array, Array]]:
        """Of each array that addresses point into: which threads do, the array's elements, and their indices."""
        size = dtype.itemsize
        if np.count_nonzero(addresses & (size - 1)):
            wrong = int(addresses[(addresses & (size - 1)) != 0][0])
            raise Misaligned(f"{self._name(wrong)}: no multiple of the {size} bytes that are accessed")
        numbers = addresses >> SHIFT
        other = numbers != numbers[0]
        alike = not np.count_nonzero(other)
        for number in (numbers[0],) if alike else np.unique(numbers):
            threads = slice(None) if alike else numbers == number
            found = addresses[threads]
            if not 0 < number <= len(self.allocations):
                raise OutOfBounds(self._name(int(found[0])))
            memory = self.allocations[int(number) - 1].bytes
            index = (found & ((1 << SHIFT) - 1)) // size
            outside = index >= len(memory) // size
            if np.count_nonzero(outside):
                raise OutOfBounds(self._name(int(found[outside.argmax()])))
            if writing and not memory.flags.writeable:
                raise OutOfBounds(f"{self._name(int(found[0]))}: the array is read-only")
            yield threads, memory[: len(memory) // size * size].view(dtype), index

    def _name(self, address: int) -> str:
        number, offset = (address >> SHIFT) - 1, address & ((1 << SHIFT) - 1)
        # An address just before an array looks as if it lay far behind its predecessor.
        if offset >= 1 << (SHIFT - 1):
            number, offset = number + 1, offset - (1 << SHIFT)
        if not 0 <= number < len(self.allocations):
            return f"address {address:#x} is in no array"
        known = self.allocations[number]
        return f"address {address:#x} is at byte {offset} of {known.name}, which has {known.bytes.nbytes}"


def _check(x: Geometry) -> None:
    """Fault: the driver would not encode it."""
    wrong = [
        what for what, bad in (("its address", x.address % STEP), ("a stride", any(s % STEP for s in x.strides))) if bad
    ]
    if wrong:
        raise Misaligned(f"tensor map: {wrong[0]} is no multiple of {STEP} bytes: {x}")
    if not all(0 <= s < LONGEST for s in x.strides) or not all(0 < n < 2**32 for n in x.extents):
        raise Fault(f"tensor map: strides are 0..2**40, extents 1..2**32: {x}")
    if ITEMSIZE * x.columns not in WIDTHS or not 0 < x.rows <= 256:
        raise Fault(f"tensor map: a box has 1..256 rows of 64, 32 or 16 columns: {x}")
