"""The classes of tiles, found twice: densely, pair by pair, and by the compiled scalar graphs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attnc.compile import lower
from attnc.dsl.trace import trace
from attnc.interp import Inputs, Interpreter, align
from attnc.ir.graph import Node
from attnc.runtime.binding import bind
from attnc.tile.program import Keys
from attnc.tile.regions import Classifier

ROWS = 1024


@dataclass(frozen=True)
class Masked:
    """A call of a variant with one softmax: its inputs, its mask as written, its only sweep, and the dense mask."""

    inputs: Inputs
    mask: Node
    keys: Keys
    dense: np.ndarray

    @cached_property
    def judge(self) -> Classifier:
        """The compiled scalar graphs, for tiles of any size."""
        return Classifier(self.keys, self.inputs)

    @classmethod
    def of(cls, variant, q_len, kv_len, operands, batch=1, heads=1, masking=None):
        """The masked call, q and k zero, so that nothing but the mask decides.

        masking: a variant with the same mask as softmax's, where `variant` says it in another way.
        """
        q, k = (np.zeros((batch, heads, n, 1)) for n in (q_len, kv_len))
        bound = bind(variant.signature, q, k, k, operands)
        known = {"kinds": bound.kinds, "constants": bound.constants, "absent": bound.absent}
        graph, plain = (trace(x.function, x.signature, **known) for x in (variant, masking or variant))
        (softmax,) = (x for x in plain.nodes() if x.op == "softmax")
        (keys,) = lower(graph).sweeps
        mask = softmax.operands[1]
        return cls(bound.inputs, mask, keys, dense(mask, bound.inputs))


def dense(mask: Node, inputs: Inputs) -> np.ndarray:
    """The mask at every pair, (B,H,Lq,Lk)."""
    x = inputs.extents
    shape = (x["batch"], x["heads"], x["q_len"], x["kv_len"])
    result = np.empty(shape, bool)
    for start in range(0, x["q_len"], ROWS):
        stop = min(start + ROWS, x["q_len"])
        (value,) = Interpreter(inputs, np.float64, start, stop).run([mask])
        result[:, :, start:stop] = align(value, ("b", "h", "i", "j"))
    return result


def dense_classes(mask: np.ndarray, tile: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """For each tile (B,H,rows,columns): whether some pair is live, and whether all are."""
    found = []
    for reduce in (np.logical_or.reduceat, np.logical_and.reduceat):
        x = mask
        for axis, step in ((2, tile[0]), (3, tile[1])):
            x = reduce(x, np.arange(0, mask.shape[axis], step), axis=axis)
        found.append(x)
    return found[0], found[1]


def claimed_classes(masked: Masked, tile: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """For each tile (B,H,rows,columns): whether it is visited, and whether it is visited without its mask."""
    batch, heads, q_len, kv_len = masked.dense.shape
    starts = np.arange(0, q_len, tile[0]), np.arange(0, kv_len, tile[1])
    grid = np.meshgrid(np.arange(batch), np.arange(heads), *starts, indexing="ij")
    b, h, i0, j0 = (x.ravel() for x in grid)
    i1, j1 = np.minimum(i0 + tile[0], q_len) - 1, np.minimum(j0 + tile[1], kv_len) - 1
    possible, certain = masked.judge(b, h, i0, i1, j0, j1)
    full = possible & certain & (not masked.keys.open)  # `open`: the body of certain tiles still has masks to evaluate
    return possible.reshape(grid[0].shape), full.reshape(grid[0].shape)
