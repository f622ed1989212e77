"""What kernels do at the edges: masks, empty rows, NaN and infinities, sinks, and the same bits every time."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import attnc as at
from attnc.errors import ShapeError

D = 16
BAD = [np.nan, np.inf, -np.inf]


@at.attention
def masked(q, k, v, h, i, j, *, z: at.Tensor["h"], bias: at.Tensor["i", "j"]):
    """Strictly causal, so that row 0 is empty; an additive mask; a sink by head."""
    s = at.dot(q, k) * at.rsqrt(at.size(q)) + bias[i, j]
    return at.softmax(s, where=j < i, sink=z[h]) @ v


@at.attention
def plain(q, k, v, i, j, *, bias: at.Tensor["i", "j"]):
    """The same without a sink."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) + bias[i, j], where=j < i) @ v


@at.attention
def weighted(q, k, v, i, j):
    """Masked sums that are no softmax, and a maximum over the live keys."""
    s = at.dot(q, k)
    w = at.where(j < i, at.relu(s) ** 2, 0.0)
    return w @ v, at.sum(at.where(j < i, at.tanh(s), 0.0), over="j"), at.max(at.where(j < i, s, -at.inf), over="j")


def inputs(length: int = 110, heads: int = 1, dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal((2, heads, length, D)).astype(dtype) for _ in range(3)]


def bias(length: int = 110, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros((length, length), dtype)


def agree(variant: at.Attention, *args: np.ndarray, lse: bool = True, **operands: Any) -> tuple[np.ndarray, ...]:
    """The kernel's outputs, after they were found within the bound, NaN and infinities in the same places."""
    report = variant.verify(*args, return_lse=lse, **operands)
    assert report.ok, f"{report}, errors {report.errors}, allowed {report.bounds}"
    found: tuple[np.ndarray, ...] = variant(*args, return_lse=lse, **operands)
    return found


def test_rows_without_keys_are_zero() -> None:
    q, k, v = inputs()
    out, lse = agree(plain, q, k, v, bias=bias())
    assert not out[:, :, 0].any() and np.isneginf(lse[:, :, 0]).all()
    assert out[:, :, 1:].all() and np.isfinite(lse[:, :, 1:]).all()
    hidden = bias()
    hidden[5] = hidden[100] = -np.inf
    out, lse = agree(plain, q, k, v, bias=hidden)
    for row in (0, 5, 100):
        assert not out[:, :, row].any() and np.isneginf(lse[:, :, row]).all()


def test_no_keys_at_all() -> None:
    q, k, v = inputs()
    k, v = k[:, :, :0], v[:, :, :0]
    out, lse = agree(plain, q, k, v, bias=np.zeros((110, 0), np.float32))
    assert out.shape == (2, 1, 110, D) and not out.any() and np.isneginf(lse).all()
    z = np.array([0.75], np.float32)
    out, lse = agree(masked, q, k, v, bias=np.zeros((110, 0), np.float32), z=z)
    assert not out.any() and (lse == 0.75).all()
    found = agree(weighted, q, k, v, lse=False)
    assert not found[0].any() and not found[1].any() and np.isneginf(found[2]).all()


@pytest.mark.parametrize("logit", [0.0, -3.0, 30.0, 100.0, -100.0, -200.0, 1e4, -np.inf])
def test_sinks_of_any_size(logit: float) -> None:
    """The sink joins the denominator, also where its exponential is no float32: a row without keys has lse = sink."""
    q, k, v = inputs()
    z = np.array([logit], np.float32)
    for shift in (0.0, logit if np.isfinite(logit) else -50.0):
        out, lse = agree(masked, q, k, v, bias=bias() + np.float32(shift), z=z)
        assert not out[:, :, 0].any()
        np.testing.assert_array_equal(lse[:, :, 0], np.float32(logit))


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16], ids=lambda x: np.dtype(x).name
)
def test_minus_infinity_and_the_least_number_mask(dtype: Any) -> None:
    """The least float16 is a small score like any other: only what float32 calls hopeless is masked."""
    q, k, v = inputs(dtype=dtype)
    v[:, :, ::7] = np.nan
    for low in (-np.inf, ml_dtypes.finfo(dtype).min):
        mask = bias(dtype=dtype)
        mask[:, ::7] = low
        out, _ = agree(plain, q, k, v, bias=mask)
        if low == -np.inf or dtype is not np.float16:
            assert np.isfinite(np.asarray(out, np.float32)).all()


