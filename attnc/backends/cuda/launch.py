"""Launches the kernels of an executable on an argument block. Knows nothing of tracing, compiling, or arrays.

An argument is a 64-bit word by value, or a tensor map of 128 bytes. The words of a call stand in one block in the order of the
layout, its maps in memory of their own; each kernel is given pointers to its own. The driver copies them while it launches, so
they serve again with other addresses.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Mapping, Sequence

from attnc.backends.cuda.encode import Maps
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.load import Loaded
from attnc.backends.launch import summary_words
from attnc.dsl.place import here
from attnc.errors import ShapeError

LARGEST_GRID = 2**31 - 1


class Call:
    """An argument block with its tensor maps, and the launches that read them; `launch` may be called again, and by several
    threads.
    """

    def __init__(
        self, loaded: Loaded, block: bytes | bytearray, extents: Mapping[str, int], tables: Mapping[str, Sequence[int]]
    ) -> None:
        """block: of the executable's layout. extents: of the call. tables: the shapes of the operand tables.

        ShapeError: more blocks than a launch can have.
        """
        executable = loaded.executable
        self.loaded = loaded
        self.words = (ctypes.c_int64 * (len(block) // 8)).from_buffer(bytearray(block))
        numbers = executable.layout.words
        maps = tuple(dict.fromkeys(x for stage in executable.stages for x in stage.maps))
        described = Maps(maps, numbers, executable.features)
        self._pointers = []
        steps = []
        for stage, function in zip(executable.stages, loaded.functions, strict=True):
            grid = _grid(loaded, stage, extents, tables)
            pointers = self._arguments(stage, numbers, described)
            self._pointers.append(pointers)
            if grid:
                places = ctypes.addressof(pointers)
                steps.append((function, grid, stage.threads, stage.shared_bytes, places))
        self._steps = tuple(steps)
        self._maps = described if maps else None
        self._cleared = executable.cleared(extents)
        self._scratch = numbers.get("scratch", 0)
        self._lock = threading.Lock()
        cuda = loaded.gpu.api.cuda
        self._kernel, self._get, self._set = cuda.driver.launchKernel, cuda.runtime.getDevice, cuda.runtime.setDevice
        self._clear = cuda.runtime.memsetAsync

    def _arguments(self, stage: Stage, numbers: Mapping[str, int], maps: Maps) -> ctypes.Array[ctypes.c_void_p]:
        """Where the driver finds the arguments of a stage, in their order."""
        base, places = ctypes.addressof(self.words), maps.places(stage.maps)
        found = [places[x] if x in places else base + 8 * numbers[x] for x in stage.parameters]
        return (ctypes.c_void_p * len(found))(*found)

    def launch(self, stream: int, changes: Iterable[tuple[int, int]] = ()) -> None:
        """Launch all stages on a stream of the device, after some words (number, value) were replaced.

        Nothing is allocated, copied or waited for, so a stream that captures a graph can be given. DeviceError: the driver
        describes no array as a kernel takes it.
        """
        number = self.loaded.gpu.number
        before = self._get()
        self._set(number)  # even where it is current already: a new thread has no context yet
        try:
            with self._lock:
                for word, value in changes:
                    self.words[word] = value
                if self._maps is not None:
                    self._maps.renew(self.words)
                if self._cleared:
                    self._clear(self.words[self._scratch], 0, self._cleared, stream)
                for function, grid, threads, shared, places in self._steps:
                    self._kernel(function, grid, 1, 1, threads, 1, 1, shared, stream, places, 0)
        finally:
            if before != number:
                self._set(before)


def _grid(loaded: Loaded, stage: Stage, extents: Mapping[str, int], tables: Mapping[str, Sequence[int]]) -> int:
    """Blocks to launch of a stage. ShapeError: too many, or too many items for the number that counts them."""
    items = loaded.executable.blocks(stage, extents, tables)
    room = stage.persistent * loaded.gpu.multiprocessors
    # A persistent block asks for items until there is none, so their number goes beyond.
    if items + room > LARGEST_GRID:
        raise ShapeError(
            f"a launch of {items} blocks",
            where=here(),
            cause=f"CUDA launches at most {LARGEST_GRID}; batch, heads and queries are {dict(extents)}",
            cure="split the call along the batch or the heads",
        )
    return min(items, room) if stage.persistent else items


def scratch(executable: Executable, extents: Mapping[str, int], tables: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The device memory that a call needs besides its arrays: the word that takes its address, and bytes.

    extents: of the call. tables: the shapes of the operand tables.
    """
    searches = executable.layout.searches
    needed = {f"t_{name}_sum{axis}": 8 * summary_words(tuple(tables[name]), axis) for name, axis in searches}
    size = executable.workspace(extents)
    return needed | ({"scratch": size} if size else {})
