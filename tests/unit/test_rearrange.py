"""Rows into lanes and back: every format and width, counts that no block divides, and not a byte beside the arrays."""

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from numba import types

from attnc.backends.cpu import rearrange
from attnc.backends.cpu.machine import FASTMATH, compile_object, load_object
from attnc.backends.cpu.memory import storage
from attnc.backends.cpu.vector import host_width, vec

KINDS = {"float32": types.float32, "float64": types.float64}
FORMATS = ["float16", "bfloat16", "float32", "float64"]
FEATURES = (1, 3, 16, 17, 64, 80)
MOST = 70  # rows


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def compiled(function: Any) -> Any:
    return numba.njit(fastmath=set(FASTMATH))(function)


def numbers(rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    """Float32 numbers, so that no conversion rounds twice, with the special ones among them."""
    x = (rng.normal(size=shape) * 50).astype("float32")
    x.flat[::53], x.flat[1::53], x.flat[2::53] = -np.inf, -0.0, np.nan
    return x.astype(dtype)


def same_bytes(got: np.ndarray, want: np.ndarray) -> None:
    unsigned = f"u{got.dtype.itemsize}"
    nan = np.isnan(want.astype("float64"))
    assert np.isnan(got[nan].astype("float64")).all()
    np.testing.assert_array_equal(got.view(unsigned)[~nan], want.view(unsigned)[~nan])


def inside(buffer: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The middle of a buffer: what lies around it must not change."""
    return buffer[1 : 1 + rows, 3 : 3 + columns]


@pytest.mark.parametrize("width", [None, 8, 4])
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("stored", FORMATS)
def test_rows_become_lanes_and_come_back(stored: str, dtype: str, width: int | None) -> None:
    T, S = KINDS[dtype] if width is None else vec(KINDS[dtype], width), storage(stored)
    size = np.dtype(dtype).itemsize
    pack_rows, unpack_rows = rearrange.pack_rows, rearrange.unpack_rows

    @compiled
    def pack(target: int, pitch: int, source: int, step: int, rows: int, lanes: int, features: int) -> None:
        pack_rows(T, target, pitch, source, step, S, rows, lanes, features)

    @compiled
    def unpack(target: int, step: int, source: int, pitch: int, rows: int, features: int) -> None:
        unpack_rows(T, target, step, S, source, pitch, rows, features)

    rng = np.random.default_rng(6)
    block = width or host_width(size)
    for features in FEATURES:
        user = numbers(rng, (MOST + 2, features + 7), numpy_dtype(stored))
        scratch = numbers(rng, (features + 2, MOST + block + 5), np.dtype(dtype))
        for rows in range(1, MOST + 1):
            source, step = inside(user, rows, features), user.strides[0]
            for lanes in {rows, -(-rows // block) * block}:
                got, want = scratch.copy(), scratch.copy()
                inside(want, features, lanes)[:] = source[np.minimum(np.arange(lanes), rows - 1)].T.astype(dtype)
                target = inside(got, features, lanes)
                pack(target.ctypes.data, got.strides[0], source.ctypes.data, step, rows, lanes, features)
                same_bytes(got, want)
            back, want = user.copy(), user.copy()
            source = inside(scratch, features, rows)
            inside(want, rows, features)[:] = source.T.astype(user.dtype)
            target = inside(back, rows, features)
            unpack(target.ctypes.data, step, source.ctypes.data, scratch.strides[0], rows, features)
            same_bytes(back, want)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("stored", FORMATS)
def test_widened_rows_end_in_zeros(stored: str, dtype: str) -> None:
    size, stored_size, width = np.dtype(dtype).itemsize, numpy_dtype(stored).itemsize, 8
    F, S, widen = vec(KINDS[dtype], width), storage(stored), rearrange.widen

    @compiled
    def run(target: int, pitch: int, source: int, step: int, rows: int, features: int) -> None:
        widen(F, target, pitch, size, source, step, S, stored_size, rows, features, width)

    rng = np.random.default_rng(7)
    for features in FEATURES:
        padded = -(-features // width) * width
        for rows in (1, 5):
            user = numbers(rng, (rows + 2, features + 7), numpy_dtype(stored))
            got = numbers(rng, (rows + 2, padded + 5), np.dtype(dtype))
            want, source = got.copy(), inside(user, rows, features)
            inside(want, rows, padded)[:] = 0
            inside(want, rows, features)[:] = source.astype(dtype)
            target = inside(got, rows, padded)
            run(target.ctypes.data, got.strides[0], source.ctypes.data, user.strides[0], rows, features)
            same_bytes(got, want)


@pytest.mark.parametrize("dtype", KINDS)
def test_fill_clears_whole_vectors_only(dtype: str) -> None:
    width, size = host_width(np.dtype(dtype).itemsize), np.dtype(dtype).itemsize
    F, fill = vec(KINDS[dtype], width), rearrange.fill

    @compiled
    def run(target: int, rows: int, pitch: int, vectors: int) -> None:
        fill(F, target, rows, pitch, vectors, width * size)

    for rows, vectors in ((0, 2), (1, 1), (3, 2), (2, 0)):
        got = numbers(np.random.default_rng(8), (rows + 2, vectors * width + 5), np.dtype(dtype))
        want = got.copy()
        inside(want, rows, vectors * width)[:] = 0
        run(inside(got, rows, 1).ctypes.data, rows, got.strides[0], vectors)
        same_bytes(got, want)


def test_kernels_that_rearrange_are_plain_c_functions() -> None:
    """As kernels call it: the sizes are constants, the counts of rows are not."""
    source = """
from numba.types import float32
from attnc.backends.cpu.memory import storage
from attnc.backends.cpu.rearrange import fill, pack_rows, unpack_rows, widen
from attnc.backends.cpu.vector import vec
F, T, S = vec(float32, 4), float32, storage("bfloat16")
def kernel(args, worker):
    fill(F, args + 4096, 19, 256, 16, 16)
    pack_rows(T, args + 4096, 256, args, 38, S, worker, 64, 19)
    unpack_rows(T, args + 12288, 38, S, args + 4096, 256, worker, 19)
    widen(F, args + 16384, 80, 4, args, 38, S, 2, worker, 19, 4)
"""
    loaded = load_object(compile_object(source, "<rearranged>", "kernel"), "kernel")
    memory = np.zeros(32768, "uint8")
    x = np.random.default_rng(9).normal(size=(37, 19)).astype(ml_dtypes.bfloat16)
    memory[: x.nbytes] = x.view("uint8").ravel()
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address)(memory.ctypes.data, len(x))
    packed = memory[4096 : 4096 + 19 * 256].view("float32").reshape(19, 64)
    np.testing.assert_array_equal(packed, x[np.minimum(np.arange(64), 36)].T.astype("float32"))
    np.testing.assert_array_equal(memory[12288 : 12288 + x.nbytes], memory[: x.nbytes])
    wide = memory[16384 : 16384 + 37 * 80].view("float32").reshape(37, 20)
    np.testing.assert_array_equal(wide, np.pad(x.astype("float32"), ((0, 0), (0, 1))))


# Runs in a process of its own, which a single access outside an array ends: each array touches a forbidden page.
FENCED = """
import ctypes, mmap, sys
from attnc.backends.cpu.machine import load_object

PAGE, PAGES = mmap.PAGESIZE, 8
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def fenced():
    memory = mmap.mmap(-1, (PAGES + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (start, start + (PAGES + 1) * PAGE):
        assert libc.mprotect(fence, PAGE, 0) == 0, ctypes.get_errno()
    return memory, start + PAGE

(keep, user), (too, scratch) = fenced(), fenced()
with open(sys.argv[1], "rb") as file:
    loaded = load_object(file.read(), "kernel")
kernel = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address)
for stored, size in enumerate((2, 2, 4, 8)):
    for rows in (1, 2, 5, 16, 21, 37):
        for features in (1, 3, 7, 16, 17, 35):
            for lanes in (rows, -(-rows // 16) * 16):
                for end in (0, 1):
                    a = user + end * (PAGES * PAGE - rows * features * size)
                    b = scratch + end * (PAGES * PAGE - lanes * features * 4)
                    words = (ctypes.c_int64 * 5)(a, b, rows, lanes, features)
                    kernel(ctypes.addressof(words), stored)
print("inside")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pages are fenced with POSIX calls")
def test_nothing_outside_the_arrays_is_read_or_written(tmp_path: Path) -> None:
    source = """
from numba.types import float32, int64
from attnc.backends.cpu.memory import load, storage
from attnc.backends.cpu.rearrange import pack_rows, unpack_rows
T = float32
"""
    source += "".join(f'AS_{name} = storage("{name}")\n' for name in FORMATS) + "def kernel(args, worker):\n"
    words = ("a", "b", "rows", "lanes", "features")
    source += "".join(f"    {name} = load(int64, args + {8 * k})\n" for k, name in enumerate(words))
    for k, name in enumerate(FORMATS):
        size = numpy_dtype(name).itemsize
        source += f"    if worker == {k}:\n"
        user, scratch = f"a, features * {size}", "b, lanes * 4"
        source += f"        pack_rows(T, {scratch}, {user}, AS_{name}, rows, lanes, features)\n"
        source += f"        unpack_rows(T, {user}, AS_{name}, {scratch}, rows, features)\n"
    (tmp_path / "kernel.o").write_bytes(compile_object(source, "<fenced>", "kernel"))
    command = [sys.executable, "-c", FENCED, str(tmp_path / "kernel.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr


def test_unusable_types_are_refused() -> None:
    pack_rows, S = rearrange.pack_rows, storage("float32")

    def run(T: Any, stored: Any) -> None:
        @numba.njit
        def pack(x: int) -> None:
            pack_rows(T, x, 4, x, 4, stored, 1, 1, 1)

        pack(0)

    with pytest.raises(numba.TypingError, match="float32 or float64"):
        run(types.int64, S)
    with pytest.raises(numba.TypingError, match="power of two"):
        run(vec(types.float32, 3), S)
    with pytest.raises(numba.TypingError, match="not a storage token"):
        run(types.float32, types.float32)