@pytest.mark.parametrize("level", [-1e4, -1e9, -1e20, -9e37, 1e4, 1e9, 1e20, 1e38, 2e38])
@pytest.mark.parametrize("where", ["everywhere", "every seventh key", "the first half"])
def test_large_scores(level: float, where: str) -> None:
    """Additive masks of the literature, and worse: what is lost to rounding is lost, but nothing becomes NaN or zero."""
    q, k, v = inputs()
    shift = bias()
    shift[
        :, {"everywhere": slice(None), "every seventh key": slice(0, None, 7), "the first half": slice(0, 55)}[where]
    ] = level
    out, lse = agree(plain, q, k, v, bias=shift)
    assert np.isfinite(out).all() and np.isfinite(lse[:, :, 1:]).all()


def test_scores_out_of_range_show() -> None:
    """Exponents are in base 2: a score above 2.35e38 becomes infinite, and its rows NaN."""
    q, k, v = inputs()
    shift = bias()
    shift[50] = 3e38
    out = plain(q, k, v, bias=shift)
    assert np.isnan(out[:, :, 50]).all() and np.isfinite(np.delete(out, 50, axis=2)).all()


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("place", [3, 60, 97, 109])
def test_bad_numbers_stay_in_their_rows(bad: float, place: int) -> None:
    """Key and value `place` are live in later rows only; query `place` in its own."""
    reached = np.arange(110) > place
    for role in (0, 1, 2):
        args = inputs()
        args[role][:, :, place, 2] = bad
        out, lse = agree(plain, *args, bias=bias())
        clean = np.isfinite(out).all(axis=(0, 1, 3))
        expected = ~reached if role else np.arange(110) != place
        assert (clean | ~expected).all(), "a bad number reached a row that does not read it"
        if np.isnan(bad):
            assert (clean == expected).all(), "a NaN that a live pair reads did not reach the output"
        assert role == 2 or (np.isfinite(lse).all(axis=(0, 1))[1:] | ~expected[1:]).all()
        agree(weighted, *args, lse=False)


def test_an_infinity_survives_a_later_tile_that_outweighs_it() -> None:
    q, k, v = inputs(length=200)
    q[:] = q[:, :, -1:]
    k[:, :, :96] *= 1e-3
    k[:, :, 150] = 100 * q[:, :, -1]
    v[:, :, 10, 3], v[:, :, 11, 4] = np.inf, np.nan
    out, _ = agree(plain, q, k, v, bias=bias(200))
    assert np.isposinf(out[:, :, 160:, 3]).all() and np.isnan(out[:, :, 160:, 4]).all()
    assert np.isfinite(out[:, :, 160:, 5:]).all()


def test_infinite_scores_are_nan_and_only_in_their_rows() -> None:
    q, k, v = inputs()
    shift = bias()
    shift[20, 10], shift[30, 10], shift[31, 12] = np.inf, np.nan, -np.inf
    out, _ = agree(plain, q, k, v, bias=shift)
    assert sorted(set(np.nonzero(np.isnan(out))[2])) == [20, 30]


def test_half_precision_scores_do_not_overflow() -> None:
    """Scores, softmax and accumulators are float32: products of 200 * 200 leave float16, not the kernel."""
    q, k, v = inputs(dtype=np.float16)
    out, lse = agree(plain, q * np.float16(200), k * np.float16(200), v, bias=bias(dtype=np.float16))
    assert np.isfinite(out).all() and lse.dtype == np.float32 and np.abs(lse[:, :, 1:]).max() > 65504


@pytest.fixture
def threads() -> Iterator[None]:
    before = at.get_num_threads()
    yield
    at.set_num_threads(before)


def test_the_same_bits_every_time(threads: None) -> None:
    """For any number of threads, any turn, and any place of a problem in the batch."""
    args = [np.concatenate([x, -x[:, :, ::-1]]) for x in inputs(length=300, heads=2)]
    seen = []
    for count in (1, 2, 3):
        at.set_num_threads(count)
        seen += [plain(*args, bias=bias(300), return_lse=True) for _ in range(3)]
    for n, results in enumerate(zip(*seen, strict=True)):
        assert all(x.tobytes() == results[0].tobytes() for x in results), f"output {n}"
    out = seen[0][0]
    order = [2, 0, 3, 0, 1, 2, 2]
    shuffled = plain(*(x[order] for x in args), bias=bias(300), return_lse=True)[0]
    assert shuffled.tobytes() == out[order].tobytes()
    for n in range(4):
        alone = plain(*(x[n, :1] for x in args), bias=bias(300), return_lse=True)[0]
        assert alone.tobytes() == out[n, :1].tobytes()


