"""The interpreter against independent formulas."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax

import attnc as at


@at.attention
def gemma_local(q, k, v, i, j, *, cap: float = 50.0, window: int = 4096):
    """Gemma-2 local layer: soft-capped scores in a causal window."""
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    s = cap * at.tanh(s / cap)
    return at.softmax(s, where=(j <= i) & (i - j < window)) @ v


@at.attention
def full(q, k, v):
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q))) @ v


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_soft_capped_window_equals_the_published_formula():
    q, k, v = (random(2, 4, 33, 16, seed=n) for n in range(3))
    out, lse = gemma_local.reference(q, k, v, window=5, cap=2.0, return_lse=True)
    i, j = np.arange(33)[:, None], np.arange(33)
    s = 2 * np.tanh(q @ k.swapaxes(-1, -2) / 4 / 2)
    s = np.where((j <= i) & (i - j < 5), s, -np.inf)
    np.testing.assert_allclose(out, scipy_softmax(s, -1) @ v, atol=1e-14)
    np.testing.assert_allclose(lse, logsumexp(s, -1), atol=1e-13)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_grouped_heads_share_keys(group):
    q, k, v = random(1, 4, 7, 8), random(1, 4 // group, 9, 8, seed=1), random(1, 4 // group, 9, 5, seed=2)
    out = full.reference(q, k, v)
    wide = full.reference(q, np.repeat(k, group, 1), np.repeat(v, group, 1))
    np.testing.assert_array_equal(out, wide)


def test_ranks_and_layouts_agree():
    q, k, v = (random(2, 6, 3, 4, seed=n) for n in range(3))
    out = full.reference(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)))
    np.testing.assert_array_equal(full.reference(q, k, v, layout="blhd"), out.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(full.reference(q[0, :, 0], k[0, :, 0], v[0, :, 0]), out[0, 0])


def test_empty_rows_are_zero_and_their_lse_is_minus_infinity():
    @at.attention
    def nothing(q, k, v, i, j):
        return at.softmax(at.dot(q, k), where=j < i - 2) @ v

    out, lse = nothing.reference(*(random(1, 1, 5, 2, seed=n) for n in range(3)), return_lse=True)
    assert (out[0, 0, :3] == 0).all() and np.isneginf(lse[0, 0, :3]).all() and np.isfinite(lse[0, 0, 3:]).all()


def test_a_sink_joins_the_denominator_only():
    @at.attention
    def off_by_one(q, k, v):
        return at.softmax(at.dot(q, k), sink=0.0) @ v

    q, k, v = (random(1, 1, 5, 2, seed=n) for n in range(3))
    e = np.exp(q @ k.swapaxes(-1, -2))
    np.testing.assert_allclose(off_by_one.reference(q, k, v), e / (1 + e.sum(-1, keepdims=True)) @ v, atol=1e-14)


def test_masked_nan_stays_out_and_live_nan_stays_in():
    q, k, v = (random(1, 1, 6, 4, seed=n) for n in range(3))
    k[0, 0, 4] = v[0, 0, 5] = np.nan
    out = gemma_local.reference(q, k, v)
    assert np.isfinite(out[0, 0, :4]).all() and np.isnan(out[0, 0, 4:]).all()


def test_operands_of_every_kind():
    @at.attention
    def kinds(
        q,
        k,
        v,
        b,
        h,
        i,
        j,
        *,
        slopes: at.Tensor["h"],
        doc: at.Tensor["b", "j"],
        order: at.Tensor["n"],
        bias: at.Tensor["n"] = None,
        n: at.Const[int] = 2,
        on: bool = True,
    ):
        s = at.dot(q, k)
        for step in range(n):
            s = s + slopes[h] * (i - j) * step
        if bias is not None:
            s = s + bias[order[i] - order[j] + 6]
        return at.softmax(s, where=(doc[b, i] == doc[b, j]) & on) @ v  # fmt: skip

    q, k, v = (random(2, 2, 7, 3, seed=n) for n in range(3))
    slopes, doc = np.array([0.5, 0.25]), np.array([[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1]])
    order, bias = np.arange(7)[::-1].copy(), random(13)
    out = kinds.reference(q, k, v, slopes=slopes, doc=doc, order=order, bias=bias)
    i, j = np.arange(7)[:, None], np.arange(7)
    s = q @ k.swapaxes(-1, -2) + slopes[:, None, None] * (i - j) + bias[order[i] - order[j] + 6]
    s = np.where(doc[:, None, :, None] == doc[:, None, None, :], s, -np.inf)
    np.testing.assert_allclose(out, scipy_softmax(s, -1) @ v, atol=1e-13)
    assert "doc" in str(kinds.graph)


def test_matrix_operands_project_features():
    @at.attention
    def luong(q, k, v, *, w: at.Tensor["d", "d"]):
        return at.softmax(at.dot(q @ w, k)) @ v

    @at.attention
    def bahdanau(q, k, v, *, u: at.Tensor["r"], wq: at.Tensor["d", "r"], wk: at.Tensor["d", "r"]):
        return at.softmax(at.sum(u * at.tanh(q @ wq + k @ wk), over="r")) @ v

    q, k, v = random(1, 2, 5, 3), random(1, 2, 6, 3, seed=1), random(1, 2, 6, 4, seed=2)
    w, u, wq, wk = random(3, 3, seed=3), random(7, seed=4), random(3, 7, seed=5), random(3, 7, seed=6)
    np.testing.assert_allclose(
        luong.reference(q, k, v, w=w), scipy_softmax(q @ w @ k.swapaxes(-1, -2), -1) @ v, atol=1e-13
    )
    s = (np.tanh((q @ wq)[..., :, None, :] + (k @ wk)[..., None, :, :]) * u).sum(-1)
    np.testing.assert_allclose(bahdanau.reference(q, k, v, u=u, wq=wq, wk=wk), scipy_softmax(s, -1) @ v, atol=1e-13)


def test_tuple_outputs_and_raw_reductions():
    @at.attention
    def two(q, k, v):
        w = at.exp(at.dot(q, k))
        total = at.sum(w, over="j")
        return w @ v / total, at.log(total)

    q, k, v = (random(1, 2, 5, 3, seed=n) for n in range(3))
    out, lse = two.reference(q, k, v)
    e = np.exp(q @ k.swapaxes(-1, -2))
    np.testing.assert_allclose(out, e @ v / e.sum(-1, keepdims=True), atol=1e-13)
    np.testing.assert_allclose(lse, np.log(e.sum(-1)), atol=1e-13)


def test_from_flex():
    flex = at.from_flex(lambda s, b, h, i, j: s - (i - j) * 0.1, lambda b, h, i, j: i >= j)
    q, k, v = (random(1, 2, 5, 4, seed=n) for n in range(3))
    i, j = np.arange(5)[:, None], np.arange(5)
    s = np.where(i >= j, q @ k.swapaxes(-1, -2) / 2 - (i - j) * 0.1, -np.inf)
    np.testing.assert_allclose(flex.reference(q, k, v), scipy_softmax(s, -1) @ v, atol=1e-13)


def test_graph_is_ordered_and_printable():
    @at.attention
    def square(q, k, v):
        s = at.dot(q, k)
        return at.softmax(s * s) @ v

    graph = square.graph.to_networkx()
    assert sorted(key for _, y, key in graph.edges(keys=True) if y.op == "mul") == [0, 1]
    assert "mul(%0, %0)" in str(square.graph)
    assert square.graph.to_dot().startswith("digraph") and square.graph.key == square.graph.key


def test_no_module_hides_a_public_name():
    """Importing a submodule binds it to the package: a function of that name would be lost."""
    modules = {path.stem for path in Path(at.__file__).parent.iterdir()}
    assert modules & set(at.__all__) == {"variants"}
