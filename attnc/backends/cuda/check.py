"""Whether kernels can read the arrays of a call where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnc.backends.block import Layout, Table
from attnc.backends.cuda.tensor_map import ITEMSIZE, LONGEST
from attnc.backends.launch import NATIVE, address
from attnc.dsl.place import here
from attnc.errors import DTypeError, OperandError
from attnc.interp import Array, Inputs
from attnc.runtime.arrays import View
from attnc.runtime.binding import describe
from attnc.schedule.cuda_target import CudaTarget
from attnc.schedule.mma import CHUNK


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows of q, k, v and out lie. aligned: whether all begin at multiples of 16 bytes. described: whether tensor maps
    can describe them.
    """

    aligned: bool
    described: bool

    def fit(self, target: CudaTarget) -> bool:
        """Whether they are rows for the faster kernels of a target."""
        return self.aligned and (self.described or not target.feature)


def rows(inputs: Inputs, out: View | None) -> Rows:
    """The rows of a call.

    OperandError: a row that no kernel reads, because its features are not neighbours or it begins within a number.
    """
    arrays = {"Q": inputs.q, "K": inputs.k, "V": inputs.v} | ({} if out is None else {"out": describe(out)})
    arrays = {
        name: x for name, x in arrays.items() if x.size
    }  # what has no entries is never read, wherever it is said to lie
    for name, x in arrays.items():
        _check_places(name, x)
        if x.strides[-1] != x.itemsize and x.shape[-1] > 1:
            raise OperandError(
                f"the features of `{name}` are not contiguous",
                where=here(),
                cause=f"its strides are {x.strides} bytes for numbers of {x.itemsize}; on a GPU attnc copies no arrays",
                cure="put the features last in memory: .contiguous() in torch, cupy.ascontiguousarray",
            )
    aligned = not any(place % CHUNK for x in arrays.values() for place in (address(x), *_steps(x)[:-1]))
    return Rows(aligned, _described(arrays))


def _described(arrays: Mapping[str, Array]) -> bool:
    """Whether maps can describe arrays whose rows are aligned. What does not consist of numbers of 16 bits needs no map.

    All entries along the batch and the heads may be one (`tensor_map.geometry`); the rows of a head lie apart.
    """
    for name, x in arrays.items():
        steps = _steps(x)[:-1]
        repeated = name != "out" and x.shape[2] > 1 and not steps[2]
        if x.itemsize == ITEMSIZE and (repeated or any(not 0 <= step < LONGEST for step in steps)):
            return False
    return True


def check_tables(layout: Layout, inputs: Inputs) -> None:
    """DTypeError, OperandError: an operand table that the CPU's kernels would read from a copy; there are none on a GPU."""
    for table in layout.tables:
        x = inputs.operands[table.name]
        if not x.size:
            continue
        _check_places(table.name, x)
        readable = ("float32",) if table.matrix else NATIVE
        if x.dtype.name not in readable:
            raise DTypeError(
                f"operand {table.name!r} is {x.dtype}",
                where=here(),
                cause=f"CUDA kernels read {'matrices in ' * table.matrix}{', '.join(readable)}; on a GPU attnc copies no arrays",
                cure=f"convert it to {'float32' if table.matrix else 'int64'}",
            )
        _check_features(table, x)


def _check_features(table: Table, x: Array) -> None:
    if not table.features or x.shape[-1] == 1 or x.strides[-1] == x.itemsize:
        return
    raise OperandError(
        f"the features of operand {table.name!r} are not contiguous",
        where=here(),
        cause=f"its strides are {x.strides} bytes for numbers of {x.itemsize}; on a GPU attnc copies no arrays",
        cure="put the features last in memory: .contiguous() in torch, cupy.ascontiguousarray",
    )


def _check_places(name: str, x: Array) -> None:
    if any(place % x.itemsize for place in (address(x), *_steps(x))):
        raise OperandError(
            f"`{name}` is misaligned",
            where=here(),
            cause=f"its numbers of {x.itemsize} bytes begin at {address(x):#x} and lie {x.strides} bytes apart",
            cure="pass a copy of it",
        )


def _steps(x: Array) -> list[int]:
    """Strides, 0 along axes with one entry, whose stride means nothing."""
    return [s if n > 1 else 0 for s, n in zip(x.strides, x.shape, strict=True)]
