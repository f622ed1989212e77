"""The emulator's elementwise ops and plain operators: NumPy's numbers, in the types of a compiled kernel."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from attnc.backends.cuda.emulate.elementwise import RULES, fast_ex2, fast_rcp
from attnc.backends.cuda.emulate.faults import Divergence
from attnc.backends.cuda.emulate.values import Value, counters, greatest, least

FLOATS = np.array(
    [0, -0.0, 1, -1, 0.5, -2.5, 3, 7.25, -7.25, 1e-40, 1e30, -1e30, np.inf, -np.inf, np.nan, 88, -88, -104, 1e-3], "f4"
)
INTEGERS = [0, 1, -1, 2, -2, 3, -3, 7, -7, 31, 32, -32, 63, 64, 2**31 - 1, -(2**31)]
X, Y = (np.repeat(FLOATS, len(FLOATS)), np.tile(FLOATS, len(FLOATS)))
TINY = np.finfo(np.float32).tiny


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def call(name: str, *operands: Any) -> np.ndarray:
    """A rule on arrays as values of threads; numbers stay constants."""
    data = RULES[name](*(Value(x) if isinstance(x, np.ndarray) else x for x in operands)).data
    return np.asarray(data)


def integers(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    numbers = INTEGERS + ([] if dtype == "i4" else [2**62, 2**63 - 1, -(2**63)])
    x = np.array(numbers, dtype)
    return np.repeat(x, len(x)), np.tile(x, len(x))


WIDE: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "log1p": np.log1p, "tanh": np.tanh, "sqrt": np.sqrt,
    "sin": np.sin, "cos": np.cos, "floor": np.floor, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "rsqrt": lambda x: 1 / np.sqrt(x), "erf": lambda x: np.array([math.erf(y) for y in x]),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_functions_of_floats_are_the_exact_ones_rounded(name: str) -> None:
    x = FLOATS if name not in ("sin", "cos") else FLOATS[np.abs(FLOATS) < 1e4]
    found, expected = call(name, x), WIDE[name](x.astype(float)).astype(np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    np.testing.assert_array_max_ulp(found[finite], expected[finite], maxulp=4)


def test_weights_are_zero_only_under_a_mask() -> None:
    found = call("weight", FLOATS, 0.0, -1e30)
    masked = np.float32(-1e30) >= FLOATS
    expected = np.where(masked, 0, np.maximum(np.exp2(FLOATS), TINY))
    np.testing.assert_array_max_ulp(found[~np.isnan(FLOATS)], expected[~np.isnan(FLOATS)], maxulp=4)
    assert np.isnan(found[np.isnan(FLOATS)]).all() and (found[masked] == 0).all()
    fast = call("weight_fast", FLOATS, 50.0)
    assert fast[list(FLOATS).index(-88)] == 0 and np.isnan(fast[np.isnan(FLOATS)]).all()
    above = FLOATS > -70
    np.testing.assert_allclose(fast[above], np.exp2(FLOATS[above] - 50), rtol=1e-5)


def test_approximations_flush_to_zero() -> None:
    x = np.array([-126, -126.5, 1e-40, 3, -np.inf, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(fast_ex2(Value(x)).data, np.array([TINY, 0, 1, 8, 0, np.inf, np.nan], np.float32))
    x = np.array([4, 1e-40, -1e-40, 2.0**127, np.inf, -0.0], np.float32)
    np.testing.assert_array_equal(fast_rcp(Value(x)).data, np.array([0.25, np.inf, -np.inf, 0, 0, -np.inf], np.float32))


BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "minimum": np.minimum, "maximum": np.maximum,
    "floordiv": np.floor_divide, "mod": np.mod, "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_pairs_of_numbers(name: str) -> None:
    x, y = (FLOATS.repeat(len(FLOATS)), np.tile(FLOATS, len(FLOATS)))
    pairs = [(x, y), integers("i4"), integers("i8")]
    for x, y in pairs:
        found, expected = call(name, x, y), BINARY[name](x, y)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_ops_of_floats() -> None:
    np.testing.assert_array_equal(call("div", X, Y), X / Y)
    np.testing.assert_array_equal(call("pow", X, Y), np.power(X, Y))
    np.testing.assert_array_equal(call("maximum_fast", X, Y), np.fmax(X, Y))
    np.testing.assert_array_equal(call("fma", X, Y, 1.0), (X.astype(float) * Y + 1).astype(np.float32))
    a = np.array([1 + 2**-12], np.float32)
    assert call("fma", a, a, -1.0) == np.float32(2**-11 + 2**-24)
    for name, rule in (("neg", np.negative), ("abs", np.abs), ("sign", np.sign)):
        for x in (FLOATS, integers("i4")[0], integers("i8")[0]):
            np.testing.assert_array_equal(call(name, x), rule(x))


def test_bits_and_shifts() -> None:
    for dtype, width in (("i4", 32), ("i8", 64)):
        x, y = integers(dtype)
        for name, rule in (("and_", np.bitwise_and), ("or_", np.bitwise_or), ("xor", np.bitwise_xor)):
            np.testing.assert_array_equal(call(name, x, y), rule(x, y))
        np.testing.assert_array_equal(call("not_", x), ~x)
        inside = (y >= 0) & (y < width)
        wrapped = [(int(a) << int(b)) & (2**width - 1) if k else 0 for a, b, k in zip(x, y, inside, strict=True)]
        np.testing.assert_array_equal(call("shl", x, y), np.array(wrapped, "u8").astype(dtype))
        shifted = [int(a) >> (int(b) if k else width) for a, b, k in zip(x, y, inside, strict=True)]
        np.testing.assert_array_equal(call("shr", x, y), np.array(shifted, dtype))
    p, q = np.array([True, True, False, False]), np.array([True, False, True, False])
    for name, expected in (("and_", p & q), ("or_", p | q), ("xor", p ^ q), ("eq", p == q)):
        assert call(name, p, q).dtype == bool
        np.testing.assert_array_equal(call(name, p, q), expected)
    np.testing.assert_array_equal(call("not_", p), ~p)
    np.testing.assert_array_equal(call("add", p, q), [2, 1, 1, 0])


def test_integer_division_and_powers_never_trap() -> None:
    x = np.array([5, -5, -(2**63), 0], np.int64)
    np.testing.assert_array_equal(call("floordiv", x, 0), np.zeros(4))
    np.testing.assert_array_equal(call("mod", x, 0), np.zeros(4))
    np.testing.assert_array_equal(call("floordiv", x, -1), [-5, 5, -(2**63), 0])
    np.testing.assert_array_equal(call("floordiv", x, 3), [1, -2, -3074457345618258603, 0])
    base = np.array([2, 2, -1, -1, 3, 0, 1], np.int64)
    np.testing.assert_array_equal(call("pow", base, np.array([63, -1, -3, -4, 41, -1, -9])), [
        -(2**63), 0, -1, 1, (3**41 + 2**63) % 2**64 - 2**63, 0, 1])  # fmt: skip


def test_types_meet_as_in_compiled_code() -> None:
    narrow, wide, x = np.array([2**31 - 1, 5], "i4"), np.array([1, 2], "i8"), np.array([0.5, 2], "f4")
    p = np.array([True, False])
    found = {
        "add": [(narrow, 1), (narrow, narrow), (narrow, wide), (narrow, 2**31), (narrow, p)],
        "mul": [(narrow, 0.5), (x, 3), (x, wide), (x.astype("f8"), 2.0)],
        "where": [(p, 1, 2), (p, 1.0, 2), (p, narrow, 0), (p, x, 1e300), (p, True, False), (p, x, wide)],
    }
    dtypes = {"add": "i4 i4 i8 i8 i4", "mul": "f4 f4 f4 f4", "where": "i8 f4 i4 f4 ? f4"}
    for name, cases in found.items():
        for operands, dtype in zip(cases, dtypes[name].split(), strict=True):
            assert call(name, *operands).dtype == np.dtype(dtype), (name, operands)
    np.testing.assert_array_equal(call("add", narrow, 1), [-(2**31), 6])
    for name, operands in (
        ("exp", (wide,)),
        ("and_", (x, x)),
        ("shl", (x, 1)),
        ("add", (x,)),
        ("lt", (x, None)),
        ("where", (wide, x, x)),
    ):
        with pytest.raises(TypeError):
            call(name, *operands)


def test_casts() -> None:
    x = np.array([2.7, -2.7, np.nan, np.inf, -1e30, 9.3e18, -(2.0**63)], np.float32)
    np.testing.assert_array_equal(call("cast_int", x), [2, -2, *[-(2**63)] * 5])
    np.testing.assert_array_equal(call("cast_int", np.array([True, False])), [1, 0])
    np.testing.assert_array_equal(call("cast_float", np.array([2**24 + 1, -3])), np.array([2**24, -3], "f4"))
    assert call("resize", np.array([2**32 + 5]), 32).tolist() == [5] and call("resize", np.array([5]), 32).dtype == "i4"
    assert call("resize", np.array([5], "i4"), 64).dtype == np.int64
    with pytest.raises(TypeError):
        call("resize", np.array([5]), 16)


def test_plain_operators_are_typed_as_numba_types_them() -> None:
    r, f, p = Value(np.array([2**31 - 1, -7], "i4")), Value(np.array([0.1, 2], "f4")), Value(np.array([True, False]))
    for value, dtype in (
        (r + 1, "i8"), (r + r, "i8"), (-r, "i8"), (p + p, "i8"), (p & (r > 0), "?"), (p & r, "i8"), (r << 3, "i8"),
        (f * f, "f4"), (f + 1.0, "f8"), (1 - f, "f8"), (f * r, "f8"), (np.float32(2) * f, "f4"), (r / 2, "f8"), (r < 0.5, "?"),
    ):  # fmt: skip
        assert value.data.dtype == np.dtype(dtype)
    for value, expected in (
        (r + 1, [2**31, -6]), (5 - r, [5 - 2**31 + 1, 12]), (r // 4, [2**29 - 1, -2]), (r % 4, [3, 1]), (100 // (r * 0 + 7), [14, 14]),
        (r >> 1, [2**30 - 1, -4]), (~r, [-(2**31), 6]), (r ^ 1, [2**31 - 2, -8]), (abs(r), [2**31 - 1, 7]), (7 & r, [7, 1]),
        (least(r, 3), [3, -7]), (greatest(2, r, 4), [2**31 - 1, 4]), (1 << (r & 1), [2, 2]), (-7 % (r * 0 + 4), [1, 1]),
    ):  # fmt: skip
        assert value.data.tolist() == expected
    word = Value(np.int64(2**63 - 1))
    assert int(word + 1) == -(2**63) and least(4, 3) == 3 and greatest([1, 5]) == 5
    assert [int(k) for k in counters(Value(np.int32(1)), 2000, 999)] == [1, 1000, 1999]


def test_control_flow_needs_one_value() -> None:
    nan = np.full(4, np.nan, np.float32)
    assert Value(np.full(4, 3)) and not Value(nan) < 1 and float(Value(np.full(4, 0.5))) == 0.5
    assert list(range(Value(np.full(4, 3)))) == [0, 1, 2] and math.isnan(float(Value(nan)))
    for data in (np.array([0, 0, 1, 0]), np.array([np.nan, 1, 1, 1]), np.array([1, np.nan, 1, 1])):
        with pytest.raises(Divergence, match=r"in thread 0, .* in [12]"):
            bool(Value(data))
    with pytest.raises(TypeError):
        range(Value(np.full(4, 2.0)))
