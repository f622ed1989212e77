"""What each key gets from all queries: the sums of the weights over i, by kernels that hold no matrix."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
from test_papers import sample

import attnc as at
from attnc import variants
from attnc.columns import turned
from attnc.compile import lower
from attnc.errors import OutputError
from attnc.runtime.binding import bind

NAMES = list(variants.__all__)


def prepared(name: str, seed: int = 0):
    """Without what makes weights differ from feature to feature."""
    shape = (2, 4, 2, 6, 6, 4, 3) if name in ("natten", "sliding_tile") else (2, 4, 2, 5, 9, 4, 3)
    q, k, _, operands = sample(name, shape, seed=seed)
    return q, k, {key: x for key, x in operands.items() if key not in ("gate", "norm")}


def by_matrix(variant: at.Attention, q, k, operands) -> np.ndarray:
    eye = np.broadcast_to(np.eye(k.shape[2]), (*k.shape[:2], k.shape[2], k.shape[2]))
    return variant.reference(q.astype(np.float64), k.astype(np.float64), eye, **operands).sum(-2)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_programs_of_a_variant(name: str) -> None:
    """In the interpreter: finished rows, then sums of the call the other way round. One sweep each."""
    q, k, operands = prepared(name)
    variant = getattr(variants, name)
    bound = bind(variant.signature, q, k, k, operands, "bhld")
    of_rows, of_keys, made = variant._columns(bound)
    tables = dict(zip(made.tables, of_rows.reference(q, k, k, **operands) if of_rows is not None else (), strict=True))
    keys, queries = turned(q, k)
    given = {**operands, **tables, made.group: 2}
    found = of_keys.reference(keys, queries, queries, **given)
    np.testing.assert_allclose(found, by_matrix(variant, q, k, operands), rtol=0, atol=1e-13)
    assert len(lower(made.keys).sweeps) == 1 and (made.rows is None or len(lower(made.rows).sweeps) == 1)


def test_kernels_in_every_dtype_layout_and_rank() -> None:
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((2, h, n, 16)).astype(np.float32) for h, n in ((4, 90), (2, 130)))
    wanted = by_matrix(variants.causal, q, k, {})
    found = variants.causal.column_sums(q, k)
    assert found.shape == (2, 4, 130) and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 90, rtol=1e-5)
    np.testing.assert_allclose(found, variants.causal.weights(q, k).sum(-2), rtol=1e-5, atol=1e-6)
    assert np.array_equal(variants.causal.column_sums(q.swapaxes(1, 2), k.swapaxes(1, 2), layout="blhd"), found)
    assert np.array_equal(variants.causal.column_sums(torch.from_numpy(q), torch.from_numpy(k)), found)
    np.testing.assert_allclose(variants.causal.column_sums(q[0, 0], k[0, 0]), found[0, 0], rtol=1e-5, atol=1e-6)
    shared = variants.causal.column_sums(q, k[:1])
    np.testing.assert_allclose(shared[1], by_matrix(variants.causal, q, k[:1], {})[1], rtol=1e-5, atol=1e-6)
    half, rough = (x.astype(ml_dtypes.bfloat16) for x in (q, k))
    found = variants.causal.column_sums(half, rough)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_matrix(variants.causal, half, rough, {}), rtol=1e-5, atol=1e-6)
    assert variants.causal.column_sums(q, k[:, :, :0]).shape == (2, 4, 0)


@pytest.mark.parametrize("name", ["bigbird", "differential", "retention", "sigmoid", "learned_sink"])
def test_kernels_of_other_normalisers(name: str) -> None:
    q, k, operands = prepared(name, seed=1)
    found = getattr(variants, name).column_sums(q, k, **operands)
    np.testing.assert_allclose(found, by_matrix(getattr(variants, name), q, k, operands), rtol=0, atol=1e-12)


def test_large_scores_empty_rows_and_nan() -> None:
    """The heaviest key gets all; queries before all keys give nothing; a NaN shows where it is attended to, and nowhere else."""
    q, k = np.ones((1, 1, 70, 1), np.float32), np.zeros((1, 1, 40, 1), np.float32)
    k[0, 0, 5] = 1e4
    found = variants.causal.column_sums(q, k)[0, 0]
    np.testing.assert_allclose(found[:5], 1 / np.arange(5, 0, -1.0) @ np.tril(np.ones((5, 5)))[::-1], rtol=1e-5)
    assert found[5] == 35 and (found[6:] == 0).all()
    k[0, 0, 30] = np.nan
    found = variants.causal.column_sums(q, k)[0, 0]
    assert np.isnan(found).all(), "every key is seen by a query that sees key 30"
    window = variants.sliding_window.column_sums(q, k, window=4)[0, 0]
    assert np.isfinite(window[:27]).all() and np.isnan(window[27:34]).all() and np.isfinite(window[34:]).all()


def test_no_matrix_is_made() -> None:
    rng = np.random.default_rng(2)
    q, k = (rng.standard_normal((1, 1, 8192, 8)).astype(np.float32) for _ in range(2))
    variants.causal.column_sums(q[:, :, :64], k[:, :, :64])
    tracemalloc.start()
    found = variants.causal.column_sums(q, k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found.sum(), 8192, rtol=1e-4)
    assert peak < 8e6, "the matrix would be 268 MB"


def test_weights_of_features_are_refused() -> None:
    @at.attention
    def squared(q, k, v):
        return (at.softmax(at.dot(q, k)) @ v) ** 2

    @at.attention
    def projected(q, k, v, *, W: at.Tensor["e", "o"]):
        return at.softmax(at.dot(q, k)) @ v @ W

    x = np.ones((4, 3), np.float32)
    with pytest.raises(OutputError, match="not linear in v"):
        squared.column_sums(x, x)
    with pytest.raises(OutputError):
        projected.column_sums(x, x, W=x.T[:, :3])
