"""What a new process learns of a variant that another one compiled: its argument block, and which kernel a call takes.

So a first call with everything in the cache runs no pass, emits nothing, and imports neither. The notes lie in the cache beside the
kernels, found by the graph and by what else decides them: this version of attnc, file by file, and this processor.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from attnc.backends.block import Layout, Table
from attnc.backends.cpu.kernel import Kernel, stored
from attnc.backends.cpu.machine import host
from attnc.backends.cpu.room import Room
from attnc.ir.graph import Graph
from attnc.runtime.cache import Cache
from attnc.schedule.cpu_form import Can, CpuForm
from attnc.schedule.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Ready:
    """A kernel, and what calls of it must know."""

    kernel: Kernel
    schedule: Schedule
    form: CpuForm


@functools.cache
def version() -> str:
    """This version of attnc: names, sizes and times of all its files. To read them all would take as long as the rest of a call."""
    files, folders = [], [os.path.dirname(__file__)]
    for folder in folders:
        for x in os.scandir(folder):
            if x.is_dir():
                folders.append(x.path)
            elif x.name.endswith(".py"):
                found = x.stat()
                files.append((x.path, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return hashlib.sha256(repr(sorted(files)).encode()).hexdigest()


def block(graph: Graph) -> tuple[Layout, Can] | None:
    """The argument block of a graph's kernels and what these can be, where that was noted."""
    found = _read(_key(graph, ()))
    return None if found is None else (_layout(found["layout"]), Can(**found["can"]))


def note_block(graph: Graph, layout: Layout, can: Can) -> None:
    """For `block`, in other processes."""
    _write(_key(graph, ()), graph, {"layout": asdict(layout), "can": asdict(can)})


def kernel(graph: Graph, call: Iterable[object], layout: Layout, form: CpuForm) -> Ready | None:
    """The kernel for calls of this kind, where that was noted and the cache still has it. call: all that decides it."""
    cache, found = Cache(), _read(_key(graph, call))
    made = None if found is None else stored(found["kernel"], layout, Room(**found["room"]), cache)
    if found is None or made is None:
        return None
    return Ready(made, Schedule(**{**found["schedule"], "tile": tuple(found["schedule"]["tile"])}), form)


def note_kernel(graph: Graph, call: Iterable[object], ready: Ready) -> None:
    """For `kernel`, in other processes."""
    made = ready.kernel
    if made.path is not None:
        note = {"kernel": made.path.stem, "room": asdict(made.room), "schedule": asdict(ready.schedule)}
        _write(_key(graph, call), graph, note)


def _key(graph: Graph, call: Iterable[object]) -> str:
    return Cache.key(["note", version(), host(), graph.key, graph.name, *map(repr, call)])


def _read(key: str) -> Any:
    entry = Cache().get(key)
    return None if entry is None else json.loads(entry.source)


def _write(key: str, graph: Graph, note: dict[str, Any]) -> None:
    Cache().put(key, json.dumps(note), b"", {"backend": "cpu", "note": graph.name})


def _layout(x: dict[str, Any]) -> Layout:
    tables = tuple(Table(t["name"], t["indices"], tuple(t["features"])) for t in x["tables"])
    searches, scalars = (tuple((a, b) for a, b in x[name]) for name in ("searches", "scalars"))
    return Layout(x["words"], tuple(x["roles"]), tables, searches, scalars, x["outputs"], tuple(x["features"]))
