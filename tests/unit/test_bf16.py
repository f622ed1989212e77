"""Scores of bfloat16 vectors from products of pairs: which vectors stay pairs, and that the products are right."""

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import types

import attnc as at
from attnc.backends.cpu.microkernel import gemm_pairs
from attnc.backends.cpu.vector import vec
from attnc.compile import Problem, compile
from attnc.schedule.target import Target, host

BF16 = Target(64, 32, bf16=True)
needs_bf16 = pytest.mark.skipif(not host().bf16, reason="this processor has no AVX512-BF16")


@at.attention
def plain(q, k, v):
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q))) @ v


@at.attention
def twice(q, k, v):
    """Keys are read by two scores, of which one is not of a role."""
    return at.softmax(at.dot(q, k) + at.dot(q * 0.5, k)) @ v


@at.attention
def keys_as_values(q, k, v):
    return at.softmax(at.dot(q, k)) @ k


@at.attention
def distance(q, k, v):
    """The features themselves are read too."""
    return at.softmax(at.dot(q, k) - 0.5 * at.sum(k * k, over="d")) @ v


def source(variant: at.Attention, dim: int = 8, dtype: str = "bfloat16", target: Target = BF16) -> str:
    problem = Problem(dtype, {"d": dim, "e": dim}, {}, target=target)
    text = compile(variant.graph, problem, stop_after="source").source
    assert text is not None
    return text


def test_vectors_that_only_scores_read_stay_pairs() -> None:
    text = source(plain)
    assert "gemm_pairs" in text and "gemm_zero(" not in text
    assert "pack_rows(T, Q_, 256, q_rows, q_l, AS_float32, ni, nx * 16, 4)" in text
    assert text.count("widen(") == 1  # of the values; keys are read where they lie


@pytest.mark.parametrize(
    ("variant", "dim", "dtype", "target"),
    [
        (plain, 7, "bfloat16", BF16),
        (plain, 8, "float16", BF16),
        (plain, 8, "float32", BF16),
        (plain, 8, "bfloat16", Target(64, 32)),
        (twice, 8, "bfloat16", BF16),
        (keys_as_values, 8, "bfloat16", BF16),
        (distance, 8, "bfloat16", BF16),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_others_are_widened(variant: at.Attention, dim: int, dtype: str, target: Target) -> None:
    text = source(variant, dim, dtype, target)
    assert "gemm_pairs" not in text and "gemm_zero" in text


@needs_bf16
def test_products_of_pairs_cover_every_shape() -> None:
    F = vec(types.float32, 16)

    @numba.njit
    def run(m: int, vectors: int, a: int, a_row: int, b: int, b_k: int, c: int, c_row: int, n: int) -> None:
        gemm_pairs(F, 12, 2, m, vectors, a, a_row, 4, b, b_k, c, c_row, n, 0)

    rng = np.random.default_rng(4)
    for m in (1, 2, 5, 11, 12, 13, 24, 37):
        for vectors, pairs in ((1, 1), (2, 7), (3, 64), (4, 33), (5, 0)):
            x = vectors * 16
            a = rng.standard_normal((m, 2 * pairs)).astype(ml_dtypes.bfloat16)
            b = rng.standard_normal((pairs, x, 2)).astype(ml_dtypes.bfloat16)
            got = np.full((m, x), 7, np.float32)
            run(m, vectors, a.ctypes.data, 4 * pairs, b.ctypes.data, 4 * x, got.ctypes.data, 4 * x, pairs)
            want = np.einsum("mkp,kxp->mx", a.reshape(m, pairs, 2).astype("f8"), b.astype("f8"))
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@needs_bf16
@settings(max_examples=30, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 70), st.integers(0, 140)),
    layout=st.sampled_from(["BHLD", "BLHD"]),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    odd=st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 99),
)
def test_kernels_of_pairs_verify(lengths: tuple[int, int], layout: str, scale: float, odd: float, seed: int) -> None:
    """Any lengths and strides, and numbers that are not finite."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 4, lengths[0], 10), (2, 2, lengths[1], 10), (2, 2, lengths[1], 10)]
    arrays = [(scale * rng.standard_normal(s)).astype(ml_dtypes.bfloat16) for s in shapes]
    if odd and lengths[1]:
        arrays[int(rng.integers(3))][1, 1, int(rng.integers(min(lengths))), 3] = odd
    if layout == "BLHD":
        arrays = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in arrays]
    short = lengths[0] <= 16 and lengths[1] > 64  # few queries: see test_few.py
    assert ("gemm_pairs" in plain.source(*arrays)) == (not short)
    report = plain.verify(*arrays)
    assert report.ok, report
