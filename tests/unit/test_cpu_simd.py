"""The SIMD layer against NumPy: every elementwise op, memory formats, accuracy of the polynomials, the micro-kernels."""

import ctypes
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from numba import types

from attnc.backends.cpu import elementwise as ew
from attnc.backends.cpu import memory as mem
from attnc.backends.cpu import microkernel as mk
from attnc.backends.cpu.machine import FASTMATH, compile_object, load_object
from attnc.backends.cpu.vector import Vec, host_width, vec
from attnc.schedule.target import host

W = 8
KINDS = {"float32": types.float32, "float64": types.float64, "int64": types.int64, "bool": types.boolean}
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 7.25, -7.25, 1e-40, 1e30, -1e30, np.inf, -np.inf, np.nan, 88.0]
INTEGERS = [0, 1, -1, 2, -2, 3, -3, 7, -7, 63, 64, -64, 2**62, -(2**63), 2**63 - 1, 1000003]


def apply(op: Any, *arrays: np.ndarray, result: str = "", width: int | None = W, name: str = "") -> np.ndarray:
    """op over arrays whose length W divides, compiled for SIMD values or, with width None, for scalars."""
    result = result or arrays[0].dtype.name
    out = np.zeros(len(arrays[0]), result)
    space: dict[str, Any] = {"op": op, **vars(mem)}
    for k, array in enumerate(arrays):
        kind = KINDS[array.dtype.name]
        space |= {f"K{k}": kind if width is None else vec(kind, width), f"S{k}": mem.storage(array.dtype.name)}
    heads = ", ".join(f"a{k}" for k in range(len(arrays)))
    loads = ", ".join(f"load_as(K{k}, a{k} + i * {a.itemsize}, S{k})" for k, a in enumerate(arrays))
    source = f"def run({heads}, o, n):\n    for i in range(0, n, {width or 1}):\n"
    source += f"        store(o + i * {out.itemsize}, op({loads}))\n"
    exec(source, space)
    # The flags that kernels are compiled with, which Numba adds to every instruction: no polynomial may depend on them.
    numba.njit(space["run"], fastmath=set(FASTMATH))(*(a.ctypes.data for a in arrays), out.ctypes.data, len(out))
    return out


