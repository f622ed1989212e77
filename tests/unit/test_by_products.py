"""What a variant returns beside its output for each row, without the matrix of weights: maxima, entropy, moments, counts."""

import numpy as np
import pytest
from scipy.stats import entropy

import attnc as at
from attnc.compile import fuse, lower
from attnc.errors import AxisError
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.tile.interp import run


@at.attention
def watched(q, k, v, i, j, *, reach: int = 1000):
    """The output, the largest score, the largest weight, the sum of squared weights, the keys attended to, the entropy."""
    s, seen = at.dot(q, k), (j <= i) & (i - j < reach)
    p = at.softmax(s, where=seen)
    mean = at.sum(p * j, over="j")
    return (
        p @ v,
        at.max(at.where(seen, s, -at.inf), over="j"),
        at.max(p, over="j"),
        at.sum(p * p, over="j"),
        at.sum(seen, over="j"),
        -at.sum(at.where(p == 0, 0.0, p * at.log(p)), over="j"),
        mean,
    )


def calls(q_len: int, kv_len: int, scale: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((1, 2, n, 5)).astype(np.float32) for n in (q_len, kv_len, kv_len))
    return np.float32(scale) * q, k, v


def expected(q, k, v, reach):
    """From the whole matrix of weights, in float64."""
    i, j = np.arange(q.shape[2])[:, None], np.arange(k.shape[2])
    seen = np.broadcast_to((j <= i) & (i - j < reach), (*q.shape[:3], k.shape[2]))
    s = np.where(seen, q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2), -np.inf)
    top = s.max(-1)
    some = np.isfinite(top)
    e = np.where(seen, np.exp(s - np.where(some, top, 0)[..., None]), 0)
    p = e / np.where(some, e.sum(-1), 1)[..., None]
    h = np.where(some, entropy(np.where(some[..., None], p, 1), axis=-1), 0)
    return [p @ v, top, p.max(-1), (p * p).sum(-1), seen.sum(-1), h, p @ j]


@pytest.mark.parametrize(("scale", "reach"), [(1.0, 1000), (5.0, 3), (1.0, 0), (0.0, 1000), (300.0, 7)])
def test_they_are_those_of_the_matrix(scale: float, reach: int) -> None:
    q, k, v = calls(9, 12, scale)
    wanted = expected(q, k, v, reach)
    call = bind(watched.signature, q, k, v, {"reach": reach}, "bhld")
    graph = watched._trace(call)
    levels = [interpret(graph, call.inputs)]
    levels += [run(lower(graph), call.inputs, tile=tile) for tile in ((3, 2), (9, 12))]
    for found in levels:
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11)
    assert watched.verify(q, k, v, reach=reach).ok


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_kernels_verify_with_a_nan_and_without(scale: float) -> None:
    q, k, v = calls(70, 90, scale, seed=1)
    assert watched.verify(q, k, v).ok
    k[0, 0, 3] = np.nan
    report = watched.verify(q, k, v)
    assert report.ok, (report.errors, report.bounds)
    found = watched(q, k, v)
    for x in found[:1] + found[2:4] + found[5:]:
        assert np.isfinite(x[0, 0, :3]).all() and np.isnan(x[0, 0, 3:]).all(), "rows before the NaN do not see it"


def test_one_hot_and_even_rows() -> None:
    """Entropy 0 and ln n; scores of 1e4, two of them equal."""
    q = np.ones((1, 1, 64, 1), np.float32)
    k = np.zeros((1, 1, 64, 1), np.float32)
    out = watched(q, k, k)
    np.testing.assert_allclose(out[5][0, 0], np.log(np.arange(1, 65)), rtol=3e-6)
    np.testing.assert_allclose(out[2][0, 0], 1 / np.arange(1, 65), rtol=1e-6)
    k[0, 0, [5, 40]] = 1e4
    call = bind(watched.signature, *(x.astype(np.float64) for x in (q, k, k)), {}, "bhld")
    graph = watched._trace(call)
    for found in (interpret(graph, call.inputs), run(lower(graph), call.inputs, tile=(64, 16)), watched(q, k, k)):
        near_one_hot_or_half(*(x[0, 0] for x in found[1:]))


def near_one_hot_or_half(top, largest, squares, count, h, mean) -> None:
    assert (top[5:] == 1e4).all() and (largest[5:40] == 1).all() and (largest[40:] == 0.5).all()
    assert (abs(h[5:40]) < 1e-30).all() and abs(h[40:] - np.log(2)).max() < 1e-6
    assert (squares[40:] == 0.5).all() and (count == np.arange(1, 65)).all() and (mean[40:] == 22.5).all()


def test_how_many_sweeps() -> None:
    """All fuse with the output."""
    q, k, v = calls(4, 4, 1.0)
    plan = fuse(watched._trace(bind(watched.signature, q, k, v, {}, "bhld")))
    assert len(plan.sweeps) == 1 and not plan.reasons


def test_sums_over_queries_are_a_method() -> None:
    @at.attention
    def received(q, k, v):
        p = at.softmax(at.dot(q, k))
        return p @ v, at.sum(p, over="i")

    with pytest.raises(AxisError, match=r"variant.column_sums\(Q, K\)"):
        received.graph  # noqa: B018