@at.attention
def local(q, k, v, i, j, *, window: int = 5):
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=(j <= i) & (i - j < window)) @ v


def test_weights_are_the_output_for_one_hot_values() -> None:
    q, k, _ = inputs(length=130, heads=2)
    w = local.weights(q, k)
    i, j = np.arange(130)[:, None], np.arange(130)
    assert w.shape == (2, 2, 130, 130) and w.dtype == np.float32
    np.testing.assert_array_equal(w != 0, np.broadcast_to((j <= i) & (i - j < 5), w.shape))
    np.testing.assert_allclose(w.sum(-1), 1, rtol=1e-5)
    eye = np.broadcast_to(np.eye(130), (2, 2, 130, 130))
    np.testing.assert_allclose(w, local.reference(q, k, eye.astype(np.float32)), atol=1e-6)
    for start in (0, 64, 120):  # probes as wide as a head, of the kernel that users call
        probe = np.zeros_like(k)
        probe[:, :, range(start, min(start + D, 130)), range(min(D, 130 - start))] = 1
        found = local(q, k, probe)
        np.testing.assert_array_equal(found[..., : 130 - start], w[..., start : start + D])


@at.attention
def biased(q, k, v, b, h, i, j, *, bias: at.Tensor["i", "j"], doc: at.Tensor["b", "j", int], first_row: float = 1.0):
    """A table of the queries, one of the keys that queries read too, the alignment of the last query, a name that is taken."""
    live = (j <= i + at.kv_len - at.q_len) & (doc[b, j] == doc[b, i])
    return at.softmax(first_row * at.dot(q, k) + bias[i, j], where=live) @ v


def test_a_window_of_the_weights() -> None:
    q, k, _ = inputs(length=130, heads=2)
    rng = np.random.default_rng(5)
    operands = {"bias": rng.standard_normal((130, 130)).astype(np.float32), "doc": np.arange(130)[None] // 50}
    whole = biased.weights(q, k, **operands)
    places = (
        (slice(90, 110), slice(30, 120)),
        (slice(-40, None), None),
        (range(3, 4), range(3)),
        (slice(100, 103), slice(99, 101)),
    )
    for rows, cols in places:
        found = biased.weights(q, k, rows=rows, cols=cols, **operands)
        picked = [slice(None) if x is None else slice(x.start, x.stop) for x in (rows, cols)]
        np.testing.assert_allclose(found, whole[:, :, picked[0], picked[1]], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(biased.weights(q, k, cols=slice(5, 80), **operands), whole[..., 5:80])
    turned = biased.weights(
        *(x.swapaxes(1, 2) for x in (q, k)), rows=slice(2, 30), cols=slice(0, 9), layout="blhd", **operands
    )
    np.testing.assert_allclose(turned, whole[:, :, 2:30, :9], rtol=0, atol=1e-6)
    assert biased.weights(q, k, rows=slice(7, 7), **operands).shape == (2, 2, 0, 130)
    assert biased.weights(q[0, 0], k[0, 0], rows=slice(3), cols=slice(2), **operands).shape == (3, 2)


def test_a_window_of_weights_is_made_of_neighbours() -> None:
    q, k, _ = inputs(length=20, heads=2)
    for wrong in (
        {"rows": slice(0, 9, 2)},
        {"cols": range(5, 30)},
        {"rows": [1, 2]},
        {"cols": 3},
        {"rows": range(9, 5, -1)},
    ):
        with pytest.raises(ShapeError, match="window is made of neighbours among 20 places"):
            local.weights(q, k, **wrong)


def test_weights_in_every_layout() -> None:
    q, k, _ = inputs(length=70, heads=2)
    w = local.weights(q, k[:, :1])
    np.testing.assert_array_equal(w, local.weights(q, np.repeat(k[:, :1], 2, axis=1)))
    turned = [x.swapaxes(1, 2) for x in (q, k[:, :1])]
    np.testing.assert_array_equal(local.weights(*turned, layout="blhd"), w)
    np.testing.assert_array_equal(local.weights(q[1, 1], k[1, 0]), w[1, 1])
    assert local.weights(q, k[:, :, :0]).shape == (2, 2, 70, 0)
    assert len(local._compiled) <= 2, "one kernel for weights of every length, one for calls"
