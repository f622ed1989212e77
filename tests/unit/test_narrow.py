"""Masks on 32-bit lanes: division by one number, ranges that always hold, and kernels with scalars at the extremes."""

import functools
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numba import types
from random_masks import BATCH, EXTREMES, HEADS, Maker

import attnc as at
from attnc.backends.cpu import elementwise as ew
from attnc.backends.cpu import memory as mem
from attnc.backends.cpu.vector import vec
from attnc.dsl.trace import trace
from attnc.errors import IndexRangeError
from attnc.interp import Inputs, Interpreter, Value
from attnc.passes.narrow import Narrow
from attnc.passes.small import SMALL
from attnc.runtime.binding import bind

W = 8
INT = {32: types.int32, 64: types.int64}
INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-9, 9))
INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**50) - 9, 2**50 + 9), st.integers(-9, 9))
SHORT = st.one_of(st.integers(-(2**22) + 1, 2**22 - 1), st.integers(-9, 9))


@functools.cache
def dividing(name: str, bits: int, constant: int | None = None) -> Callable[[Any, int], np.ndarray]:
    """x -> x // d or x % d in lanes, d a scalar, or a constant of the code."""
    K, store, load = vec(INT[bits], W), mem.store, mem.load
    space: dict[str, Any] = {"op": getattr(ew, name), "load": load, "store": store, "K": K}
    text = f"op(load(K, x + k), {'d' if constant is None else constant})"
    exec(f"def run(x, o, d, n):\n    for k in range(0, n, {W * bits // 8}):\n        store(o + k, {text})\n", space)
    run = numba.njit(space["run"], fastmath={"contract", "reassoc"})

    def divide(x: Any, d: int) -> np.ndarray:
        lanes = np.resize(np.array(x, f"int{bits}"), -(-len(x) // W) * W)
        out = np.zeros_like(lanes)
        run(lanes.ctypes.data, out.ctypes.data, d, lanes.nbytes)
        return out[: len(x)].astype("int64")

    return divide


def expected(name: str, x: Any, d: int) -> np.ndarray:
    a = np.array(x, "int64")
    with np.errstate(all="ignore"):
        rule = np.floor_divide if "floordiv" in name else np.mod
        return rule(a, d) if d else np.zeros_like(a)


def fits(x: np.ndarray) -> bool:
    return bool((x >= -(2**31)).all() and (x < 2**31).all())


lanes = functools.partial(st.lists, min_size=1, max_size=W)


@pytest.mark.parametrize("name", ["floordiv", "mod"])
@settings(max_examples=1000, deadline=None)
@given(x=lanes(INT64), d=INT64)
def test_64_bits_divided_by_a_scalar(name: str, x: list[int], d: int) -> None:
    near = [x[0] * d + k if abs(x[0] * d) < 2**62 else x[0] for k in (-1, 0, 1)]  # beside a multiple
    for y in (x, near):
        np.testing.assert_array_equal(dividing(name, 64)(y, d), expected(name, y, d))


@pytest.mark.parametrize("name", ["floordiv", "mod"])
@settings(max_examples=1000, deadline=None)
@given(x=lanes(INT32), d=st.one_of(INT32, INT64))
def test_32_bits_divided_by_a_scalar(name: str, x: list[int], d: int) -> None:
    near = [x[0] * d + k if abs(x[0] * d) < 2**31 - 1 else x[0] for k in (-1, 0, 1)]
    for y in (x, near):
        want = expected(name, y, d)
        assume(fits(want))
        np.testing.assert_array_equal(dividing(name, 32)(y, d), want)


@pytest.mark.parametrize("name", ["floordiv_short", "mod_short"])
@settings(max_examples=1000, deadline=None)
@given(x=lanes(SHORT), d=st.one_of(SHORT, INT64))
def test_short_numbers_divided_by_a_scalar(name: str, x: list[int], d: int) -> None:
    if name == "mod_short":
        d = d % 2**22 if d > 0 else -(-d % 2**22)
    near = [x[0] * d + k if abs(x[0] * d) < 2**22 - 1 else x[0] for k in (-1, 0, 1)]
    for y in (x, near):
        np.testing.assert_array_equal(dividing(name, 32)(y, d), expected(name, y, d))


@pytest.mark.parametrize("d", [1, 2, 3, -3, 7, 10, 127, -1000, 2047, 4097, 2**21 - 1, 2**22 - 1])
def test_every_short_number(d: int) -> None:
    """Single precision is just enough: all the dividends, the largest beside a multiple among them."""
    x = np.arange(-(2**22) + 1, 2**22)
    for name in ("floordiv_short", "mod_short"):
        np.testing.assert_array_equal(dividing(name, 32)(x, d), expected(name, x, d))


def test_short_multiples_of_every_small_number() -> None:
    for d in range(-300, 301):
        top = (2**22 - 2) // max(abs(d), 1) * d
        x = np.array([top + k for k in (-1, 0, 1)] + [-top + k for k in (-1, 0, 1)])
        for name in ("floordiv_short", "mod_short"):
            np.testing.assert_array_equal(dividing(name, 32)(x, d), expected(name, x, d))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("d", [0, 1, -1, 2, 64, -64, 3, -7, 2**30, 2**31, 2**40])
def test_division_by_a_constant(bits: int, d: int) -> None:
    x = [0, 1, -1, 63, 64, -64, 2**31 - 1, -(2**31) + 1]
    for name in ("floordiv", "mod"):
        want = expected(name, x, d)
        if bits == 64 or fits(want):
            np.testing.assert_array_equal(dividing(name, bits, d)(x, 0), want)


class Whole(Maker):
    """Random masks of integers, on which float32 and float64 agree."""

    def comparison(self, depth: int) -> str:
        """Two integers compared."""
        sign = self.rng.choice(("<", "<=", "==", "!=", ">"))
        return f"({self.integer(depth)} {sign} {self.pick(self.number, lambda: self.integer(depth - 1))})"


def random_mask(seed: int, q_len: int, kv_len: int, parts: int) -> tuple[at.Attention, dict[str, Any]]:
    """An attention over where an odd number of random masks hold, so that an error in any of them shows."""
    make = Whole(Random(f"narrow:{seed}"), q_len, kv_len)
    text = " ^ ".join(make.mask(2) for _ in range(parts))
    operands = "".join(f", {name}: {annotation}" for name, (annotation, _) in make.operands.items())
    star = ", *" if operands else ""
    source = (
        f"def variant(q, k, v, b, h, i, j{star}{operands}):\n    return at.softmax(at.dot(q, k), where={text}) @ v\n"
    )
    space: dict[str, Any] = {"at": at, "const": lambda x: x}
    exec(source, space)
    return at.attention(space["variant"]), {name: x for name, (_, x) in make.operands.items()}


def with_scalars(operands: dict[str, Any], choose: Callable[[], int]) -> dict[str, Any]:
    """Other integer scalars."""
    return {name: choose() if type(x) is int else x for name, x in operands.items()}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_ranges_hold(seed: int, small: bool) -> None:
    """Every integer of a mask lies in its range, at any place that a call of the kernel may have."""
    rng, longest = np.random.default_rng(seed), SMALL if small else 2**31 - 1
    variant, operands = random_mask(seed, 31, 37, 3)
    edge = (SMALL, -SMALL, 0, 1, -1, 7) if small else EXTREMES
    operands = with_scalars(operands, lambda: int(rng.choice(edge)))
    q, k = np.zeros((BATCH, HEADS, 31, 4)), np.zeros((BATCH, HEADS, 37, 4))
    bound = bind(variant.signature, q, k, k, operands, "bhld")
    kinds, constants = bound.kinds, bound.constants
    graph = trace(variant.function, variant.signature, kinds=kinds, constants=constants, absent=bound.absent)
    dtypes = {name: x.dtype.name for name, x in operands.items() if isinstance(x, np.ndarray)}
    ranges = Narrow(small, bound.features, dtypes)
    bindings = {}
    for x in graph.nodes():
        if x.op == "index":
            ends = [0, 1, longest - 1, longest - 2, longest // 2]
            bindings[x] = Value(np.r_[ends, rng.integers(0, longest, 20), np.arange(2, 12)], (x["name"],))
        elif x.op == "extent" and x["name"] in ("q_len", "kv_len", "group", "batch", "heads"):
            bindings[x] = Value(np.asarray(int(rng.choice([1, longest, 12345]))), ())
    numbers = [x for x in graph.nodes() if x.dtype == "int" and x.axes <= {"b", "h", "i", "j"}]
    run = Interpreter(Inputs(q, k, k, operands, bound.features), np.float64, 0, 31, bindings=bindings)
    for x, found in zip(numbers, run.run(numbers), strict=True):
        low, high = ranges.range(x)
        assert low <= found.data.min() and found.data.max() <= high, f"{x}: {found.data.min()}..{found.data.max()}"


def agree(variant: at.Attention, q_len: int, kv_len: int, operands: dict[str, Any]) -> None:
    """The kernel weighs the keys that the reference weighs, alike."""
    q, k = np.zeros((BATCH, HEADS, q_len, 2), "float32"), np.zeros((BATCH, HEADS, kv_len, 2), "float32")
    eye = np.broadcast_to(np.eye(kv_len, dtype="float32"), (BATCH, HEADS, kv_len, kv_len))
    got, want = variant.weights(q, k, **operands), variant.reference(q, k, eye, **operands)
    np.testing.assert_array_equal(got > 0, want > 0, err_msg=str(operands))
    np.testing.assert_allclose(got, want, atol=1e-6)


def in_range(variant: at.Attention, q_len: int, kv_len: int, operands: dict[str, Any]) -> bool:
    """Whether no table index is proved to be out of range."""
    q, k = np.zeros((BATCH, HEADS, q_len, 2), "float32"), np.zeros((BATCH, HEADS, kv_len, 2), "float32")
    try:
        variant.show("graph", q, k, k, **operands)
    except IndexRangeError:
        return False
    return True


@pytest.mark.parametrize("part", range(3))
def test_kernels_of_random_masks_with_any_scalars(part: int) -> None:
    rng = Random(part)
    q_len, kv_len = ((70, 130), (33, 150), (65, 257))[part]
    programs = (random_mask(1000 * part + n, q_len, kv_len, 3) for n in count())
    variant, operands = next(x for x in programs if in_range(x[0], q_len, kv_len, x[1]))
    for choices in ((SMALL, -SMALL, 0, -1), EXTREMES, (3, 40, *EXTREMES), range(-20, 150)):
        chosen = with_scalars(operands, functools.partial(rng.choice, choices))
        if in_range(variant, q_len, kv_len, chosen):
            agree(variant, q_len, kv_len, chosen)
    agree(variant, q_len, kv_len, operands)


@at.attention
def digits(q, k, v, i, j, *, w: int, r: int, c: int):
    """Divisions of everything by everything, clamps and products of scalars, bits."""
    near = (at.abs(at.clip(i // w, r, w - 1 - r) - j // w) <= r) ^ (at.abs(at.clip(i % w, r, w - 1 - r) - j % w) <= r)
    far = ((i - j) % c == 0) ^ ((i - j) // c < r) ^ ((i + c) % 5 == j % 3) ^ (i * c < j + w) ^ (i - j + r <= w * c)
    bits = ((i ^ j) & r == (j >> 2)) ^ ((i << 3) // w == (j | c)) ^ (at.minimum(i, c) < at.maximum(j, r))
    return at.softmax(at.dot(q, k), where=near ^ far ^ bits ^ (c <= i) ^ (j == r) ^ (j // 7 % 3 == (i - w) % 4)) @ v


def test_scalars_at_the_extremes() -> None:
    values = (3, 0, -1, 1, 64, SMALL, -SMALL, SMALL + 1, 2**30, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63))
    rng = Random(1)
    for first in values:
        for _ in range(3):
            chosen = [first, rng.choice(values), rng.choice(values)]
            rng.shuffle(chosen)
            agree(digits, 50, 140, dict(zip("wrc", chosen, strict=True)))


def link(near, far, h, i, j, c):
    """Rows that are compared only, others that are computed with."""
    return (near[i] == j // c) ^ (at.abs(near[i] - j) <= c) ^ (far[h, i // c] < j // c) ^ (far[h, j % 5] * 2 == i)


@at.attention
def tables(
    q, k, v, h, i, j, *, a: at.Tensor["i", int], b8: at.Tensor["h", "n", int], c32: at.Tensor["i", int],
    d64: at.Tensor["h", "m", int], on: at.Tensor["j", bool], c: int
):  # fmt: skip
    """Tables of several widths, and keys that a table decides."""
    odd = link(a, b8, h, i, j, c) ^ link(c32, d64, h, i, j, c)
    return at.softmax(at.dot(q, k), where=on[j] & odd) @ v


def test_tables_of_several_widths() -> None:
    rng = np.random.default_rng(3)

    def entries(dtype: str, *shape: int) -> np.ndarray:
        limit = np.iinfo(dtype)
        values = np.array([limit.min, limit.max, limit.min + 1, limit.max - 1, 0, 1, 2, 3, 5, 8], dtype)
        return np.where(rng.random(shape) < 0.3, rng.choice(values, shape), rng.integers(0, 20, shape).astype(dtype))

    for c in (1, 7, 64, 2**40, -3):
        narrow = {"a": entries("uint8", 90), "b8": entries("int8", HEADS, 16)}
        wide = {"c32": entries("int32", 90), "d64": entries("int64", HEADS, 16)}
        agree(tables, 90, 141, {**narrow, **wide, "on": rng.random(141) < 0.6, "c": c})


@at.attention
def at_the_end(q, k, v, i, j, *, c: int):
    """The last keys of a long sequence, by digits of large numbers."""
    p = i + at.kv_len - at.q_len
    digit = ((p - j) % c == 0) ^ ((p + j) % 7 == 3) ^ ((13 * j + p) // 5 % 11 < 4) ^ ((j - 2 * p) // c % 2 == 0)
    return at.softmax(at.dot(q, k), where=digit & (p - j < 300)) @ v


@pytest.mark.parametrize("kv_len", [SMALL, SMALL + 1])
def test_the_longest_sequence_of_a_small_call_and_one_more(kv_len: int) -> None:
    rng = np.random.default_rng(0)
    k = np.zeros((kv_len, 2), "float32")
    v = rng.standard_normal((kv_len, 2)).astype("float32")
    for c in (3, 5, -64):
        source = at_the_end.source(k[:3], k, v, c=c)
        assert ("mod_short" in source) == (kv_len <= SMALL)
        np.testing.assert_allclose(at_the_end(k[:3], k, v, c=c), at_the_end.reference(k[:3], k, v, c=c), atol=1e-5)


def test_what_keys_decide_is_computed_once_per_key_and_saves_the_lanes() -> None:
    from attnc.variants import bigbird, causal

    x = np.zeros((1, 1, 256, 8), "float32")
    source = bigbird.source(x, x, x, random=np.zeros((1, 8, 3), "int64"))
    lanes_of_keys = source[source.rindex("iota(J, j0") :].split("for jj in range(nj)")
    assert "floordiv_short(j" in lanes_of_keys[0]  # with keys in the lanes
    assert "minimum(iota(J, j0" in source and "j0 + nj - 1)" in lanes_of_keys[0]  # that read nothing after the last key
    assert "floordiv" not in lanes_of_keys[1]
    assert "mask = splat(B, True)" in lanes_of_keys[1]  # the first blocks are linked to all
    assert "saturate" in source and "load(I, r" not in source  # blocks that are only compared, of int64
    assert "mask = " not in causal.source(x, x, x)  # one comparison is cheaper than a branch
