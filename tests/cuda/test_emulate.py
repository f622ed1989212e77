"""The emulator's rules for intrinsics, each against NumPy, and for programs of several modules."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from snippets import HEAD, N, floats, run, words

import attnc.backends.cuda as package
from attnc.backends.cuda import ptx
from attnc.backends.cuda.emulate import Memory, launch, names

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
INTERFACE = """
    thread block blocks registers shared unrolled device barrier barrier_or warp_sync ldmatrix ldmatrix_t mma_bf16 mma_f16
    copy16 copy_commit copy_wait shuffle_f shuffle_r shuffle_l vote_any load_shared_f load_shared_r load_shared_h load_shared_4
    store_shared_f store_shared_r store_shared_h store_shared_4 load_f32 load_f64 load_i64 load_i32 load_r128
    load_bf16 load_f16 load_i8 load_u8 load_i16 store_f32_if store_h_if store_r_if store_l_if store_d_if store_r128_if
    pack_bf16 pack_f16 low_bf16 high_bf16 low_f16 high_f16 as_double scalar fast_ex2 fast_rcp
    add sub mul div pow floordiv mod minimum maximum lt le eq ne and_ or_ xor not_ shl shr where neg abs sign
    exp exp2 log log2 log1p tanh sigmoid erf sqrt rsqrt sin cos floor weight fma cast_float cast_int resize
    maximum_fast weight_fast mbar_init_if mbar_expect_if mbar_arrive_if mbar_wait mbar_fence async_fence tma_load_if tma_store_if
    tma_commit tma_wait_read tma_wait registers_more registers_less named_barrier named_arrive wgmma_ss wgmma_rs wgmma_fence
    wgmma_commit wgmma_wait hold atomic_next broadcast
"""


def test_every_name_of_the_interface_has_a_rule() -> None:
    assert sorted([*names()["intrinsics"], *names()["elementwise"]]) == sorted(INTERFACE.split())
    assert {name: sorted(names()[name]) for name in names()} == {name: sorted(ptx.names()[name]) for name in names()}


# ---- fragments: the layouts as the PTX ISA words them, one element after the other


def place_a(lane: int, i: int) -> tuple[int, int]:
    row = lane >> 2 if 0 <= i < 2 or 4 <= i < 6 else (lane >> 2) + 8
    return row, (lane % 4) * 2 + (i & 1) if i < 4 else (lane % 4) * 2 + (i & 1) + 8


def place_b(lane: int, i: int) -> tuple[int, int]:
    return ((lane % 4) * 2 + (i & 1) if i < 2 else (lane % 4) * 2 + (i & 1) + 8), lane >> 2


def place_c(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2 if i < 2 else (lane >> 2) + 8), (lane % 4) * 2 + (i & 1)


def fragments(matrices: np.ndarray, place: Callable[[int, int], tuple[int, int]], each: int, width: int) -> np.ndarray:
    """Of a matrix per warp, what each thread holds: (threads, width), the last width - each entries zero."""
    found = np.zeros((32 * len(matrices), width), matrices.dtype)
    for warp, matrix in enumerate(matrices):
        for lane in range(32):
            for i in range(each):
                found[32 * warp + lane, i] = matrix[place(lane, i)]
    return found


MMA = """
a0, a1, a2, a3 = load_r128(a + t * 16)
b0, b1, _, _ = load_r128(b + t * 16)
d = registers((4,), "f")
for i in range(4):
    d[i] = load_f32(c + t * 16 + i * 4)
d[0], d[1], d[2], d[3] = NAME(a0, a1, a2, a3, b0, b1, d[0], d[1], d[2], d[3])
for i in range(4):
    store_f32_if(True, out + t * 16 + i * 4, d[i])
