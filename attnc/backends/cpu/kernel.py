"""A compiled CPU kernel: from the cache or from the compiler, loaded, and called with a block of words."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from attnc.backends.block import Layout
from attnc.backends.cpu import machine, threads
from attnc.backends.cpu.room import LINE, NO_PARTS, Pieces, Room, Tiles
from attnc.runtime.cache import Cache, Entry

if TYPE_CHECKING:
    from attnc.backends.cpu.pieces import Piece

ENTRY = "kernel"
INTRINSICS = (
    "vector",
    "lanes",
    "pieces",
    "memory",
    "slow_lanes",
    "elementwise",
    "integers",
    "microkernel",
    "few",
    "rearrange",
    "room",
    "boxes",
    "summary",
    "values",
    "expressions",
    "translate",
    "machine",
)
ALIGN = 64


@dataclass(slots=True)
class Kernel:
    """`layout`: of its argument block; `room`: memory that calls need; `seconds`: of compilation, 0 from the cache."""

    source: str
    path: Path | None
    layout: Layout
    room: Room
    loaded: machine.Loaded
    seconds: float
    local: threading.local = field(default_factory=threading.local)

    def run(self, block: bytearray, workers: int, tiles: Tiles | Pieces = NO_PARTS) -> None:
        """Call the kernel on a block whose first three words are free for counter and scratch.

        In `workers` threads, or as many as there may be now: a repeated call knows the number of another time. tiles: of a
        kernel whose work items are parts of the keys, or that has a past.
        """
        workers = min(workers, threads.get_num_threads())
        common = -(-tiles.bytes(self.room) // ALIGN) * ALIGN
        size = common + workers * self.room.worker + ALIGN
        memory = getattr(self.local, "memory", None)
        if memory is None or len(memory) < size:
            memory = self.local.memory = (ctypes.c_char * size)()
        start = -(-ctypes.addressof(memory) // ALIGN) * ALIGN + common
        if tiles.counters:
            ctypes.memset(start - tiles.counters, 0, tiles.counters)
        words = (ctypes.c_int64 * (len(block) // 8)).from_buffer(block)
        words[0], words[1], words[2] = 0, start, self.room.worker
        if self.layout.searches:  # summaries of the tables
            threads.KERNEL(self.loaded.address)(ctypes.addressof(words), -1)
        for phase in range(tiles.phases):
            if tiles.phases > 1:
                words[0] = 0
                ctypes.c_int64.from_address(start - LINE).value = phase
            threads.run(self.loaded.address, ctypes.addressof(words), workers)


@functools.cache
def intrinsics() -> str:
    """The contents of everything that emitted code imports: part of every cache key."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    schedule = here.parents[1] / "schedule" / "schedule.py"
    for path in (*(here / f"{name}.py" for name in INTRINSICS), schedule, *sorted((here / "functions").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(source: str, layout: Layout, room: Room, cache: Cache) -> Kernel:
    """The kernel of an emitted module: machine code from the cache, or compiled now and stored there."""
    key = cache.key([source, intrinsics(), machine.host()])
    if (found := stored(key, layout, room, cache)) is not None:
        return found
    start = time.perf_counter()
    code = machine.compile_object(source, str(cache.path / f"{key}.py"), ENTRY, functools.partial(_pieces, cache))
    seconds = time.perf_counter() - start
    entry = cache.put(key, source, code, {"backend": "cpu", "seconds": round(seconds, 3), "scratch": room.worker})
    return Kernel(source, entry.path, layout, room, machine.load_object(code, ENTRY), seconds)


def stored(key: str, layout: Layout, room: Room, cache: Cache) -> Kernel | None:
    """The kernel with this key, where the cache has one that this process can load."""
    entry = cache.get(key)
    loaded = None if entry is None else _load(entry)
    return None if entry is None or loaded is None else Kernel(entry.source, entry.path, layout, room, loaded, 0.0)


def _pieces(cache: Cache, family: Sequence[Piece]) -> bytes:
    """The object with these pieces, from the cache, or compiled now and stored there for the next kernel."""
    names = [x.name for x in family]
    key = cache.key(["pieces", *names, intrinsics(), machine.host()])
    entry = cache.get(key)
    if entry is not None and machine.provides(entry.code, names):
        return entry.code
    start = time.perf_counter()
    code = machine.compile_pieces(family)
    seconds = time.perf_counter() - start
    source = "\n".join((f'"""{family[0].family}', "", *names, '"""', ""))
    cache.put(key, source, code, {"backend": "cpu", "seconds": round(seconds, 3), "pieces": names})
    return code


def _load(entry: Entry) -> machine.Loaded | None:
    """A cached object, or None where it is not one that this process can load."""
    try:
        return machine.load_object(entry.code, ENTRY)
    except (AssertionError, ValueError):
        return None
