"""The products for few queries against NumPy: every number of queries, features, keys and storage format."""

from typing import Any

import ml_dtypes  # noqa: F401  (NumPy's bfloat16)
import numba
import numpy as np
import pytest
from numba import types

from attnc.backends.cpu import few
from attnc.backends.cpu.memory import storage
from attnc.backends.cpu.vector import host_width, vec
from attnc.schedule.cpu_form import most

KINDS = {"float32": types.float32, "float64": types.float64}
FORMATS = [("float32", "float32"), ("float64", "float64"), ("float32", "float16"), ("float32", "bfloat16")]
FEATURES = (1, 17, 64, 600)  # less than a vector, a part of one more, whole ones, several sums of a score


def rounded(rng: np.random.Generator, shape: tuple[int, ...], stored: str) -> np.ndarray:
    return rng.standard_normal(shape).astype(stored)


def guarded(x: np.ndarray, pitch: int) -> np.ndarray:
    """x as rows of `pitch` numbers, what lies behind them NaN."""
    room = np.full((len(x) + 1, pitch), np.nan, x.dtype)
    view = room[: len(x), : x.shape[1]]
    view[...] = x
    return view


@pytest.mark.parametrize(("dtype", "stored"), FORMATS)
@pytest.mark.parametrize("n", FEATURES)
def test_scores(dtype: str, stored: str, n: int) -> None:
    width = host_width(np.dtype(dtype).itemsize)
    F, S, product = vec(KINDS[dtype], width), storage(stored), few.few_dot

    @numba.njit
    def run(queries: int, keys: int, k: int, k_row: int, q: int, q_row: int, c: int) -> None:
        product(F, S, n, queries, keys, k, k_row, q, q_row, c)

    rng, padded = np.random.default_rng(n), -(-n // width) * width
    for keys in (0, 1, 5, 128):
        k = guarded(rounded(rng, (keys, n), stored), n + 3)
        q = np.zeros((most(width), padded), dtype)
        q[:, :n] = rng.standard_normal((most(width), n))
        want = k.astype("float64") @ q[:, :n].astype("float64").T
        for queries in range(1, most(width) + 1):
            c = np.full((keys + 1, most(width)), 7, dtype)
            run(queries, keys, k.ctypes.data, k.strides[0], q.ctypes.data, q.strides[0], c.ctypes.data)
            np.testing.assert_allclose(
                c[:keys, :queries], want[:, :queries], rtol=0, atol=np.finfo(dtype).eps * 20 * n**0.5
            )
            assert (c[keys] == 7).all(), "what lies behind the scores was written"
            assert np.isfinite(c).all(), "what lies behind the features was read"


@pytest.mark.parametrize("mode", ["add", "scale", "add_masked", "scale_masked"])
@pytest.mark.parametrize(("dtype", "stored", "n"), [(*x, n) for x, n in zip(FORMATS, FEATURES, strict=True)])
def test_accumulation(mode: str, dtype: str, stored: str, n: int) -> None:
    width = host_width(np.dtype(dtype).itemsize)
    F, S, product = vec(KINDS[dtype], width), storage(stored), getattr(few, f"few_{mode}")

    @numba.njit
    def run(queries: int, keys: int, v: int, v_row: int, w: int, acc: int, acc_row: int, alpha: int) -> None:
        product(F, S, n, queries, keys, v, v_row, w, acc, acc_row, alpha)

    rng, padded = np.random.default_rng(n), -(-n // width) * width
    for keys in (1, 15, 16, 17, 128):
        for queries in range(1, most(width) + 1):
            v = guarded(rounded(rng, (keys, n), stored), n + 3)
            w, alpha = (rng.standard_normal(s).astype(dtype) for s in ((keys, most(width)), most(width)))
            rows = -(-queries // 2) * 2
            acc = np.zeros((rows + 1, padded), dtype)
            acc[:, :n] = rng.standard_normal((rows + 1, n))
            if mode.endswith("masked"):
                v[keys // 2] = np.nan
                w[keys // 2] = 0
            start = acc[:queries, :n] * (alpha[:queries, None] if mode.startswith("scale") else 1)
            want = start + w[:, :queries].T.astype("float64") @ np.nan_to_num(v.astype("float64"))
            got = acc.copy()
            run(
                queries,
                keys,
                v.ctypes.data,
                v.strides[0],
                w.ctypes.data,
                got.ctypes.data,
                got.strides[0],
                alpha.ctypes.data,
            )
            np.testing.assert_allclose(got[:queries, :n], want, rtol=0, atol=np.finfo(dtype).eps * 20 * keys**0.5)
            np.testing.assert_array_equal(got[rows:], acc[rows:], "what lies behind the rows was written")
            assert np.isfinite(got).all(), "what lies behind the features was read"


def test_a_weight_of_zero_keeps_nothing_out_where_no_mask_is_looked_for() -> None:
    """The plain accumulation lets NaN through: a call sees it at the end, and runs again with the masked one."""
    width = host_width(4)
    F, S, product = vec(types.float32, width), storage("float32"), few.few_add

    @numba.njit
    def run(v: int, w: int, acc: int) -> None:
        product(F, S, 3, 1, 1, v, 12, w, acc, width * 4, 0)

    v, w, acc = np.full(3, np.nan, "float32"), np.zeros(most(width), "float32"), np.zeros((2, width), "float32")
    run(v.ctypes.data, w.ctypes.data, acc.ctypes.data)
    assert np.isnan(acc[0, :3]).all() and not acc[0, 3:].any()


def test_what_is_refused() -> None:
    product, F = few.few_dot, vec(types.float32, 8)
    S: Any = storage("float32")

    @numba.njit
    def counted(n: int) -> None:
        product(F, S, n, 1, 1, 0, 0, 0, 0, 0)

    with pytest.raises(numba.TypingError, match="n must be a constant"):
        counted(3)