def pairs(values: list[Any], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    x = np.array(values, dtype)
    return np.repeat(x, len(x)), np.tile(x, len(x))


def same(got: np.ndarray, want: np.ndarray, ulp: int = 0) -> None:
    if ulp and want.dtype.kind == "f":
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite])
        np.testing.assert_array_max_ulp(got[finite], want[finite], maxulp=ulp)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("width", [W, None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_ops_match_numpy(dtype: str, width: int | None) -> None:
    x, y = pairs(FLOATS, dtype)
    with np.errstate(all="ignore"):
        for name, rule in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("minimum", np.minimum),
                           ("maximum", np.maximum)):  # fmt: skip
            same(apply(getattr(ew, name), x, y, width=width), rule(x, y))
        same(apply(ew.div, x, y, width=width), x / y)
        same(apply(ew.floordiv, x, y, width=width), np.floor_divide(x, y))
        same(apply(ew.mod, x, y, width=width), np.mod(x, y))
        same(apply(ew.pow, x, y, width=width), np.power(x, y), ulp=2)
        for name, rule in (("lt", np.less), ("le", np.less_equal), ("eq", np.equal), ("ne", np.not_equal),
                           ("gt", np.greater), ("ge", np.greater_equal)):  # fmt: skip
            same(apply(getattr(ew, name), x, y, result="bool", width=width), rule(x, y))
        for name, rule in (("neg", np.negative), ("abs", np.abs), ("sqrt", np.sqrt), ("floor", np.floor),
                           ("sign", np.sign)):  # fmt: skip
            same(apply(getattr(ew, name), x, width=width), rule(x))
        for name in ("log", "log2", "log1p", "sin", "cos", "tanh", "exp", "exp2"):
            same(apply(getattr(ew, name), x, width=width), getattr(np, name)(x), ulp=2)
        same(apply(ew.rsqrt, x, width=width), 1 / np.sqrt(x), ulp=1)


@pytest.mark.parametrize("width", [W, None])
def test_integer_ops_match_numpy(width: int | None) -> None:
    x, y = pairs(INTEGERS, "int64")
    with np.errstate(all="ignore"):
        for name, rule in (("add", np.add), ("sub", np.subtract), ("minimum", np.minimum), ("maximum", np.maximum)):
            same(apply(getattr(ew, name), x, y, width=width), rule(x, y))
        same(apply(ew.mul, x, y, width=width), x * y)
        same(apply(ew.floordiv, x, y, width=width), x // y)
        same(apply(ew.mod, x, y, width=width), x % y)
        for name, rule in (("and_", np.bitwise_and), ("or_", np.bitwise_or), ("xor", np.bitwise_xor),
                           ("shl", np.left_shift), ("shr", np.right_shift)):  # fmt: skip
            same(apply(getattr(ew, name), x, y, width=width), rule(x, y))
        small = np.abs(y) % 65
        same(apply(ew.pow, x, small, width=width), np.power(x, small))
        same(apply(ew.lt, x, y, result="bool", width=width), x < y)
        for name, rule in (("neg", np.negative), ("abs", np.abs), ("sign", np.sign), ("not_", np.invert)):
            same(apply(getattr(ew, name), x, width=width), rule(x))


@pytest.mark.parametrize("largest", [100, 2**31 - 1, 2**52 - 1, 2**52, 2**62])
def test_division_is_exact_beside_multiples(largest: int) -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(-largest, largest, 4096) // rng.integers(1, 1000, 4096)
    x = y * (largest // np.maximum(np.abs(y), 1)) + rng.integers(-1, 2, 4096)
    x, y = np.append(x, np.full(W, -(2**63))), np.append(y, np.full(W, -1))
    with np.errstate(all="ignore"):
        same(apply(ew.floordiv, x, y), x // y)
        same(apply(ew.mod, x, y), x % y)


def test_int32_lanes_keep_their_width() -> None:
    J, load_as, store_as, add, floordiv, mod = (
        vec(types.int32, W), mem.load_as, mem.store_as, ew.add, ew.floordiv, ew.mod,
    )  # fmt: skip
    T = mem.storage("int32")

    @numba.njit
    def run(a: int, b: int, o: int, n: int) -> None:
        for k in range(0, n, W):
            x, y = load_as(J, a + 4 * k, T), load_as(J, b + 4 * k, T)
            store_as(o + 4 * k, add(floordiv(x, y), mod(x, 7)), T)

    values = [0, 1, -1, 2, -3, 7, 2**31 - 1, -(2**31), 65537, -65536, 12, -12, 100, 3, 5, -5]
    x, y = pairs(values, "int32")
    out = np.zeros_like(x)
    run(x.ctypes.data, y.ctypes.data, out.ctypes.data, len(x))
    with np.errstate(all="ignore"):
        same(out, x // y + x % 7)


def test_lanes_change_their_width() -> None:
    I, J, B, T = vec(types.int64, W), vec(types.int32, W), vec(types.boolean, W), mem.storage("int32")
    load, store, gather, store_as, resize = mem.load, mem.store, mem.gather, mem.store_as, ew.resize

    @numba.njit
    def run(x: int, narrow: int, index: int, mask: int, wide: int, out: int, less: int, s: int) -> int:
        low = resize(J, ew.saturate(load(I, x)))
        store_as(out, low, T)
        picked = gather(J, narrow, load(I, index), T)
        store(wide, ew.add(resize(I, picked), resize(J, load(B, mask))))  # in 64 bits where one of them has them
        store(less, ew.lt(picked, ew.saturate(s)))
        return ew.saturate(s)  # type: ignore[no-any-return]

    x = np.array([0, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)])
    narrow, mask = np.array([2**31 - 1, -(2**31), 5, -5], "int32"), np.arange(W) % 2 == 0
    index = np.array([0, 1, 2, 3, 3, 2, 1, 0])
    out, wide, less = np.zeros(W, "int32"), np.zeros(W, "int64"), np.zeros(W, bool)
    places = [a.ctypes.data for a in (x, narrow, index, mask, wide, out, less)]
    for s in (0, 2**40, -(2**40), 2**31 - 1):
        clamped = min(max(s, -(2**31)), 2**31 - 1)
        assert run(*places, s) == clamped
        same(out, x.clip(-(2**31), 2**31 - 1).astype("int32"))
        same(wide, narrow[index].astype("int64") + mask)
        same(less, narrow[index] < clamped)


def test_booleans_where_and_casts() -> None:
    a, b = pairs([False, True, True, False], "bool")
    for name, rule in (("and_", np.logical_and), ("or_", np.logical_or), ("xor", np.logical_xor), ("lt", np.less)):
        same(apply(getattr(ew, name), a, b), rule(a, b))
    same(apply(ew.not_, a), ~a)
    x = np.array(FLOATS, "float32")
    same(apply(ew.where, a, x, -x, result="float32"), np.where(a, x, -x))
    with np.errstate(all="ignore"):
        same(apply(ew.cast_int, x, result="int64"), x.astype("int64"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_is_zero_only_where_masked(dtype: str) -> None:
    least = -126.0 if dtype == "float32" else -1022.0
    rng = np.random.default_rng(1)
    ends = [0, least, least - 1, -1e30, -1.4e38, -1.5e38, -np.inf, np.nan]
    x = np.concatenate([ends, rng.uniform(least, 0, 20000), rng.uniform(-20, 64, 20000)]).astype(dtype)
    got = apply(ew.weight, x, np.zeros_like(x), np.full_like(x, -1.44269e38))
    assert (got[5:7] == 0).all() and np.isnan(got[7]) and (got[:5] > 0).all()
    want = np.exp2(np.maximum(x, least).astype(np.longdouble))
    real = np.isfinite(x) & (got > 0)
    error = np.abs(got - want)[real] / np.spacing(want[real].astype(dtype))
    assert error.max() <= 2, error.max()
    # A NaN with a payload stays a NaN whatever its low bits say.
    bits = np.arange(W) * 37 + 1
    odd = (np.uint32(0x7F800000) + bits.astype("uint32")).view("float32")
    assert np.isnan(apply(ew.weight, odd, np.zeros_like(odd), np.full_like(odd, -np.inf))).all()


def test_a_weight_of_a_huge_product_is_not_fused() -> None:
    """Fused, x * c - r would be what rounding lost of x * c: millions, whose power is infinite."""
    x = np.full(W, 1.23456789e15, "float32")
    r = x * np.float32(1.1)
    weight, mul = ew.weight, ew.mul
    product = numba.njit(lambda y, z: weight(mul(y, 1.1), z, -1e38), inline="always")
    assert (apply(product, x, r) == 1).all()


def test_maximum_fast_skips_nan_scores() -> None:
    s = np.array([np.nan, 1, 2, -np.inf, 0, 5, np.nan, 7], "float32")
    m = np.array([3, 0, 9, -np.inf, -1, np.inf, -np.inf, 7], "float32")
    same(apply(ew.maximum_fast, s, m), np.array([3, 1, 9, -np.inf, 0, np.inf, -np.inf, 7], "float32"))


def test_scalars_are_splatted_without_raising_precision() -> None:
    F = vec(types.float32, W)
    load, store, mul, add = mem.load, mem.store, ew.mul, ew.add

    @numba.njit
    def run(a: int, o: int, k: int) -> None:
        store(o, add(mul(load(F, a), 0.5), k))

    x = np.arange(W, dtype="float32")
    out = np.zeros(W, "float32")
    run(x.ctypes.data, out.ctypes.data, 3)
    same(out, x * np.float32(0.5) + 3)


STORAGE = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]


@pytest.mark.parametrize("width", [16, None])
@pytest.mark.parametrize("stored", STORAGE)
def test_memory_formats_round_trip(stored: str, width: int | None) -> None:
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if stored == "bfloat16" else np.dtype(stored)
    T = mem.storage(stored)
    compute = "int64" if numpy_dtype.kind in "iub" else "float64" if stored == "float64" else "float32"
    K = KINDS[compute] if width is None else vec(KINDS[compute], width)
    step, size, wide = width or 1, numpy_dtype.itemsize, np.dtype(compute).itemsize
    load_as, store_as, store, load, gather = mem.load_as, mem.store_as, mem.store, mem.load, mem.gather
    J = types.int64 if width is None else vec(types.int64, width)

    @numba.njit
    def run(a: int, o: int, back: int, index: int, picked: int, n: int) -> None:
        for k in range(0, n, step):
            value = load_as(K, a + k * size, T)
            store(o + k * wide, value)
            store_as(back + k * size, value, T)
            store(picked + k * wide, gather(K, a, load(J, index + k * 8), T))

    rng = np.random.default_rng(2)
    x = (rng.normal(size=64) * 50).astype(numpy_dtype)
    index = rng.integers(0, 64, 64)
    out, back, picked = np.zeros(64, compute), np.zeros(64, numpy_dtype), np.zeros(64, compute)
    run(x.ctypes.data, out.ctypes.data, back.ctypes.data, index.ctypes.data, picked.ctypes.data, 64)
    same(out, x.astype(compute))
    same(back.view(f"u{size}"), x.view(f"u{size}"))
    same(picked, x[index].astype(compute))


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_stores_round_to_nearest_even(stored: str) -> None:
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if stored == "bfloat16" else np.dtype(stored)
    F, T = vec(types.float32, 16), mem.storage(stored)
    load, store_as = mem.load, mem.store_as

    @numba.njit
    def run(a: int, o: int, n: int) -> None:
        for k in range(0, n, 16):
            store_as(o + k * 2, load(F, a + k * 4), T)

    rng = np.random.default_rng(3)
    x = rng.integers(0, 2**32, 1 << 16, dtype=np.uint64).astype("uint32").view("float32")
    x[:8] = [1.00390625, 1.01171875, 3.4e38, np.inf, -np.inf, np.nan, 65520, 1e-41]
    x[8] = np.array([0x7F800001], "uint32").view("float32")[0]
    out = np.zeros(len(x), numpy_dtype)
    run(x.ctypes.data, out.ctypes.data, len(x))
    with np.errstate(all="ignore"):
        want = x.astype(numpy_dtype)
    nan = np.isnan(x)
    assert np.isnan(out[nan].astype("float32")).all()
    same(out.view("u2")[~nan], want.view("u2")[~nan])


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "int8"])
def test_first_lanes_touch_nothing_else(stored: str) -> None:
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if stored == "bfloat16" else np.dtype(stored)
    F, T = vec(types.float32, 16), mem.storage(stored)
    load_first, store_first = mem.load_first, mem.store_first

    @numba.njit
    def run(a: int, o: int, n: int) -> None:
        store_first(o, load_first(F, a, n, T), n, T)

    for n in range(17):
        x, out = np.arange(1, 17).astype(numpy_dtype), np.full(16, 77).astype(numpy_dtype)
        run(x.ctypes.data, out.ctypes.data, n)
        assert (out[:n] == x[:n]).all() and (out[n:] == np.array(77, numpy_dtype)).all()


def test_any_address_may_be_asked_for() -> None:
    read, write = mem.ask_to_read, mem.ask_to_write

    @numba.njit
    def run(address: int) -> None:
        read(address)
        write(address)

    x = np.arange(16)
    for address in (x.ctypes.data, x.ctypes.data + x.nbytes, 0, 1, -64, 2**62):
        run(address)
    assert (x == np.arange(16)).all()


def test_iota_reductions_and_atomics() -> None:
    J, F, B = vec(types.int64, W), vec(types.float32, W), vec(types.boolean, W)
    iota, load, store, fetch_add = mem.iota, mem.load, mem.store, mem.fetch_add
    any_, all_, high, low, total = mem.any, mem.all, mem.reduce_max, mem.reduce_min, mem.reduce_sum

    @numba.njit
    def run(mask: int, x: int, o: int, counter: int) -> tuple[bool, bool, float, float, float, int]:
        store(o, iota(J, 5))
        m, v = load(B, mask), load(F, x)
        return any_(m), all_(m), high(v), low(v), total(v), fetch_add(counter, 2)

    out, counter, x = np.zeros(W, "int64"), np.array([40]), np.array([3, -1, 2, 8, 0, 1, 1, 2], "float32")
    for mask in (np.zeros(W, bool), np.ones(W, bool), np.arange(W) == 3):
        before = counter[0]
        got = run(mask.ctypes.data, x.ctypes.data, out.ctypes.data, counter.ctypes.data)
        assert got == (mask.any(), mask.all(), 8, -1, 16, before)
    assert counter[0] == 46
    same(out, np.arange(5, 5 + W))


GEMM = {
    "zero": mk.gemm_zero, "add": mk.gemm_add, "scale": mk.gemm_scale,
    "zero_masked": mk.gemm_zero_masked, "add_masked": mk.gemm_add_masked, "scale_masked": mk.gemm_scale_masked,
}  # fmt: skip


@pytest.mark.parametrize("mode", GEMM)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gemm_covers_every_shape(mode: str, dtype: str) -> None:
    width = host_width(np.dtype(dtype).itemsize)
    F: Vec = vec(KINDS[dtype], width)
    gemm, (rows, cols), size = GEMM[mode], host().tile, np.dtype(dtype).itemsize

    @numba.njit
    def run(
        m: int, vectors: int, a: int, a_row: int, a_k: int, b: int, b_k: int, c: int, c_row: int, n: int, alpha: int
    ) -> None:
        gemm(F, rows, cols, m, vectors, a, a_row, a_k, b, b_k, c, c_row, n, alpha)

    rng = np.random.default_rng(4)
    for m in (1, 2, 5, 11, 12, 13, 24, 37):
        for vectors, n in ((1, 1), (2, 7), (3, 64), (5, 0)):
            x = vectors * width
            for transposed in (False, True):
                A = rng.normal(size=(n, m) if transposed else (m, n)).astype(dtype)
                A = A.T if transposed else A
                B, C = rng.normal(size=(n, x)).astype(dtype), rng.normal(size=(m, x)).astype(dtype)
                alpha = rng.normal(size=x).astype(dtype)
                start = 0 if mode.startswith("zero") else C if mode.startswith("add") else C * alpha
                if mode.endswith("masked") and n:
                    B[n // 2] = 0
                    A[:, n // 2] = np.nan
                want = start + np.where(np.isnan(A), 0, A).astype("float64") @ B
                got = C.copy()
                run(m, vectors, A.ctypes.data, *A.strides, B.ctypes.data, x * size, got.ctypes.data, x * size, n,
                    alpha.ctypes.data)  # fmt: skip
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


def test_kernels_with_these_intrinsics_are_plain_c_functions() -> None:
    source = """
from numba import types
from attnc.backends.cpu.elementwise import floordiv, log, mod, pow, weight
from attnc.backends.cpu.memory import load, store
from attnc.backends.cpu.microkernel import gemm_zero
from attnc.backends.cpu.vector import vec
F, J = vec(types.float32, 16), vec(types.int64, 16)
def kernel(args, worker):
    store(args, weight(log(pow(load(F, args), 2.0)), 0.0, -1e38))
    store(args + 64, mod(floordiv(load(J, args + 64), worker), 3))
    gemm_zero(F, 4, 1, 9, 1, args, 4, 4, args, 64, args + 256, 64, 2, 0)
"""
    loaded = load_object(compile_object(source, "<simd test>", "kernel"), "kernel")
    memory = np.zeros(1024, "float32")
    memory[:16] = 0.5
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address)(memory.ctypes.data, 2)
    np.testing.assert_allclose(memory[:16], np.exp2(np.log(np.full(16, 0.25))), rtol=1e-6)


def test_all_finite_sees_every_element() -> None:
    F, all_finite = vec(types.float32, W), mk.all_finite

    @numba.njit
    def run(a: int, rows: int, row_bytes: int, n: int) -> bool:
        return all_finite(F, a, rows, row_bytes, n)

    for n in (1, W, W + 3):
        x = np.full((3, n + 2), np.nan, "float32")
        x[:, :n] = 3e38
        assert run(x.ctypes.data, 3, x.strides[0], n)
        for r in range(3):
            for k in range(n):
                for bad in (np.nan, np.inf, -np.inf):
                    (y := x.copy())[r, k] = bad
                    assert not run(y.ctypes.data, 3, y.strides[0], n)
