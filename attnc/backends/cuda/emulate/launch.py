"""Runs the source of an emitted kernel, with the emulator's rules in the place of what it imports."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import traceback
from collections.abc import Iterable, Sequence
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate import elementwise, intrinsics
from attnc.backends.cuda.emulate.block import Block, Group
from attnc.backends.cuda.emulate.memory import Memory
from attnc.backends.cuda.emulate.turns import KERNEL
from attnc.backends.cuda.emulate.values import Value, counters, greatest, least

PACKAGE = __name__.removesuffix(".emulate.launch")
TYPES = {name: np.dtype(name) for name in ("float32", "float64", "int32", "int64")}


def names() -> dict[str, tuple[str, ...]]:
    """The names that have a rule, by module of the package."""
    return {"intrinsics": tuple(intrinsics.RULES), "elementwise": tuple(elementwise.RULES)}


def launch(
    source: str,
    words: Sequence[int],
    grid: int,
    threads: int,
    shared_bytes: int,
    memory: Memory,
    entry: str = "kernel",
    only: Iterable[int] | None = None,
    groups: Sequence[int] | None = None,
) -> None:
    """Runs the blocks of a grid (or `only` some) of `entry` one after the other, with int64 words as arguments.

    groups: the threads of each group that goes in lockstep with control flow of its own; else there is one. Fault: what the
    kernel must not do, noted with its line. Results are in the arrays of `memory`.
    """
    if threads % 32 or not 0 < threads <= 1024:
        raise ValueError(f"a block of {threads} threads: whole warps of 32 are possible, up to 1024")
    sizes = tuple(groups or (threads,))
    if sum(sizes) != threads or any(n % 32 or n <= 0 for n in sizes):
        raise ValueError(f"groups of {sizes} threads are no whole warps that make a block of {threads}")
    block = Block(grid, sizes, shared_bytes, memory)
    arguments = [Value(np.uint64(word & (2**64 - 1)).astype(np.int64)) for word in words]
    with np.errstate(all="ignore"):
        kernels = [Program(group).execute(KERNEL, source)[entry] for group in block.groups]
        for index in range(grid) if only is None else only:
            block.begin(index)
            try:
                block.run([functools.partial(kernel, *arguments) for kernel in kernels])
            except Exception as error:
                error.add_note(_place(error, source, index))
                raise


def _place(error: Exception, source: str, index: int) -> str:
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == KERNEL]
    if not lines:
        return f"block {index}"
    return f"block {index}, line {lines[-1]} of the kernel: {source.splitlines()[lines[-1] - 1].strip()}"


@functools.lru_cache(16)
def _compiled(filename: str, source: str) -> CodeType:
    """Python's code, which all groups of threads execute."""
    return compile(source, filename, "exec")


class Program:
    """The modules that a kernel consists of: its own source, and those of its package that it imports."""

    def __init__(self, group: Group) -> None:
        bound = {name: functools.partial(rule, group) for name, rule in intrinsics.RULES.items()}
        self.modules = {
            f"{PACKAGE}.intrinsics": _module("intrinsics", {**bound, **TYPES}),
            f"{PACKAGE}.elementwise": _module("elementwise", {**elementwise.RULES, **TYPES}),
        }
        replaced = {"__import__": self._import, "range": counters, "min": least, "max": greatest}
        self.builtins = {**vars(builtins), **replaced}

    def execute(self, filename: str, source: str) -> dict[str, Any]:
        """The names of a module after its source has run."""
        space: dict[str, Any] = {"__builtins__": self.builtins, "__name__": filename}
        exec(_compiled(filename, source), space)
        return space

    def _import(self, name: str, space: Any = None, here: Any = None, wanted: Any = (), level: int = 0) -> Any:
        if name == PACKAGE and wanted:
            return _module(name, {x: self._load(f"{PACKAGE}.{x}") for x in wanted})
        if name.startswith(f"{PACKAGE}.") and wanted:
            return self._load(name)
        return builtins.__import__(name, space, here, wanted, level)

    def _load(self, name: str) -> ModuleType:
        """A module of the package, run anew with the same replacements."""
        if name not in self.modules:
            spec = importlib.util.find_spec(name)
            text = getattr(spec.loader, "get_source", lambda _: None)(name) if spec else None
            if text is None:
                raise ImportError(f"a kernel imports {name}, which has no source")
            self.modules[name] = _module(name, self.execute(str(spec.origin if spec else name), text))
        return self.modules[name]


def _module(name: str, contents: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module
