"""Numbers at the border of what is defined, each with its exact result. `test_nasty` asks the interpreters and CPU kernels, `test_cuda_nasty` the emulator."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import attnc as at
from attnc import variants

N = 300  # keys: three tiles of a CPU kernel, or more
INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Case:
    """A variant of scores q · k with D = 1 (k holds the scores over q), what it gives, and by how much it may be off.

    lse: None where the variant has none.
    """

    variant: at.Attention
    scores: Any
    values: Any
    out: Any
    lse: Any = None
    operands: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    rtol: float = 1e-6
    atol: float = 0.0
    q: float = 1.0

    def arrays(self, dtype: Any, queries: int = 1) -> tuple[Any, ...]:
        """q (as many equal queries), k, v, operands."""
        k, v = (np.asarray(x, np.float64).reshape(1, 1, -1, 1).astype(dtype) for x in (self.scores, self.values))
        operands = {
            name: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
            for name, x in self.operands.items()
        }
        return np.full((1, 1, queries, 1), self.q, dtype), k, v, operands


@at.attention
def capped_after_a_mask(q, k, v, *, cap: float = 5.0):
    """A score of -inf before the cap is -cap after it: a small weight, no mask."""
    return at.softmax(cap * at.tanh(at.dot(q, k) / cap)) @ v


@at.attention
def two_windows(q, k, v, i, j):
    """What the near keys say, whatever stands far away."""
    s = at.dot(q, k)
    return at.softmax(s, where=j < 60) @ v, at.softmax(s, where=j >= 60) @ v


@at.attention
def renormalised(q, k, v, j, *, r: at.Tensor["j"]):
    w = at.softmax(at.dot(q, k)) * r[j]
    return w @ v / at.sum(w, over="j")


@at.attention
def picked(q, k, v, j, *, live: at.Tensor["j", bool]):
    return at.softmax(at.dot(q, k), where=live[j]) @ v


def spread(rest: float = 0.0, **places: float) -> np.ndarray:
    """Scores of `rest` but at some places: s3=1.0, s_1=2.0 for the last."""
    scores = np.full(N, rest)
    for name, x in places.items():
        scores[int(name[1:].replace("_", "-"))] = x
    return scores


def only(*places: int) -> dict[str, Any]:
    """A mask that leaves these keys."""
    return {"live": np.isin(np.arange(N), places)}


def but(values: np.ndarray, x: float, *places: int) -> np.ndarray:
    """The values, x at some places."""
    return np.where(np.isin(np.arange(N), places), x, values)


V = np.arange(N) % 7 - 2.0
MEAN = V.mean()
WALK = np.cumsum(np.random.default_rng(0).standard_normal(N) * 20)
SOFT = np.exp(WALK - WALK.max())
SINK = {"sink": np.zeros(1)}
ALL, LATER = np.ones(N), np.where(np.arange(N) < 60, 0.0, 1.0)


def nothing(**more: Any) -> dict[str, Any]:
    return {"M": np.full((1, 1, 1, 1), -INF), **more}


CASES: dict[str, Callable[[], Case]] = {
    "all masked": lambda: Case(variants.additive_mask, ALL, V, 0.0, -INF, nothing()),
    "no keys": lambda: Case(variants.full, [], [], 0.0, -INF),
    "no keys but one that is not there": lambda: Case(variants.softmax1, [], [], 0.0, 0.0),
    "no keys and a learned sink": lambda: Case(variants.learned_sink, [], [], 0.0, 3.0, {"sink": np.full(1, 3.0)}),
    "one key": lambda: Case(variants.full, [1.5], [0.375], 0.375, 1.5, rtol=0.0),
    "two of 1e4": lambda: Case(variants.full, spread(s3=1e4, s66=1e4), V, (V[3] + V[66]) / 2, 1e4 + math.log(2)),
    "all -1e5": lambda: Case(variants.full, -1e5 * ALL, V, MEAN, -1e5 + math.log(N)),
    "all -2e38": lambda: Case(variants.full, -2e38 * ALL, V, 0.0, -INF),
    "all equal": lambda: Case(variants.full, ALL, V, MEAN, 1 + math.log(N)),
    "the last by 200": lambda: Case(variants.full, spread(s_1=200.0), V, V[-1], 200.0),
    "the first by 200": lambda: Case(variants.full, spread(s0=200.0), V, V[0], 200.0),
    "each by 100": lambda: Case(variants.full, 100.0 * np.arange(N), V, V[-1], 100.0 * (N - 1)),
    "a walk": lambda: Case(variants.full, WALK, V, SOFT @ V / SOFT.sum(), WALK.max() + math.log(SOFT.sum()), atol=1e-5),
    "a mask before, between and after": lambda: Case(
        picked, ALL * 3, V, (V[150] + V[157] + V[221]) / 3, 3 + math.log(3), only(150, 157, 221)),
    "one key beside masked ones": lambda: Case(picked, ALL * 1.5, V, V[222], 1.5, only(222), rtol=0.0),
    "two of 1e4 above -1e4": lambda: Case(variants.full, spread(-1e4, s3=1e4, s66=1e4), V, (V[3] + V[66]) / 2, 1e4 + math.log(2)),
    "NaN where masked": lambda: Case(
        picked, but(ALL, NAN, 4, 151, 299), but(V, NAN, 4, 149, 298), (V[150] + V[3]) / 2, 1 + math.log(2),
        only(150, 3)),
    "a NaN in a used v": lambda: Case(variants.full, ALL, but(V, NAN, 150), NAN, 1 + math.log(N)),
    "a NaN in a used k": lambda: Case(variants.full, but(ALL, NAN, 150), V, NAN, NAN),
    "a NaN alone": lambda: Case(variants.full, [NAN], [1.0], NAN, NAN),
    "a NaN that is the one key left": lambda: Case(picked, but(ALL, NAN, 150), V, NAN, NAN, only(150)),
    "a score of inf": lambda: Case(variants.full, spread(s5=INF), V, math.nan, math.nan),
    "a sink of 1e4": lambda: Case(variants.learned_sink, 0 * ALL, V, 0.0, 1e4, {"sink": np.full(1, 1e4)}, atol=1e-300),
    "a sink of -1e4": lambda: Case(variants.learned_sink, 0 * ALL, V, MEAN, math.log(N), {"sink": np.full(1, -1e4)}),
    "a sink of 100": lambda: Case(variants.learned_sink, 0 * ALL, V, 0.0, 100.0, {"sink": np.full(1, 100.0)}, atol=1e-40),
    "a sink of 0 counts once": lambda: Case(variants.learned_sink, 0 * ALL, V, V.sum() / (N + 1), math.log(N + 1), SINK),
    "fp16 under a cap": lambda: Case(
        variants.soft_cap, 300.0 * ALL, V, MEAN, 50 + math.log(N), {"cap": 50.0}, dtype="float16", rtol=1e-3, q=300.0),
    "-inf before a cap": lambda: Case(
        capped_after_a_mask, spread(s2=-INF, s9=INF), np.eye(N)[2] + 2 * np.eye(N)[9],
        (math.exp(-5) + 2 * math.exp(5)) / (math.exp(-5) + math.exp(5) + N - 2),
        math.log(math.exp(-5) + math.exp(5) + N - 2)),
    "sigmoids of 1e4": lambda: Case(
        variants.sigmoid, spread(s1=1e4, s2=-1e4), np.eye(N)[1] + 5 * np.eye(N)[2], 1.0, operands={"bias": 0.0}),
    "a weight of -inf": lambda: Case(variants.sigmoid, spread(s1=-INF), np.eye(N)[1], 0.0, operands={"bias": 0.0}),
    "retention without weight": lambda: Case(
        variants.retention, 0 * ALL, V, 0.0, operands={"log_decay": np.zeros(1)}),
    "retention of one": lambda: Case(
        variants.retention, spread(s_1=-1.0), V, -V[-1], operands={"log_decay": np.zeros(1)}),
    "a steep decay": lambda: Case(
        variants.retention, 8 * ALL, V, (V[::-1] * 0.5 ** np.arange(N)).sum() / 2, operands={"log_decay": np.full(1, math.log(0.5))}),
    "a decay of 0": lambda: Case(variants.retention, 8 * ALL, V, V[-1], operands={"log_decay": np.full(1, -INF)}),
    "a decay to nothing": lambda: Case(variants.retention, 8 * ALL, V, V[-1], operands={"log_decay": np.full(1, -1e3)}),
    "a cosine with zeros": lambda: Case(
        variants.cosine, 0 * ALL, V, MEAN, math.log(N), {"tau": np.ones(1), "B": np.zeros((1, 1, N))}),
    "the lowest temperature": lambda: Case(
        variants.temperature, spread(s3=1.0, s66=1.0), V, (V[3] + V[66]) / 2, operands={"tau": np.full((1, 1, 1), 1e-30)}),
    "windows far apart": lambda: Case(two_windows, 1e4 * LATER + spread(s3=2.0), V, V[:60] @ np.exp(spread(s3=2.0))[:60] / (59 + math.e**2)),
    "a share of 0 and of 1e-30": lambda: Case(
        renormalised, spread(s5=200.0), V, (V[6] + V[8]) / 2,
        operands={"r": np.eye(N)[6] * np.float32(1e-30) + np.eye(N)[8] * np.float32(1e-30)}),
}  # fmt: skip
