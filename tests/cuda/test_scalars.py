"""The code of integer division, shifts, conversions and powers means what NumPy means: run on this machine's processor."""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from attnc import interp
from attnc.backends.cuda.scalars import F32, Scalars

I32, I64 = ir.IntType(32), ir.IntType(64)
CTYPES = {str(I32): ctypes.c_int32, str(I64): ctypes.c_int64, str(F32): ctypes.c_float}
LIBDEVICE = {f"__nv_{name}": name for name in ("fmodf", "floorf", "fabsf", "copysignf", "log2", "exp2")}
INTEGERS = [0, 1, -1, 2, -2, 3, -3, 7, -7, 24, 63, 64, -64, 1000003, 2**31 - 1, -(2**31)]
LONG = [*INTEGERS, 2**62, -(2**63), 2**63 - 1, 2**53 + 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, -7.25, 2.0, 1e-40, 1e30, -1e30, 16777217.0, np.inf, -np.inf, np.nan]

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    for symbol, name in LIBDEVICE.items():
        llvm.add_symbol(symbol, ctypes.cast(getattr(libm, name), ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine()
    yield llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def function(engine: Any, kind: Any, arity: int, build: Build, result: Any = None) -> Callable[..., Any]:
    """What `build` makes of operands of one LLVM type, as a Python function."""
    result = result or kind
    module = ir.Module()
    defined = ir.Function(module, ir.FunctionType(result, [kind] * arity), f"f{id(module)}")
    builder = ir.IRBuilder(defined.append_basic_block())
    builder.ret(build(Scalars(builder, kind), *defined.args))
    engine.add_module(llvm.parse_assembly(str(module)))
    engine.finalize_object()
    types = [CTYPES[str(result)], *[CTYPES[str(kind)]] * arity]
    return ctypes.CFUNCTYPE(*types)(engine.get_function_address(defined.name))


def wrapped(value: int, bits: int) -> int:
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def divided(x: int, y: int, bits: int) -> list[int]:
    return [wrapped(x // y, bits), x % y] if y else [0, 0]


@pytest.mark.parametrize("kind", [I32, I64], ids=str)
def test_division(engine: Any, kind: Any) -> None:
    numbers = INTEGERS if kind == I32 else LONG
    found = [function(engine, kind, 2, lambda g, *xs, part=part: g.divmod_int(*xs)[part]) for part in (0, 1)]
    for x, y in itertools.product(numbers, numbers):
        assert [f(x, y) for f in found] == divided(x, y, kind.width), (x, y)


@pytest.mark.parametrize("y", [0, 1, -1, 2, 3, -3, 7, 24, 64, -64, 1000003, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("kind", [I32, I64], ids=str)
def test_division_by_a_constant(engine: Any, kind: Any, y: int) -> None:
    found = [function(engine, kind, 1, lambda g, x, part=part: g.divmod_constant(x, y)[part]) for part in (0, 1)]
    for x in INTEGERS if kind == I32 else LONG:
        assert [f(x) for f in found] == divided(x, y, kind.width), x


@pytest.mark.parametrize("kind", [I32, I64], ids=str)
def test_shifts_signs_and_extremes(engine: Any, kind: Any) -> None:
    bits, numbers = kind.width, INTEGERS if kind == I32 else LONG
    left = function(engine, kind, 2, Scalars.shift_left)
    right = function(engine, kind, 2, Scalars.shift_right)
    least = function(engine, kind, 2, lambda g, x, y: g.extreme_int("<", x, y))
    sign, size = function(engine, kind, 1, Scalars.sign), function(engine, kind, 1, Scalars.abs_int)
    for x, count in itertools.product(numbers, [*numbers, 31, 32]):
        inside = 0 <= count < bits
        assert left(x, count) == (wrapped(x << count, bits) if inside else 0)
        assert right(x, count) == x >> (count if inside else bits - 1)
        assert least(x, count) == min(x, count)
    assert [sign(x) for x in numbers] == [(x > 0) - (x < 0) for x in numbers]
    assert [size(x) for x in numbers] == [wrapped(abs(x), bits) for x in numbers]


def same(found: Sequence[float], wanted: Any) -> None:
    """Equal bit for bit, NaN aside."""
    left, right = np.array(found, np.float32), np.asarray(wanted, np.float32)
    np.testing.assert_array_equal(left, right)
    numbers = ~np.isnan(right)
    np.testing.assert_array_equal(np.signbit(left[numbers]), np.signbit(right[numbers]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_floats(engine: Any) -> None:
    x, y = np.array(list(itertools.product(FLOATS, FLOATS)), np.float32).T
    for part, name in enumerate(("floordiv", "mod")):
        run = function(engine, F32, 2, lambda g, *xs, part=part: g.divmod_float(*xs)[part])
        same([run(a, b) for a, b in zip(x, y, strict=True)], interp.ELEMENTWISE[name](x, y))
    one = np.array(FLOATS, np.float32)
    for build, expected in ((Scalars.neg, -one), (Scalars.sign, np.sign(one))):
        run = function(engine, F32, 1, build)
        np.testing.assert_array_equal(np.array([run(a) for a in one], np.float32), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_powers(engine: Any) -> None:
    """All special cases of the C standard, and random ones correctly rounded but for half a unit."""
    run = function(engine, F32, 2, Scalars.power)
    x, y = np.array(list(itertools.product(FLOATS, FLOATS)), np.float32).T
    same([run(a, b) for a, b in zip(x, y, strict=True)], np.power(x.astype(float), y.astype(float)))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 20, 500).astype(np.float32), rng.uniform(-25, 25, 500).astype(np.float32)
    same([run(a, b) for a, b in zip(x, y, strict=True)], np.power(x.astype(float), y.astype(float)))


def test_truncation(engine: Any) -> None:
    run = function(engine, F32, 1, Scalars.truncated, I64)
    values = [*FLOATS, 2.0**62, 2.0**63, -(2.0**63), -(2.0**64), 9.99, -9.99]
    wanted = [int(v) if np.isfinite(v) and -(2**63) <= v < 2**63 else -(2**63) for v in map(float, np.float32(values))]
    assert [run(v) for v in values] == wanted
