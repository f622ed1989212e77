"""Kernels with states that move with a sweep: against the reference, exact cases, accuracy in float32, and what they cost."""

import math
from typing import Any

import numpy as np
import pytest

import attnc as at
from attnc.compile import fuse, lower
from attnc.passes.plan_sweeps import plan_sweeps
from attnc.tile.merge import joins
from attnc.tile.program import DotAcc


@at.attention
def profile(q, k, v, i, j):
    """What the weights of a row are like: output, entropy, variance of scores, hard attention, ties, spread of places."""
    s, seen = at.dot(q, k), (j <= i + 100) & (j % 7 != 3)
    p = at.softmax(s, where=seen)
    live = at.where(seen, s, -at.inf)
    top = at.max(live, over="j")
    mean = at.sum(at.where(seen, s, 0.0), over="j") / at.maximum(at.sum(seen, over="j"), 1)
    place = at.sum(p * j, over="j")
    return (
        p @ v,
        -at.sum(at.where(p > 0, p * at.log(p), 0.0), over="j"),
        at.sum(at.where(seen, (s - mean) ** 2, 0.0), over="j") / at.maximum(at.sum(seen, over="j"), 1),
        at.where(seen & (s == top), 1.0, 0.0) @ v,
        at.sum(seen & (s == top), over="j"),
        at.sum(p * (j - place) ** 2, over="j"),
    )


@at.attention
def hard(q, k, v):
    s = at.dot(q, k)
    attained = s == at.max(s, over="j")
    return at.where(attained, 1.0, 0.0) @ v / at.maximum(at.sum(attained, over="j"), 1)


@at.attention
def entropy(q, k, v):
    p = at.softmax(at.dot(q, k))
    return -at.sum(at.where(p == 0, 0.0, p * at.log(p)), over="j")


@at.attention
def spread(q, k, v):
    s = at.dot(q, k)
    mean = at.sum(s, over="j") / at.kv_len
    return at.sum((s - mean) ** 2, over="j") / at.kv_len, mean


