"""Least and greatest entries of tables in compiled code, and the boxes of a range, against NumPy and plain Python."""

import ctypes
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from attnc.backends.cpu.machine import compile_object, load_object
from attnc.backends.launch import summary_words

WORDS = ("table", "s0", "s1", "n0", "n1", "room", "count", "queries", "found")
SOURCE = """
from numba.types import float32, float64, int64
from attnc.backends.cpu.memory import load, storage, store
from attnc.backends.cpu.summary import (
    greatest_{number}, greatest_{number}_rows, least_{number}, least_{number}_rows, summarise_{number}
)
from attnc.backends.cpu.vector import vec

KIND, AS = vec({kind}, {width}), storage("{stored}")


def kernel(args, worker):
    {words} = {loads}
    along = table, s1, n1, room
    if worker < 0:
        for row in range(n0):
            summarise_{number}(KIND, AS, along, row * s0, row)
        return
    for k in range(count):
        at = queries + k * 32
        top, bottom, low, high = load(int64, at), load(int64, at + 8), load(int64, at + 16), load(int64, at + 24)
        row = min(max(top, 0), n0 - 1)
        store(found + k * 32, least_{number}(KIND, AS, along, row * s0, row, low, high))
        store(found + k * 32 + 8, greatest_{number}(KIND, AS, along, row * s0, row, low, high))
        store(found + k * 32 + 16, least_{number}_rows(KIND, AS, along, 0, 0, s0, 1, n0, 8, top, bottom, low, high))
        store(found + k * 32 + 24, greatest_{number}_rows(KIND, AS, along, 0, 0, s0, 1, n0, 8, top, bottom, low, high))
"""
BOXES = """
from numba.types import int64
from attnc.backends.cpu.boxes import box_last
from attnc.backends.cpu.memory import load, store


def kernel(args, worker):
    first, last, shift, small, large = {loads}
    store(args + 40, box_last(first, last, shift, (small, large), 0))
    store(args + 48, box_last(first, last, shift, (4, 24), 0))
    store(args + 56, box_last(first, last, shift, (4, large), 0))
    store(args + 64, box_last(first, last, 0, (24,), 0))
    store(args + 72, box_last(first, last, shift, (small, large), 8))
"""


def compiled(source: str) -> tuple[Any, Any]:
    """A C function of (args, worker), and what keeps it alive."""
    loaded = load_object(compile_object(source, "test_summary_kernel.py", "kernel"), "kernel")
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address), loaded


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def expected(x: np.ndarray, top: int, bottom: int, low: int, high: int) -> list[Any]:
    """(least, greatest) of the box, with the ends clamped, and NaN as the worst of all."""
    top, low = (min(max(end, 0), n - 1) for end, n in zip((top, low), x.shape, strict=True))
    bottom, high = max(min(bottom, x.shape[0] - 1), top), max(min(high, x.shape[1] - 1), low)
    box = x[top : bottom + 1, low : high + 1]
    if box.dtype.kind == "f" and np.isnan(box).any():
        return [-np.inf, np.inf]
    return [box.min(), box.max()]


def unknown(number: str) -> list[Any]:
    return [-np.inf, np.inf] if number == "float" else [-(2**63), 2**63 - 1]


def queries(rng: np.random.Generator, n0: int, n1: int) -> np.ndarray:
    """Boxes (top, bottom, low, high): all ends near wraps of blocks, backwards, beyond the table, and random ones."""
    edges = [-(2**63), -1, 0, 1, 63, 64, 65, 127, n1 - 1, n1, 2**63 - 1]
    ends = np.array(list(itertools.product(edges, edges)))
    ends = np.concatenate([ends, np.sort(rng.integers(0, n1, (60, 2)))])
    sides = rng.integers(-2, n0 + 2, (len(ends), 2))
    sides[::3, 1] = sides[::3, 0] + rng.integers(0, 8, len(sides[::3]))
    return np.concatenate([sides, ends], axis=1)


def table(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, int]) -> np.ndarray:
    if dtype.kind == "b":
        return rng.random(shape) < rng.choice([0.01, 0.5, 0.99])
    if dtype.kind in "iu":
        limit = np.iinfo(dtype)
        return rng.integers(limit.min, limit.max, shape, dtype, endpoint=True)
    x = rng.standard_normal(shape)
    x[rng.random(shape) < 0.01] = rng.choice([np.nan, np.inf, -np.inf])
    return x.astype(dtype)


