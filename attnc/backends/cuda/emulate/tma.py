"""The copy engine: boxes of arrays of rank 4, to shared memory and back, with its permutation of chunks of 16 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Fault, Misaligned
from attnc.backends.cuda.emulate.shared import BASE
from attnc.backends.cuda.tensor_map import ITEMSIZE, Geometry

Array = np.ndarray[Any, Any]
CHUNK = 16
ALIGNED = 128  # bytes, of a box in shared memory


def swizzled(addresses: Array, width: int) -> Array:
    """Addresses as the hardware permutes chunks in rows of `width` bytes."""
    found: Array = addresses ^ ((addresses >> 7 & (width // CHUNK - 1)) << 4)
    return found


def _cells(group: Any, to: int, x: Geometry) -> Array:
    """The cells of 16 bytes of a box, in the order of its rows."""
    if to % ALIGNED:
        raise Misaligned(f"a box at byte {to - BASE} of shared memory: they lie at multiples of {ALIGNED}")
    width = ITEMSIZE * x.columns
    addresses = swizzled(to + CHUNK * np.arange(x.rows * width // CHUNK), width)
    found: Array = group.block.shared.places(addresses, CHUNK, "the copy engine")
    return found


def _sources(x: Geometry, coordinates: tuple[int, ...]) -> tuple[Array, Array]:
    """Of each number of a box (rows, columns): its address, and whether it lies in the array."""
    feature, row, head, batch = coordinates
    columns, rows = feature + np.arange(x.columns), row + np.arange(x.rows)[:, None]
    inside = (columns >= 0) & (columns < x.extents[0]) & (rows >= 0) & (rows < x.extents[1])
    if not (0 <= head < x.extents[2] and 0 <= batch < x.extents[3]):
        inside = np.zeros_like(inside)
    place = x.address + ITEMSIZE * columns + x.strides[0] * rows + x.strides[1] * head + x.strides[2] * batch
    return place, inside


def load(group: Any, p: Any, to: Any, tensor: Any, barrier: Any, *coordinates: Any) -> None:
    """Starts a copy to shared memory by each thread whose predicate holds; zeros from outside the array."""
    targets, maps, bars = group.vector(to, "r"), group.vector(tensor, "l"), group.vector(barrier, "r")
    places = [group.vector(x, "r") for x in coordinates]
    for k in group.acting(p):
        warp = group.threads[k : k + 1] >> 5
        x = group.memory.geometry(int(maps[k]))
        bar = group.block.mbarriers.at(int(bars[k]), warp)
        cells = _cells(group, int(targets[k]), x)
        place, inside = _sources(x, tuple(int(c[k]) for c in places))
        values = np.zeros(inside.shape, np.int16)
        if inside.any():
            values[inside] = group.memory.read(place[inside], "i2")
        group.block.mbarriers.load(bar, warp, cells, values.reshape(-1, 8))


@dataclass(slots=True)
class Store:
    """A copy from shared memory: its cells, the warp that began it, and what goes where. read: the cells are free again."""

    cells: Array
    warp: Array
    places: Array
    values: Array
    read: bool = False


class Stores:
    """Copies from shared memory of a group."""

    def __init__(self) -> None:
        self.open: list[Store] = []
        self.groups: list[list[Store]] = []

    def start(self, group: Any, p: Any, tensor: Any, source: Any, *coordinates: Any) -> None:
        """By each thread whose predicate holds; what lies outside the array is not written."""
        maps, sources = group.vector(tensor, "l"), group.vector(source, "r")
        places = [group.vector(x, "r") for x in coordinates]
        for k in group.acting(p):
            warp = group.threads[k : k + 1] >> 5
            x = group.memory.geometry(int(maps[k]))
            cells = _cells(group, int(sources[k]), x)
            found = group.block.shared.begin_read(cells, warp, "a TMA store")
            place, inside = _sources(x, tuple(int(c[k]) for c in places))
            self.open.append(Store(cells, warp, place[inside], found.reshape(inside.shape)[inside]))

    def commit(self) -> None:
        """Makes the copies begun since the last call a group; there may be none."""
        self.groups.append(self.open)
        self.open = []

    def wait_read(self, group: Any, pending: int) -> None:
        """The shared memory of all groups but the last `pending` is free."""
        for store in self._done(pending):
            if not store.read:
                group.block.shared.finish_read(store.cells, store.warp)
                store.read = True

    def wait(self, group: Any, pending: int) -> None:
        """All groups but the last `pending` have been written."""
        self.wait_read(group, pending)
        for store in self._done(pending):
            if len(store.places):
                group.memory.write(store.places, store.values)
        self.groups = self.groups[len(self.groups) - pending :] if pending < len(self.groups) else self.groups

    def end(self, group: Any) -> None:
        """Fault: threads returned while shared memory was being read. What was is written."""
        if self.open or any(not store.read for stores in self.groups for store in stores):
            raise Fault(f"{group.name} end without tma_commit and tma_wait_read after a TMA store")
        self.wait(group, 0)

    def _done(self, pending: int) -> list[Store]:
        return [store for stores in self.groups[: max(len(self.groups) - pending, 0)] for store in stores]