def calls(q_len: int, kv_len: int, dtype: Any = np.float32, heads: int = 2, seed: int = 0) -> Any:
    """Whole numbers, so that ties are ties."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.integers(-2, 3, (1, h, n, 4)) for h, n in ((heads, q_len), (1, kv_len), (1, kv_len)))
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)


def scores(values: Any, q_len: int = 3, dtype: Any = np.float32) -> Any:
    """q, k, v whose scores are these."""
    k = np.asarray(values, np.float64).astype(dtype).reshape(1, 1, -1, 1)
    return np.ones((1, 1, q_len, 1), dtype), k, np.arange(k.size, dtype=dtype).reshape(k.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lengths", [(1, 1), (17, 127), (65, 129), (70, 300), (3, 0), (1, 3000), (2, 1025)], ids=str)
def test_kernels_are_right(lengths: tuple[int, int], dtype: Any) -> None:
    """The last two split the keys of few queries, and merge their states."""
    arrays = calls(*lengths, dtype)
    tolerance = {np.float32: 1e-5, np.float64: 2e-14}[dtype]
    for found, wanted in zip(profile(*arrays), profile.reference(*arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=2 * tolerance)


def test_one_sweep_and_merged() -> None:
    assert "waits" not in profile.explain(*calls(4, 4))
    (keys,) = lower(profile.graph).sweeps
    found = {join.state.name: join for join in joins(keys) or ()}
    assert sorted({join.rank for join in found.values()}) == [0, 1, 2]
    assert any(isinstance(s, DotAcc) and s.drop for s in keys.full or keys.partial)


def test_hard_attention_forgets_what_was_not_the_maximum() -> None:
    """Not even NaN or infinity is left of keys that were the maximum for a while; of equal ones the mean."""
    for n in (9, 300, 3000):
        for q_len in (1, 40):
            q, k, v = scores(np.arange(n) % (n - 1), q_len)
            v[0, 0, : n // 2] = np.nan
            v[0, 0, n // 2] = -np.inf
            np.testing.assert_array_equal(hard(q, k, v), n - 2)
            k[0, 0, [n - 1, n - 3]] = n
            np.testing.assert_array_equal(hard(q, k, v), n - 2)
            k[0, 0, 0] = np.nan
            np.testing.assert_array_equal(hard(q, k, v), 0)
    report = hard.verify(*calls(70, 200))
    assert report.ok


def test_exact_entropies() -> None:
    """One key, one far above the others, all equal, masked by -inf, none at all."""
    for base in (0.0, 1e4, -1e5):
        assert (entropy(*scores([base])) == 0).all()
        assert abs(entropy(*scores([base, *[base - 200.0] * 299]))).max() < 1e-30
        np.testing.assert_allclose(entropy(*scores([base] * 300)), math.log(300), rtol=1e-6)
        np.testing.assert_allclose(entropy(*scores([-np.inf, base, -np.inf, base] * 50)), math.log(100), rtol=1e-6)
    assert (entropy(*scores([])) == 0).all() and (entropy(*scores([-np.inf] * 9)) == 0).all()
    assert np.isnan(entropy(*scores([1.0, np.nan, 2.0]))).all()


@pytest.mark.parametrize("base", [1e4, 1e5])
def test_entropies_of_large_scores(base: float) -> None:
    """Differences to the maximum are exact: as good as of small scores."""
    rng = np.random.default_rng(0)
    for n in (17, 127, 1000):
        q, k, v = scores(base + rng.standard_normal(n))
        s = k.astype(np.float64).ravel()
        p = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
        assert abs(entropy(q, k, v) + (p * np.log(p)).sum()).max() < 2e-6


def test_variance_far_from_zero() -> None:
    """A mean of 1e4 and a deviation of 1: sums of squares would lose every digit."""
    rng = np.random.default_rng(1)
    for n in (1, 17, 129, 5000):
        q, k, v = scores(1e4 + rng.standard_normal(n))
        s = k.astype(np.float64)
        found, mean = spread(q, k, v)
        np.testing.assert_allclose(found, np.full_like(found, s.var()), rtol=1e-4)
        np.testing.assert_allclose(mean, np.full_like(mean, s.mean()), rtol=1e-6)
    q, k, v = scores([1e4] * 500 + [-1e4] * 500)
    np.testing.assert_allclose(spread(q, k, v)[0], 1e8, rtol=1e-6)


@at.attention
def wide(q, k, v):
    """Three accumulators of vectors, which is two more than a further sweep needs: that costs more than the scores."""
    p = at.softmax(at.dot(q, k))
    return (p - p * p + p * p * p) @ v


@at.attention
def narrow(q, k, v):
    p = at.softmax(at.dot(q, k))
    return (p * (1 - p)) @ v, at.sum(p * p * p, over="j")


@at.attention
def tabled(q, k, v, i, j, *, t: at.Tensor["i", "j"]):
    """Scores that cost nothing."""
    p = at.softmax(t[i, j])
    return (p * (1 - p)) @ v


@at.attention
def shared(q, k, v):
    """What the output accumulates anyway is free."""
    p = at.softmax(at.dot(q, k))
    return p @ v, (p * (1 - p)) @ v


@pytest.mark.parametrize(("variant", "sweeps"), [(wide, 2), (narrow, 1), (tabled, 2), (shared, 1)])
def test_a_further_sweep_is_cheaper_than_many_accumulators(variant: at.Attention, sweeps: int) -> None:
    plan = fuse(variant.graph)
    assert len(plan.sweeps) == sweeps
    if sweeps == 2:
        assert ": COST, " in plan.reasons[0] and plan == plan_sweeps(plan.graph)
    operands = {"t": np.zeros((9, 20), np.float32)} if variant is tabled else {}
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((1, 1, n, 4)).astype(np.float32) for n in (9, 20, 20))
    assert variant.verify(q, k, v, **operands).ok