LAYOUTS = {
    "plain": lambda x: np.ascontiguousarray(x),
    "backwards": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "rows backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every third": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "columns": np.asfortranarray,
}
STORED = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("stored", [*STORED, "float64 as float32"])
def test_extremes_of_tables(stored: str) -> None:
    stored, _, kind = stored.partition(" as ")
    dtype = numpy_dtype(stored)
    number = "int" if dtype.kind in "biu" else "float"
    kind = kind or ("int64" if number == "int" else "float64" if stored == "float64" else "float32")
    loads = ", ".join(f"load(int64, args + {8 * n})" for n in range(len(WORDS)))
    names = {"number": number, "kind": kind, "width": 8, "stored": stored, "words": ", ".join(WORDS), "loads": loads}
    kernel, keep = compiled(SOURCE.format(**names))
    rng = np.random.default_rng(len(stored))
    for (n0, n1), name in itertools.product([(1, 1), (1, 63), (3, 64), (11, 65), (2, 200), (9, 1000)], LAYOUTS):
        x = LAYOUTS[name](table(rng, dtype, (n0, n1)))
        room = np.full(summary_words(x.shape, 1) + 1, 12345, np.int64)
        asked = queries(rng, n0, n1)
        found = np.zeros((len(asked), 4), np.int64 if number == "int" else np.float64)
        strides = [s // x.itemsize if n > 1 else 0 for s, n in zip(x.strides, x.shape, strict=True)]
        words = [x.__array_interface__["data"][0], *strides, n0, n1, room.ctypes.data, len(asked)]
        block = np.array([*words, asked.ctypes.data, found.ctypes.data])
        for worker in (-1, 0):
            kernel(block.ctypes.data, worker)
        assert room[-1] == 12345
        seen = x.astype({"int64": np.int64, "float64": np.float64, "float32": np.float32}[kind])
        for (top, bottom, low, high), got in zip(asked, found, strict=True):
            row = min(max(top, 0), n0 - 1)
            long = min(max(bottom, 0), n0 - 1) - row >= 8
            one = expected(seen, top, row, low, high)
            many = unknown(number) if long else expected(seen, top, bottom, low, high)
            assert [*one, *many] == list(got), f"{name} {x.shape}: [{top}..{bottom}, {low}..{high}]"
    del keep


def first_box(first: int, last: int, shift: int, radices: tuple[int, ...]) -> int:
    """The last index of the first box, as `attnc.passes.cuts` says it."""
    x, end = first + shift, last + shift
    for radix in reversed(radices):
        radix = max(radix, 1)
        if x % radix == 0 and x + radix - 1 <= end:
            return (end + 1) // radix * radix - 1 - shift
        end = min(end, x // radix * radix + radix - 1)
    return end - shift


def first_of_few(first: int, last: int, shift: int, radices: Sequence[int]) -> int:
    """The same where up to 8 units of the narrowest radix are boxes of their own."""
    end, unit = first_box(first, last, shift, radices), max(radices[0], 1)
    single = (first + shift) % unit == 0 and 1 <= (end - first + 1) // unit <= 8
    return first + unit - 1 if single else end


@pytest.fixture(scope="module")
def box_last() -> Iterator[Callable[..., list[int]]]:
    """(first, last, shift, small, large) -> the first box's last index, for the radices of BOXES."""
    kernel, keep = compiled(BOXES.format(loads=", ".join(f"load(int64, args + {8 * n})" for n in range(5))))

    def call(*numbers: int) -> list[int]:
        block = np.array([*numbers, 0, 0, 0, 0, 0])
        kernel(block.ctypes.data, 0)
        return [int(x) for x in block[5:]]

    yield call
    del keep


def test_boxes_of_a_range(box_last: Callable[..., list[int]]) -> None:
    rng = np.random.default_rng(0)

    def boxes(first: int, last: int, shift: int, small: int, large: int, which: int) -> list[tuple[int, int]]:
        found = []
        while first <= last:
            end = box_last(first, last, shift, small, large)[which]
            assert first <= end <= last
            radices = ((small, large), (4, 24), (4, large), (24,), (small, large))[which]
            rule = first_of_few if which == 4 else first_box
            assert end == rule(first, last, 0 if which == 3 else shift, radices)
            found.append((first, end))
            first = end + 1
        return found

    for _ in range(300):
        first, shift, small = int(rng.integers(0, 100)), int(rng.integers(-90, 90)), int(rng.integers(-1, 7))
        last, large = first + int(rng.integers(0, 200)), max(small, 1) * int(rng.integers(1, 9))
        for which in range(5):
            found = boxes(first, last, shift, small, large, which)
            assert [x for a, b in found for x in range(a, b + 1)] == list(range(first, last + 1))
        nested = boxes(first, last, shift, small, large, 0)
        assert len(nested) <= 5
        for a, b in nested:  # both digits are intervals that are independent of each other and of the quotient
            x = np.arange(a, b + 1) + shift
            digits = {(d // large, d % large // max(small, 1), d % max(small, 1)) for d in map(int, x)}
            sides = [len(set(side)) for side in zip(*digits, strict=True)]
            assert len(digits) == np.prod(sides)


@pytest.mark.parametrize("shift", [2**63 - 2, -(2**63), 2**62])
@pytest.mark.parametrize("radix", [2**63 - 1, 2**62, -(2**63)])
def test_boxes_end_whatever_overflows(shift: int, radix: int, box_last: Callable[..., list[int]]) -> None:
    first, count = 0, 0
    while first <= 70:
        end = box_last(first, 70, shift, 8, radix)[0]
        assert first <= end <= 70
        first, count = end + 1, count + 1
    assert count <= 71
