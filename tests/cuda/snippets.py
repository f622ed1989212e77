"""Runs a few lines of kernel source in the emulator."""

import textwrap

import numpy as np

from attnc.backends.cuda.emulate import Memory, launch

N = 64  # threads: two warps
HEAD = "from attnc.backends.cuda.intrinsics import *\nfrom attnc.backends.cuda.elementwise import *\n"


def run(body: str, arrays: dict[str, np.ndarray], *, grid: int = 1, shared_bytes: int = 4096, threads: int = N) -> None:
    """Runs a kernel with this body, whose parameters are the arrays' addresses; `t` is the thread."""
    source = (
        f"{HEAD}\ndef kernel({', '.join(arrays)}):\n    t = thread()\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    )
    memory = Memory()
    launch(source, [memory.address(x, name) for name, x in arrays.items()], grid, threads, shared_bytes, memory)


def floats(body: str, n: int = N, **arrays: np.ndarray) -> np.ndarray:
    """What the body stores to out, float32."""
    out = np.full(n, np.nan, np.float32)
    run(body, {"out": out, **arrays})
    return out


def words(body: str, n: int = N, **arrays: np.ndarray) -> np.ndarray:
    """What the body stores to out, int32."""
    out = np.full(n, -77, np.int32)
    run(body, {"out": out, **arrays})
    return out
