"""How far a kernel may be from the reference: FlashAttention's public test rule with a rounding floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.interp import Array, Inputs, interpret
from attnc.ir.graph import Graph, Node
from attnc.naive import naive
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
    """Compare outputs (B,H,L[,F]), stored in `dtypes`, with the reference.

    The naive program is run as often as it takes until its errors allow the outputs, or until all its runs are done. In float64
    the reference is but one of the runs, and may be the one that is off: their spread is what counts.
    """
    reference = interpret(graph, inputs)
    kinds = [numpy_dtype(x) for x in dtypes]
    errors = [distance(np.asarray(out, np.float64), ref) for out, ref in zip(outputs, reference, strict=True)]
    floors = [floor(x, inputs, ref, kind) for x, ref, kind in zip(graph.outputs, reference, kinds, strict=True)]
    noise, bounds, centres = [0.0] * len(kinds), floors, [reference]
    for run in naive(graph, inputs, reference):
        for centre in centres:
            found = [off(*x) for x in zip(run, centre, kinds, strict=True)]
            noise = [max(x) for x in zip(noise, found, strict=True)]
        bounds = [2 * x + y for x, y in zip(noise, floors, strict=True)]
        if inputs.q.dtype.name == "float64":
            centres.append(run)
        if all(e <= b or np.isinf(e) for e, b in zip(errors, bounds, strict=True)):
            break
    return Report(graph.name, inputs.q.dtype.name, tuple(errors), tuple(bounds))


def distance(out: Array, ref: Array) -> float:
    """max |out - ref|; infinite where one is NaN and the other is not, or infinities differ."""
    if ref.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        same = (out == ref) | (np.isnan(out) & np.isnan(ref))
        gap = np.where(same, 0.0, np.abs(out - ref))
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def off(run: Array, ref: Array, stored: np.dtype[Any]) -> float:
    """max |naive - ref| of a run of the naive program, over finite entries."""
    with np.errstate(all="ignore"):
        rough = np.asarray(run.astype(stored), np.float64)
        return float(np.abs(rough - ref)[np.isfinite(ref) & np.isfinite(rough)].max(initial=0.0))


def floor(node: Node, inputs: Inputs, ref: Array, stored: np.dtype[Any]) -> float:
    """2 max|(ref + 0.3 - 0.3) - ref| + 4 eps max|v|, over finite entries: what is allowed beside the error of the naive program.

    The 0.3 term and eps are of the output dtype; where the output is no average of v, max|ref| stands for max|v|.
    """
    with np.errstate(all="ignore"):
        shifted = (ref.astype(stored) + stored.type(0.3)) - stored.type(0.3)
        lost = np.abs(np.asarray(shifted, np.float64) - ref)[np.isfinite(ref)]
    lost = lost[np.isfinite(lost)]
    average = node.op == "attend" and node.operands[0].op == "softmax" and node.operands[1].op == "role"
    scale = np.abs(np.asarray(inputs.v, np.float64)) if average else np.abs(ref)
    top = scale[np.isfinite(scale)].max(initial=0.0)
    return float(2 * lost.max(initial=0.0) + 4 * _eps(stored) * top)


def _eps(dtype: np.dtype[Any]) -> float:
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)
