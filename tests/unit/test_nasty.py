"""Numbers at the border of what is defined, each with its exact result: in the interpreter, in tiles, in parts, and in a kernel."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import attnc as at
from attnc import variants
from attnc.compile import lower
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.variant import with_lse

N = 70  # keys: more than a tile of a kernel
INF = math.inf


@dataclass(frozen=True)
class Case:
    """A variant of scores q · k with D = 1 (k holds the scores, q is 1), what it gives, and by how much it may be off.

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


def spread(**places: float) -> np.ndarray:
    """Scores of 0 but at some places: s3=1.0."""
    scores = np.zeros(N)
    for name, x in places.items():
        scores[int(name[1:])] = x
    return scores


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
    "the last by 200": lambda: Case(variants.full, spread(s69=200.0), V, V[69], 200.0),
    "the first by 200": lambda: Case(variants.full, spread(s0=200.0), V, V[0], 200.0),
    "each by 100": lambda: Case(variants.full, 100.0 * np.arange(N), V, V[-1], 100.0 * (N - 1)),
    "a walk": lambda: Case(variants.full, WALK, V, SOFT @ V / SOFT.sum(), WALK.max() + math.log(SOFT.sum()), atol=1e-5),
    "a score of inf": lambda: Case(variants.full, spread(s5=INF), V, math.nan, math.nan),
    "a sink of 1e4": lambda: Case(variants.learned_sink, 0 * ALL, V, 0.0, 1e4, {"sink": np.full(1, 1e4)}, atol=1e-300),
    "a sink of -1e4": lambda: Case(variants.learned_sink, 0 * ALL, V, MEAN, math.log(N), {"sink": np.full(1, -1e4)}),
    "a sink of 100": lambda: Case(variants.learned_sink, 0 * ALL, V, 0.0, 100.0, {"sink": np.full(1, 100.0)}, atol=1e-40),
    "a sink of 0 counts once": lambda: Case(variants.learned_sink, 0 * ALL, V, V.sum() / (N + 1), math.log(N + 1), SINK),
    "fp16 under a cap": lambda: Case(
        variants.soft_cap, 60000.0 * ALL, V, MEAN, 50 + math.log(N), {"cap": 50.0}, dtype="float16", rtol=1e-3),
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
        variants.retention, spread(s69=-1.0), V, -V[69], operands={"log_decay": np.zeros(1)}),
    "a steep decay": lambda: Case(
        variants.retention, 8 * ALL, V, (V[::-1] * 0.5 ** np.arange(N)).sum() / 2, operands={"log_decay": np.full(1, math.log(0.5))}),
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


def arrays(case: Case, dtype: Any) -> tuple[Any, ...]:
    k, v = (np.asarray(x, np.float64).reshape(1, 1, -1, 1).astype(dtype) for x in (case.scores, case.values))
    operands = {name: x.astype(dtype) if isinstance(x, np.ndarray) else x for name, x in case.operands.items()}
    return np.ones((1, 1, 1, 1), dtype), k, v, operands


@pytest.mark.parametrize("name", CASES)
def test_every_level_gives_it(name: str) -> None:
    case = CASES[name]()
    q, k, v, operands = arrays(case, np.float64)
    call = bind(case.variant.signature, q, k, v, operands, "bhld")
    graph = case.variant._trace(call)
    graph = graph if case.lse is None else with_lse(graph)
    program = lower(graph)
    ends = [3, 3, 40, 61, 69, 69, N]
    levels = [interpret(graph, call.inputs)]
    levels += [run(program, call.inputs, tile=(1, keys)) for keys in (1, 16)]
    levels += [run(program, call.inputs, tile=(1, 8), part=part) for part in (8, ends)]
    q, k, v, operands = arrays(case, case.dtype)
    found = case.variant(q, k, v, return_lse=case.lse is not None, **operands)
    levels.append(list(found) if isinstance(found, tuple) else [found])
    for level, results in enumerate(levels):
        kernel = level == len(levels) - 1
        rtol, atol = (case.rtol, 2 * case.rtol + case.atol) if kernel else (1e-12, case.atol)
        np.testing.assert_allclose(results[0].ravel(), case.out, rtol=rtol, atol=atol, err_msg=f"level {level}")
        if case.lse is not None:
            np.testing.assert_allclose(results[1].ravel(), case.lse, rtol=rtol, atol=atol, err_msg=f"level {level}")


def test_a_query_before_all_keys() -> None:
    """Causal with more queries than keys."""
    for variant, lse in ((variants.causal, -INF), (variants.learned_sink, 2.0)):
        operands = {"sink": np.full(1, 2.0, np.float32)} if variant is variants.learned_sink else {}
        q, k = np.ones((1, 1, 5, 1), np.float32), np.ones((1, 1, 3, 1), np.float32)
        for call in (variant, variant.reference):
            out, found = call(q, k, k, return_lse=True, **operands)
            assert (out[0, 0, :2] == 0).all() and (found[0, 0, :2] == lse).all() and (out[0, 0, 2:] > 0).all()


@at.attention
def two_supports(q, k, v, i, j, *, t: at.Tensor["i", int], u: at.Tensor["j", int], r: at.Tensor["j", bool]):
    """A sum whose factor is a mask has a reference of its own, which is none where its keys are."""
    m = t[i] == u[j]
    s = at.dot(q, k)
    w = at.where(m, at.exp(s - at.max(at.where(m, s, -at.inf), over="j")), 0.0)
    total = at.sum(w, over="j")
    return at.softmax(s) @ v - at.where(total == 0, 0.0, (w @ (v * (r[j] * 0.5))) / total)


def test_rows_without_keys_beside_others() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 4)) for n in (3, 5, 5))
    operands = {"t": np.array([9, 1, 9]), "u": np.array([1, 1, 2, 1, 1]), "r": np.array([1, 0, 1, 1, 0], bool)}
    np.testing.assert_allclose(
        two_supports(q, k, v, **operands), two_supports.reference(q, k, v, **operands), atol=1e-14
    )
    assert two_supports.bisect(q, k, v, **operands).startswith("none")
    # the score of a live pair is NaN: so is its row, and no other
    k[0, 0, 1] = np.nan
    found = two_supports(q, k, v, **operands)
    assert np.isnan(found).all() and np.isnan(two_supports.reference(q, k, v, **operands)).all()


@at.attention
def shifted(q, k, v, b, h, i, j, *, t: at.Tensor["b", "i", "j", int]):
    return at.softmax(at.dot(q, k), where=(t[b, i, j] >> at.minimum(i, 3)) > h) @ v


def test_a_shift_of_what_nothing_is_known_of_by_a_count_that_varies() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, n, 4)) for n in (5, 7, 7))
    t = rng.integers(-9, 9, (1, 5, 7))
    np.testing.assert_allclose(shifted(q, k, v, t=t), shifted.reference(q, k, v, t=t), atol=1e-14)
