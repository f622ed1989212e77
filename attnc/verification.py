"""How far a kernel may be from the reference: FlashAttention's public test rule with a rounding floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.interp import Array, Inputs, interpret
from attnc.ir.graph import Graph, Node
from attnc.runtime.arrays import numpy_dtype


@dataclass(frozen=True, slots=True)
class Report:
    """The largest error of a kernel's outputs against the float64 reference, beside what is allowed, for each output."""

    name: str
    dtype: str
    errors: tuple[float, ...]
    bounds: tuple[float, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is within its bound, and NaN exactly where the reference is."""
        return all(e <= b for e, b in zip(self.errors, self.bounds, strict=True))

    @property
    def error(self) -> float:
        """Of the output that is worst in proportion to its bound."""
        return self._worst()[0]

    @property
    def allowed(self) -> float:
        """The bound of the output that is worst in proportion."""
        return self._worst()[1]

    def _worst(self) -> tuple[float, float]:
        return max(zip(self.errors, self.bounds, strict=True), key=lambda x: x[0] / x[1] if x[1] else x[0])

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        state = "ok" if self.ok else "WRONG"
        return f"{self.name} {self.dtype}: {state}, error {self.error:.2e}, allowed {self.allowed:.2e}"


def report(graph: Graph, inputs: Inputs, outputs: list[Array], dtypes: list[str]) -> Report:
    """Compare outputs (B,H,L[,F]), stored in `dtypes`, with the reference."""
    reference = interpret(graph, inputs)
    errors, bounds = [], []
    naive = plain(graph, inputs, reference)
    for node, ref, rough, out, dtype in zip(graph.outputs, reference, naive, outputs, dtypes, strict=True):
        stored = numpy_dtype(dtype)
        errors.append(distance(np.asarray(out, np.float64), ref))
        bounds.append(allowed(node, inputs, ref, rough, stored))
    return Report(graph.name, inputs.q.dtype.name, tuple(errors), tuple(bounds))


def plain(graph: Graph, inputs: Inputs, reference: list[Array]) -> list[Array]:
    """The naive program: every node rounded to q's dtype, sums in at least float32.

    In float64, where rounding to the dtype changes nothing, sums run backwards instead. What overflows in float32 though the
    reference is finite is computed again with the range of float64.
    """
    q = inputs.q.dtype
    if q.name == "float64":
        return interpret(graph, inputs, reverse=True)
    found = interpret(graph, inputs, dtype=np.float32, rounding=q)
    lost = [np.isfinite(ref) & ~np.isfinite(x) for x, ref in zip(found, reference, strict=True)]
    if any(x.any() for x in lost):
        again = interpret(graph, inputs, dtype=np.float64, rounding=q if q.itemsize < 4 else np.float32)
        found = [np.where(bad, y, x) for x, y, bad in zip(found, again, lost, strict=True)]
    return found


def distance(out: Array, ref: Array) -> float:
    """max |out - ref|; infinite where one is NaN and the other is not, or infinities differ."""
    if ref.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        same = (out == ref) | (np.isnan(out) & np.isnan(ref))
        gap = np.where(same, 0.0, np.abs(out - ref))
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def allowed(node: Node, inputs: Inputs, ref: Array, naive: Array, stored: np.dtype[Any]) -> float:
    """2 max|naive - ref| + 2 max|(ref + 0.3 - 0.3) - ref| + 4 eps max|v|, over finite entries.

    The 0.3 term and eps are of the output dtype; where the output is no average of v, max|ref| stands for max|v|.
    """
    finite = np.isfinite(ref)
    with np.errstate(all="ignore"):
        rough = np.asarray(naive.astype(stored), np.float64)
        off = np.abs(rough - ref)[finite & np.isfinite(rough)]
        shifted = (ref.astype(stored) + stored.type(0.3)) - stored.type(0.3)
        floor = np.abs(np.asarray(shifted, np.float64) - ref)[finite]
    floor = floor[np.isfinite(floor)]
    average = node.op == "attend" and node.operands[0].op == "softmax" and node.operands[1].op == "role"
    scale = np.abs(np.asarray(inputs.v, np.float64)) if average else np.abs(ref)
    scale = scale[np.isfinite(scale)]
    top = float(scale.max(initial=0.0))
    return float(2 * off.max(initial=0.0) + 2 * floor.max(initial=0.0) + 4 * _eps(stored) * top)


def _eps(dtype: np.dtype[Any]) -> float:
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)