"""


@pytest.mark.parametrize(("name", "dtype"), [("mma_bf16", BF16), ("mma_f16", F16)])
def test_mma(name: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, shape).astype(dtype) for shape in ((2, 16, 16), (2, 16, 8)))
    c = rng.integers(-99, 99, (2, 16, 8)).astype(np.float32)
    a[0, 3, 5], a[1, 9, 2], b[1, 2, 1], c[0, 4, 4] = np.nan, np.inf, 0, -np.inf
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float32) @ b.astype(np.float32) + c  # whole numbers: exact in any order
    parts = {"a": fragments(a, place_a, 8, 8), "b": fragments(b, place_b, 4, 8), "c": fragments(c, place_c, 4, 4)}
    found = floats(MMA.replace("NAME", name), 4 * N, **parts)
    np.testing.assert_array_equal(found.reshape(N, 4), fragments(expected, place_c, 4, 4))


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed: bool) -> None:
    """Thread 8 m + r points to row r of matrix m, wherever that lies."""
    rng = np.random.default_rng(1)
    memory = rng.integers(-(2**15), 2**15, (128, 8)).astype(np.int16)
    at = rng.permutation(128)[:N].astype(np.int32)
    body = f"""
        for i in range(2):
            w0, w1, w2, w3 = load_r128(memory + (t + i * {N}) * 16)
            store_shared_4(shared() + (t + i * {N}) * 16, w0, w1, w2, w3)
        barrier()
        r0, r1, r2, r3 = ldmatrix{"_t" * transposed}(shared() + load_i32(at + t * 4) * 16)
        store_r128_if(True, out + t * 16, r0, r1, r2, r3)
    """
    found = words(body, 4 * N, memory=memory, at=at).view(np.int16).reshape(N, 4, 2)
    for thread in range(N):
        warp, lane = divmod(thread, 32)
        for m in range(4):
            for e in range(2):
                row, column = lane // 4, 2 * (lane % 4) + e
                if transposed:
                    row, column = column, row
                assert found[thread, m, e] == memory[at[32 * warp + 8 * m + row], column]


@pytest.mark.parametrize(("short", "dtype"), [("bf16", BF16), ("f16", F16)])
def test_pack_rounds_to_nearest_even_and_halves_come_back(short: str, dtype: np.dtype[Any]) -> None:
    x = np.random.default_rng(2).standard_normal(N).astype(np.float32)
    x[:9] = [1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-12, 1 + 3 * 2**-12, np.inf, -np.inf, 65520.0, 3e38, 1e-40]
    x[9] = np.nan
    with np.errstate(over="ignore"):
        rounded = x.astype(dtype).astype(np.float32)
    body = f"""
        p = pack_{short}(load_f32(x + t * 4), load_f32(x + (t ^ 1) * 4))
        store_r_if(True, bits + t * 4, p)
        store_f32_if(True, out + t * 8, low_{short}(p))
        store_f32_if(True, out + t * 8 + 4, high_{short}(p))
    """
    bits = np.zeros(N, np.uint32)
    found = floats(body, 2 * N, x=x, bits=bits).reshape(N, 2)
    np.testing.assert_array_equal(found, np.stack([rounded, rounded[np.arange(N) ^ 1]], axis=1))
    assert bits[9] & 0xFFFF == 0x7FFF
    assert (bits[10:] & 0xFFFF == x[10:].astype(dtype).view(np.uint16)).all()


def test_shuffles_and_votes_stay_in_their_warp() -> None:
    t = np.arange(N)
    for mask in (1, 2, 16, 31):
        found = floats(f"store_f32_if(True, out + t * 4, shuffle_f(cast_float(t * t), {mask}))")
        np.testing.assert_array_equal(found, (t ^ mask) ** 2)
        np.testing.assert_array_equal(words(f"store_r_if(True, out + t * 4, shuffle_r(t - 5, {mask}))"), (t ^ mask) - 5)
    found = words("store_r_if(True, out + t * 4, shuffle_l(t * 2**33, 3) >> 33)")
    np.testing.assert_array_equal(found, t ^ 3)
    found = words("store_r_if(True, out + t * 4, where(vote_any(t == 40), 1, 0))")
    np.testing.assert_array_equal(found, t >= 32)
    found = words("store_r_if(True, out + t * 4, 7 if barrier_or(t == 40) and not barrier_or(t > 63) else 8)")
    np.testing.assert_array_equal(found, np.full(N, 7))


# ---- memory


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("f32", "f4"), ("f16", "f2"), ("bf16", "bfloat16"), ("i64", "i8"), ("i32", "i4"), ("i16", "i2"), ("i8", "i1"), ("u8", "u1"),
     ("f64", "f8")],
)  # fmt: skip
def test_loads_convert(name: str, dtype: str) -> None:
    """From a strided view, backwards: its address is that of its first element."""
    kind = BF16 if dtype == "bfloat16" else np.dtype(dtype)
    base = np.random.default_rng(3).integers(-99, 100, (3, 2 * N)).astype(kind)
    x = base[1, ::-2]
    found = floats(f"store_f32_if(True, out + t * 4, cast_float(load_{name}(x - t * {2 * kind.itemsize})))", x=x)
    np.testing.assert_array_equal(found, x.astype(np.float32))


def test_uniform_loads_may_steer_and_doubles_come_as_words() -> None:
    x = np.array([3, 2**40 + 1], np.int64)
    found = words("""
        for i in range(load_i64(x)):
            store_r_if(t == i, out + t * 4, i + 1)
        if load_i64(x + 8) > 2**40:
            store_r_if(t == 9, out + t * 4, 5)
    """, x=x)  # fmt: skip
    expected = np.full(N, -77)
    expected[:3], expected[9] = [1, 2, 3], 5
    np.testing.assert_array_equal(found, expected)
    numbers = np.array([0.1, -1e300, np.nan])
    source = HEAD + textwrap.dedent("""
        def kernel(out, word):
            store_f32_if(thread() == 0, out, scalar(word))
            store_f32_if(thread() == 1, out + 4, cast_float(as_double(word) * 3.0))
    """)
    for number in numbers:
        out, memory = np.zeros(2, np.float32), Memory()
        launch(source, [memory.address(out), int(number.view(np.int64))], 1, N, 0, memory)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(out, np.array([number, number * 3]).astype(np.float32))


def test_predicated_stores_of_every_width() -> None:
    h, out, wide, double = np.zeros(N, np.int16), np.zeros((N, 4), np.int32), np.zeros(N, np.int64), np.zeros(N)
    run("""
        store_h_if(t < 40, h + t * 2, t * 65536 + t + 1)
        store_r128_if((t & 1) == 1, out + t * 16, t, -t, 7, 2**31 + 5)
        store_l_if(t > 9, wide + t * 8, t * 2**40)
        store_d_if(t > 9, double + t * 8, t / 3)
    """, {"h": h, "out": out, "wide": wide, "double": double})  # fmt: skip
    t = np.arange(N)
    np.testing.assert_array_equal(h, np.where(t < 40, t + 1, 0))
    np.testing.assert_array_equal(wide, np.where(t > 9, t * 2**40, 0))
    np.testing.assert_array_equal(double, np.where(t > 9, t / 3, 0))
    wide = np.stack([t, -t, t * 0 + 7, t * 0 - 2**31 + 5], axis=1)
    np.testing.assert_array_equal(out, np.where((t & 1)[:, None] == 1, wide, 0))


def test_shared_memory_of_every_width() -> None:
    found = words("""
        store_shared_h(shared() + t * 2, 0x10000 * t - t)
        store_shared_f(shared() + 1024 + t * 4, cast_float(t) * fast_rcp(2.0))
        barrier()
        x = load_shared_h(shared() + (63 - t) * 2)
        y = load_shared_f(shared() + 1024 + (63 - t) * 4)
        w0, w1, w2, w3 = load_shared_4(shared() + (t & 7) * 16)
        z = load_shared_r(shared() + (t & 7) * 16 + 12)
        store_r128_if(True, out + t * 16, x, cast_int(y * y * 4.0), w3, z)
    """, 4 * N).reshape(N, 4)  # fmt: skip
    t = np.arange(N)
    halves = ((-t) & 0xFFFF).astype(np.uint16).view(np.int32)
    last = halves[(t & 7) * 4 + 3]
    np.testing.assert_array_equal(found, np.stack([(t - 63) & 0xFFFF, (63 - t) ** 2, last, last], axis=1))


def test_copies_land_group_by_group_and_zeros_need_no_address() -> None:
    x = np.arange(4 * N, dtype=np.int32)
    found = words("""
        copy16(shared() + t * 16, where(t < 10, x + t * 16, 0), where(t < 10, 16, 0))
        copy_commit()
        copy16(shared() + 1024 + t * 16, x + t * 16, 16)
        copy_commit()
        copy_wait(1)
        first = load_shared_r(shared() + t * 16 + 4)
        copy_wait(0)
        w0, w1, w2, second = load_shared_4(shared() + 1024 + t * 16)
        store_r_if(True, out + t * 4, first + 1000 * second)
    """, x=x)  # fmt: skip
    t = np.arange(N)
    np.testing.assert_array_equal(found, np.where(t < 10, 4 * t + 1, 0) + 1000 * (4 * t + 3))


def test_what_is_not_initialised_is_nan() -> None:
    found = floats("""
        a = registers((2, 2), float32)
        a[0, 1] = 2.0
        store_f32_if(t < 32, out + t * 4, a[0, 1] + a[1, 0])
        store_f32_if(t >= 32, out + t * 4, load_shared_f(shared() + t * 4))
        b = registers(3, "r")
        assert b[0] == 0x5A5A5A5A and registers((1,), int64)[0] > 2**40
    """)  # fmt: skip
    assert np.isnan(found).all()
    for decode in ("low_bf16", "high_f16"):
        assert np.isnan(floats(f"store_f32_if(True, out + t * 4, {decode}(load_shared_r(shared() + t * 4)))")).all()


# ---- programs


def test_grids_and_words() -> None:
    out, memory = np.zeros((3, N), np.int32), Memory()
    source = (
        HEAD
        + "def kernel(out, n):\n    store_r_if(True, out + (block() * n + thread()) * 4, blocks() * 10 + block())\n"
    )
    launch(source, [memory.address(out), N], 3, N, 0, memory)
    np.testing.assert_array_equal(out, np.repeat([[30], [31], [32]], N, axis=1))
    with pytest.raises(ValueError, match="whole warps"):
        launch(source, [memory.address(out), N], 3, 48, 0, memory)


def test_views_share_the_addresses_of_their_base() -> None:
    memory, base = Memory(), np.zeros((4, 6, 8), np.float32)
    start = memory.address(base[2:, 1::2, ::-1])
    assert start - memory.address(base) == ((2 * 6 + 1) * 8 + 7) * 4
    assert memory.address(base.T) == memory.address(base) != memory.address(base.copy())
    assert memory.address(base) % 256 == 0 and len(memory.allocations) == 2


def test_modules_of_the_package_run_in_the_emulator_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper.py").write_text(
        textwrap.dedent("""
        from typing import Any

        from attnc.backends.cuda.intrinsics import device, load_i64

        @device("l")
        def total(address: Any, n: Any) -> Any:
            found = load_i64(address)
            for k in range(1, n):
                found = max(found, load_i64(address + k * 8))
            return found
    """)
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    body = """
        from attnc.backends.cuda import helper
        from attnc.backends.cuda.helper import total
        store_r_if(t < 2, out + t * 4, total(x, 5) + helper.total(x + (t & 3) * 8, 1))
    """
    assert words(body, x=np.array([3, 1, 4, 1, 5])).tolist()[:3] == [8, 6, -77]


def test_device_functions_type_their_results() -> None:
    source = HEAD + textwrap.dedent("""
        @device("rf")
        def pair(x, y):
            return x + 2**32, y * 0.1

        @device("")
        def put(out, x):
            store_r_if(True, out + thread() * 4, x)

        def kernel(out):
            x, y = pair(thread(), 7)
            a = registers((2,), "r")
            a[0], a[1] = x, y > 0.69
            put(out, where(eq(add(a[0], 2**31 - 1), -(2**31) + 1), 5, a[0] + a[1]))
            assert y == float32_of_07
    """).replace("float32_of_07", repr(float(np.float32(7 * 0.1))))
    out, memory = np.zeros(N, np.int32), Memory()
    launch(source, [memory.address(out)], 1, N, 0, memory)
    np.testing.assert_array_equal(out, np.where(np.arange(N) == 2, 5, np.arange(N) + 1))
