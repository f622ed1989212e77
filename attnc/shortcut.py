"""A second call like the first: NumPy arrays of the same shapes, strides and dtypes need no checks, only new addresses.

The point is small problems, and the time after a large one, when every line of Python that runs misses the processor's caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from attnc.backends.cpu.kernel import Kernel
    from attnc.backends.cpu.room import Pieces, Tiles
    from attnc.call import Result

LIMIT = 64  # shortcuts that a variant keeps
PLAIN = (bool, int, float, str, type(None))  # operands whose equality means the same call


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A filled argument block, and where in it the addresses of inputs and outputs stand."""

    kernel: Kernel
    block: bytes
    workers: int
    tiles: Tiles | Pieces
    inputs: tuple[tuple[int, int], ...]  # (word, 0 for q, 1 for k, 2 for v)
    outputs: tuple[tuple[int, tuple[int, ...], Any], ...]  # (word, shape, dtype)

    def run(self, *arrays: Any) -> tuple[Any, ...]:
        """The outputs for other q, k, v."""
        block = bytearray(self.block)
        words = memoryview(block).cast("q")
        for word, n in self.inputs:
            words[word] = arrays[n].__array_interface__["data"][0]
        made = []
        for word, shape, dtype in self.outputs:
            out = np.empty(shape, dtype)
            words[word] = out.__array_interface__["data"][0]
            made.append(out)
        words.release()
        self.kernel.run(block, self.workers, self.tiles)
        return tuple(made)


def key(q: Any, k: Any, v: Any, lse: bool, layout: str, operands: dict[str, Any]) -> tuple[Any, ...] | None:
    """What two calls must have in common; None where a call has to be checked each time."""
    if not (type(q) is type(k) is type(v) is np.ndarray):
        return None
    plain: tuple[Any, ...] = ()
    if operands:
        if not all(type(x) in PLAIN for x in operands.values()):
            return None
        plain = tuple([(name, type(x), x) for name, x in operands.items()])
    return (q.shape, q.strides, q.dtype, k.shape, k.strides, k.dtype, v.shape, v.strides, v.dtype, lse, layout, plain)


def shortcut(result: Result) -> Shortcut | None:
    """How to repeat a call; None where an input was copied, or nothing ran."""
    launch = result.launch
    if launch is None:
        return None
    words = launch.kernel.layout.words
    inputs = result.bound.inputs
    given = (inputs.q, inputs.k, inputs.v)
    found = []
    with memoryview(launch.block).cast("q") as view:
        for n, role in enumerate("qkv"):
            if role in launch.kernel.layout.roles:
                word = words[f"{role}_p"]
                if view[word] != given[n].__array_interface__["data"][0]:
                    return None
                found.append((word, n))
    outputs = tuple((words[f"out{n}_p"], x.shape, x.dtype) for n, x in enumerate(result.outputs))
    return Shortcut(launch.kernel, bytes(launch.block), launch.workers, launch.tiles, tuple(found), outputs)
