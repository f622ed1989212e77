"""at.merge: attentions over parts of the keys give the attention over all of them, for any cut; what does not fit is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc import variants
from attnc.errors import DTypeError, GradientError, OperandError, ShapeError


@at.attention
def chosen(q, k, v, i, j, *, live: at.Tensor["i", "j", bool]):
    return at.softmax(at.dot(q, k), where=live[i, j]) @ v


@at.attention
def sunk(q, k, v, h, *, z: at.Tensor["h"]):
    return at.softmax(at.dot(q, k), sink=z[h]) @ v


def arrays(rng, q_len, kv_len, dtype=np.float64, scale=1.0):
    shapes = (2, 4, q_len, 3), (2, 2, kv_len, 3), (2, 2, kv_len, 5)
    q, k, v = (rng.standard_normal(x) for x in shapes)
    return (scale * q).astype(dtype), k.astype(dtype), v.astype(dtype)


def cuts(rng, count, kv_len):
    """Where 2 to 7 parts begin and end; some may have no key."""
    inner = np.sort(rng.integers(0, kv_len + 1, count - 1))
    return list(zip([0, *inner], [*inner, kv_len], strict=True))


@settings(max_examples=80, deadline=None)
@given(
    q_len=st.integers(1, 5), kv_len=st.integers(0, 20), count=st.integers(2, 7), scale=st.sampled_from([1.0, 100.0, 1e4]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_parts_of_the_keys_merge_to_the_whole(q_len, kv_len, count, scale, density, seed):
    rng = np.random.default_rng(seed)
    q, k, v = arrays(rng, q_len, kv_len, scale=scale)
    live = rng.random((q_len, kv_len)) < density
    expected, expected_lse = chosen.reference(q, k, v, live=live, return_lse=True)
    parts = [
        chosen.reference(q, k[:, :, a:b], v[:, :, a:b], live=live[:, a:b], return_lse=True)
        for a, b in cuts(rng, count, kv_len)
    ]
    order = rng.permutation(count)
    out, lse = at.merge([parts[n] for n in order])
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
    tree = parts[0]
    for part in parts[1:]:
        tree = at.merge([tree, part])
    np.testing.assert_allclose(tree[0], expected, rtol=0, atol=1e-12)


def test_a_sink_is_in_one_part():
    rng = np.random.default_rng(0)
    q, k, v = arrays(rng, 3, 8)
    z = np.array([100.0, -1e4, 0.5, 1e4])
    expected, expected_lse = sunk.reference(q, k, v, z=z, return_lse=True)
    halves = (k[:, :, :5], v[:, :, :5]), (k[:, :, 5:], v[:, :, 5:])
    with_sink, without = sunk.reference(q, *halves[0], z=z, return_lse=True), plain(q, *halves[1])
    out, lse = at.merge([with_sink, without])
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-13)


def plain(q, k, v):
    return chosen.reference(
        q, k, v, live=np.ones((1, 1), bool).repeat(q.shape[2], 0).repeat(k.shape[2], 1), return_lse=True
    )


def test_an_empty_part_changes_no_bit_and_nothing_is_empty():
    rng = np.random.default_rng(1)
    out, lse = rng.standard_normal((2, 3, 4), np.float32), rng.standard_normal((2, 3), np.float32)
    nothing = np.full((2, 3, 4), np.nan, np.float32), np.full((2, 3), -np.inf, np.float32)
    for parts in ([(out, lse), nothing], [nothing, (out, lse)], [(out, lse)]):
        merged, merged_lse = at.merge(parts)
        assert merged.tobytes() == out.tobytes() and merged_lse.tobytes() == lse.tobytes()
    merged, merged_lse = at.merge([nothing, nothing])
    assert (merged == 0).all() and np.isneginf(merged_lse).all()


def test_a_nan_that_counts_stays():
    out, lse = np.array([[np.nan], [1.0]]), np.array([0.0, np.nan])
    merged, merged_lse = at.merge([(out, lse), (np.ones((2, 1)), np.zeros(2))])
    assert np.isnan(merged).all() and np.isnan(merged_lse[1]) and merged_lse[0] == np.log(2)


def test_kernels_layouts_and_torch():
    rng = np.random.default_rng(2)
    q, k, v = arrays(rng, 6, 40, np.float32)
    expected, expected_lse = variants.full(q, k, v, return_lse=True)
    parts = [variants.full(q, k[:, :, a:b], v[:, :, a:b], return_lse=True) for a, b in ((0, 7), (7, 8), (8, 40))]
    out, lse = at.merge(parts)
    assert out.dtype == lse.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-6)
    turned, turned_lse = at.merge([(o.transpose(0, 2, 1, 3), s) for o, s in parts], layout="blhd")
    assert np.array_equal(turned.transpose(0, 2, 1, 3), out) and np.array_equal(turned_lse, lse)
    tensors = [(torch.from_numpy(o).bfloat16(), torch.from_numpy(s)) for o, s in parts]
    half, half_lse = at.merge(tensors)
    assert half.dtype == torch.bfloat16 and half_lse.dtype == torch.float32
    assert (half.float() - torch.from_numpy(out)).abs().max() < 0.02 and np.array_equal(half_lse.numpy(), lse)


def test_what_does_not_fit_is_refused():
    out, lse = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), np.float32)
    with pytest.raises(OperandError, match="no parts"):
        at.merge([])
    with pytest.raises(OperandError, match="no pair"):
        at.merge([(out, lse), out])
    with pytest.raises(ShapeError, match="part 1"):
        at.merge([(out, lse), (out[:, :2], lse[:, :2])])
    with pytest.raises(ShapeError, match=r"lse \(2, 4\)"):
        at.merge([(out, np.zeros((2, 4), np.float32))])
    with pytest.raises(ShapeError, match="layout"):
        at.merge([(out, lse)], layout="lbhd")
    with pytest.raises(DTypeError, match="lse of part 1"):
        at.merge([(out, lse), (out, lse.astype(np.float64))])
    with pytest.raises(DTypeError, match="int"):
        at.merge([(out.astype(np.int64), lse)])
    with pytest.raises(GradientError):
        at.merge([(torch.zeros((2, 3, 4), requires_grad=True), torch.zeros((2, 3)))])
