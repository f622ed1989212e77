"""The suite `scores`: scores that are no products, beside PyTorch, which has no kernel for them and computes a number for each query,
key and feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attnc.bench.attention import OURS, float32
from attnc.bench.case import Array, Case, square
from attnc.bench.row import Row, constant
from attnc.bench.suite import Spec
from attnc.bench.timing import Settings, alternate, reason, timed, torch_or_none

MATERIALISED, COMPILED = "PyTorch", "compiled PyTorch"
ROOM = 1 << 30  # bytes of the tensor (queries, keys, features) that PyTorch makes at once


def scores(quick: bool) -> list[Spec]:
    """Bahdanau's additive score."""
    return [AdditiveRow(100, 16, 8)] if quick else [AdditiveRow()]


@dataclass(frozen=True, slots=True)
class AdditiveRow:
    """u · tanh(q Wq + k Wk) for one head of `length` queries and keys."""

    length: int = 2048
    dim: int = 64
    features: int = 64

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return "additive"

    def case(self) -> Case:
        """With projections under which scores are of size 1."""
        from attnc.variants import bahdanau

        rng = np.random.default_rng(1)
        shapes = {"Wq": (self.dim, self.features), "Wk": (self.dim, self.features), "u": (self.features,)}
        operands = {
            name: rng.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[0], dtype=np.float32)
            for name, shape in shapes.items()
        }
        return Case(self.name, bahdanau, square(self.length, self.dim, 1), operands=operands)

    def measure(self, settings: Settings) -> Row:
        """attnc, PyTorch's operations one by one, and, where `flex` is wanted, which is compiled too, compiled by it."""
        case = self.case()
        inputs = case.inputs()
        calls: dict[str, Callable[[], Any]] = {OURS: partial(case.variant, *inputs, **case.operands)}
        ours, worst, missing = float32(calls[OURS]()), 0.0, {}
        wanted = (MATERIALISED, COMPILED) if "flex" in settings.peers else (MATERIALISED,)
        for name in (MATERIALISED, COMPILED):
            if name not in wanted:
                missing[name] = "left out"
                continue
            try:
                call = peer(inputs, case.operands, name == COMPILED)
                worst = max(worst, float(np.abs(ours - float32(call())).max()))
            except Exception as error:  # whatever another project's compiler raises
                missing[name] = reason(error)
                continue
            calls[name] = call
        times = alternate({name: timed(call) for name, call in calls.items()}, settings, missing)
        pairs = case.needed * self.features
        figures = [
            times.figure(OURS, OURS, unit="s"),
            times.figure("tanh of a pair's feature", "", OURS, factor=pairs / 1e9, unit="G/s"),
            times.figure(f"{MATERIALISED} / attnc", MATERIALISED, OURS, aim=5.0),
            times.figure(f"{COMPILED} / attnc", COMPILED, OURS),
        ]
        if len(calls) > 1:
            figures.append(constant("difference of outputs", worst))
        problem = f"{case.shape} {case.dtype}, {self.features} features of a pair"
        return Row(self.name, problem, tuple(figures), times.seconds)


def peer(inputs: tuple[Array, ...], operands: Any, compiled: bool) -> Callable[[], Array]:
    """PyTorch's operations for Bahdanau's attention. Some rows at once where the tensor of all pairs would not fit in ROOM."""
    torch = torch_or_none()
    if torch is None:
        raise ImportError("torch", name="torch")
    q, k, v, Wq, Wk, u = (torch.from_numpy(x) for x in (*inputs, operands["Wq"], operands["Wk"], operands["u"]))

    def attend(q: Any, k: Any, v: Any) -> Any:
        pairs = q[:, :, :, None] + k[:, :, None]
        s = (torch.tanh(pairs) * u).sum(-1) if compiled else pairs.tanh_() @ u
        return torch.softmax(s, -1) @ v

    if compiled:
        torch.compiler.reset()
        attend = torch.compile(attend, dynamic=False)
    rows = q.shape[2] if compiled else max(1, ROOM // (4 * k.shape[2] * u.shape[0]))

    def call() -> Array:
        with torch.inference_mode():
            queries, keys = q @ Wq, k @ Wk
            parts = [attend(queries[:, :, n : n + rows], keys, v) for n in range(0, q.shape[2], rows)]
            return np.asarray(torch.cat(parts, 2).numpy())

    return call
