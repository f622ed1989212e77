"""Runs a few lines of kernel source in the emulator."""

import textwrap
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate import Memory, launch
from attnc.backends.cuda.tensor_map import Geometry

Box = tuple[np.ndarray, int, int]  # an array, and the rows and columns of its boxes
N = 64  # threads: two warps
HEAD = "from attnc.backends.cuda.intrinsics import *\nfrom attnc.backends.cuda.elementwise import *\n"


def run(
    body: str,
    arrays: dict[str, np.ndarray],
    *,
    grid: int = 1,
    shared_bytes: int = 4096,
    threads: int = N,
    groups: tuple[int, ...] | None = None,
    maps: dict[str, Box] | None = None,
) -> None:
    """Runs a kernel with this body, whose parameters are the arrays' addresses and the maps; `t` is the thread."""
    parameters = ", ".join([*arrays, *(maps or {})])
    source = f"{HEAD}\ndef kernel({parameters}):\n    t = thread()\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    memory = Memory()
    words = [memory.address(x, name) for name, x in arrays.items()]
    words += [memory.tensor_map(geometry(memory, *box)) for box in (maps or {}).values()]
    launch(source, words, grid, threads, shared_bytes, memory, groups=groups)


def geometry(memory: Memory, x: np.ndarray, rows: int, columns: int) -> Geometry:
    """Of boxes of an array (batch, heads, length, features)."""
    batch, head, row, _ = x.strides
    return Geometry(memory.address(x), x.shape[::-1], (row, head, batch), rows, columns)


def floats(body: str, n: int = N, options: dict[str, Any] | None = None, **arrays: np.ndarray) -> np.ndarray:
    """What the body stores to out, float32. options: of `run`."""
    out = np.full(n, np.nan, np.float32)
    run(body, {"out": out, **arrays}, **(options or {}))
    return out


def words(body: str, n: int = N, options: dict[str, Any] | None = None, **arrays: np.ndarray) -> np.ndarray:
    """What the body stores to out, int32. options: of `run`."""
    out = np.full(n, -77, np.int32)
    run(body, {"out": out, **arrays}, **(options or {}))
    return out
