"""The elementary functions in SIMD: their errors are those that docs/functions.md states, at every kind of float."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numba
import numpy as np
import pytest
import scipy.special
from hypothesis import example, given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.backends.cpu import elementwise as ew
from attnc.backends.cpu import memory, objects
from attnc.backends.cpu.machine import FASTMATH, compile_object
from attnc.backends.cpu.slow_lanes import LONG_QUOTIENT, SLOW_OPS, slow_lanes
from attnc.backends.cpu.vector import vec
from attnc.interp import ELEMENTWISE
from attnc.schedule.target import Target, host

PAGE = Path(__file__).resolve().parents[2] / "docs" / "functions.md"
ROW = re.compile(r"^\| `(\w+)` \|.*\| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)
BOUNDS = {
    name: {"float32": float(short), "float64": float(long)} for name, short, long in ROW.findall(PAGE.read_text())
}
KINDS = {"float32": numba.types.float32, "float64": numba.types.float64}
EXACT = ("neg", "abs", "sign", "floor")
LIMITS = {"float32": (-1.5e2, 128), "float64": (-1.08e3, 1024)}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 2, 3, -3, 1e-45, -1e-45, 1.17549435e-38, 1e-310, 3.4e38, -3.4e38,
         1 + 2**-23, 1 - 2**-24, 0.7071068, 1.4142135, 88.72, 89, -103.9, -104, 2**20, 2**24, 1e15, 1e300, -1e300]  # fmt: skip


def compiled(name: str, dtype: str, arity: int = 1) -> Callable[..., np.ndarray]:
    """The op on arrays whose length 16 divides, as kernels are compiled."""
    size, width = np.dtype(dtype).itemsize, 16
    space: dict[str, Any] = {"op": getattr(ew, name), "K": vec(KINDS[dtype], width), **vars(memory)}
    heads = ", ".join(f"a{k}" for k in range(arity))
    loads = ", ".join(f"load(K, a{k} + i * {size})" for k in range(arity))
    body = f"def run({heads}, o, n):\n    for i in range(0, n, {width}):\n        store(o + i * {size}, op({loads}))\n"
    exec(body, space)
    run = numba.njit(space["run"], fastmath=set(FASTMATH))

    def call(*arrays: np.ndarray) -> np.ndarray:
        n = len(arrays[0])
        padded = [np.resize(a, -(-n // width) * width) for a in arrays]
        out = np.empty_like(padded[0])
        run(*(a.ctypes.data for a in padded), out.ctypes.data, len(out))
        return out[:n]

    return call


def ulp(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error in units in the last place; infinite where one is not finite and the other differs."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        error = np.abs(got.astype(want.dtype) - want) / np.spacing(np.abs(rounded)).astype(want.dtype)
        agree = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return float(np.where(np.isfinite(got) & np.isfinite(rounded), error, np.where(agree, 0, np.inf)).max())


def wide(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The interpreter's rule, in float64."""
    return scipy.special.erf if name == "erf" else ELEMENTWISE[name]  # the interpreter's erf is not vectorised


FUNCTIONS = sorted(set(BOUNDS) - {"pow", "mod", "floordiv"})


def test_the_page_states_every_function() -> None:
    floats = {"exp", "exp2", "log", "log2", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "sin", "cos", "pow"}
    assert set(BOUNDS) == floats
    assert all(limit <= 2 for row in BOUNDS.values() for limit in row.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_at_every_kind_of_float(name: str) -> None:
    """Every 4999th of all 2**32 floats: all exponents, subnormal numbers, NaN; and the edges."""
    bits = np.arange(0, 2**32, 4999, dtype=np.uint64).astype(np.uint32)
    with np.errstate(all="ignore"):
        x = np.concatenate([np.array(EDGES).astype("float32"), bits.view("float32")])
        want = wide(name)(x.astype(np.float64))
    got = compiled(name, "float32")(x)
    assert ulp(got, want) <= BOUNDS[name]["float32"]
    zero = np.isin(got, 0) & (x == 0)
    assert (np.signbit(got[zero]) == np.signbit(x[zero])).all()


PRECISE: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp, "exp2": lambda x: mpmath.mpf(2) ** x, "log": mpmath.log, "log2": lambda x: mpmath.log(x, 2),
    "log1p": mpmath.log1p, "tanh": mpmath.tanh, "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)), "erf": mpmath.erf,
    "sqrt": mpmath.sqrt, "rsqrt": lambda x: 1 / mpmath.sqrt(x), "sin": mpmath.sin, "cos": mpmath.cos,
}  # fmt: skip


def samples(name: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Finite float64 arguments inside the function's domain, many where it is hard."""
    anything = rng.integers(0, 2**64, n, dtype=np.uint64).view(np.float64)
    sizes = np.exp2(rng.uniform(-70, 9.4, n)) * rng.choice([-1, 1], n)
    x = np.concatenate([anything[np.isfinite(anything)], sizes, rng.uniform(-6, 6, n), 1 + sizes[np.abs(sizes) < 0.5]])
    match name:
        case "exp" | "exp2" | "sigmoid":
            return x.clip(-745 if name != "exp2" else -1074, 709)
        case "log" | "log2" | "sqrt" | "rsqrt":
            return np.abs(x)
        case "log1p":
            return x[x > -1]
        case "sin" | "cos":  # beside multiples of pi / 2, where little is left of the angle
            hardest = 6381956970095103 * 2.0**797  # the float64 that is closest to such a multiple
            return np.concatenate([x, rng.integers(1, 2**36, n) * (np.pi / 2), [hardest, -hardest]])
        case _:
            return x.clip(-40, 40)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_against_more_digits(name: str) -> None:
    x = samples(name, np.random.default_rng(0), 600)
    got = compiled(name, "float64")(x)
    with mpmath.workdps(40):
        exact = [PRECISE[name](mpmath.mpf(a)) for a in x.tolist()]
        errors = [
            abs(mpmath.mpf(g) - w) / float(np.spacing(abs(float(w)))) for g, w in zip(got.tolist(), exact, strict=True)
        ]
        assert max(errors) <= BOUNDS[name]["float64"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_at_the_edges(name: str) -> None:
    x = np.array(EDGES)
    with np.errstate(all="ignore"):
        want = wide(name)(x)
    got = compiled(name, "float64")(x)
    assert ulp(got, want) <= 3  # NumPy's own error is in this
    zero = (got == 0) & (x == 0)
    assert (np.signbit(got[zero]) == np.signbit(x[zero])).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pow(dtype: str) -> None:
    """All pairs of edges as numpy.power, signs of zeros included; and powers over the whole range of the type."""
    pow_ = compiled("pow", dtype, 2)
    with np.errstate(all="ignore"):
        values = np.array([*EDGES, -2, 7, 8, -7, 2**24 + 2, 2**25 + 1, 2**53, 1 / 3, -1 / 3]).astype(dtype)
        x, y = np.repeat(values, len(values)), np.tile(values, len(values))
        got, want = pow_(x, y), np.power(x, y)
        assert ulp(got, want) <= 2
        assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()
        rng = np.random.default_rng(0)
        n = 400_000 if dtype == "float32" else 3000
        low, high = LIMITS[dtype]
        close = 1 + np.exp2(rng.uniform(-22 if dtype == "float32" else -50, -1, n)) * rng.choice([-1, 1], n)
        x = np.concatenate([np.exp2(rng.uniform(low, high, n)), close]).astype(dtype)
        x[(x <= 0) | (x == 1) | ~np.isfinite(x)] = 3
        y = (rng.uniform(low, high, 2 * n) / np.log2(x.astype(np.float64))).astype(dtype)
        got = pow_(x, y)
    if dtype == "float32":
        assert ulp(got, np.power(x.astype(np.float64), y.astype(np.float64))) <= BOUNDS["pow"][dtype]
        return
    with mpmath.workdps(40):
        for a, b, found in zip(x.tolist(), y.tolist(), got.tolist(), strict=True):
            power = mpmath.mpf(a) ** mpmath.mpf(b)
            if np.isfinite(float(power)):
                assert abs(mpmath.mpf(found) - power) <= BOUNDS["pow"][dtype] * float(np.spacing(float(power)))
            else:
                assert found == np.inf


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@pytest.fixture(scope="module")
def divisions() -> dict[str, Callable[..., np.ndarray]]:
    return {f"{name} {dtype}": compiled(name, dtype, 2) for name in ("mod", "floordiv") for dtype in KINDS}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=16))
@example([(1e38, 1e-45), (-1e38, 3e-39), (7.0, np.inf), (-7.0, np.inf), (np.inf, 2.0), (5.0, 0.0), (-0.0, 3.0)])
@example([(8388609.0, 2.0), (3.0 * 2**22, 0.75), (1.0, 0.1), (-1.0, 0.1), (2.0**60, 3.0)])
def test_remainders_of_floats_are_exact(divisions: Any, pairs: list[tuple[float, float]]) -> None:
    for dtype in KINDS:
        x, y = np.array(pairs).astype(dtype).T.copy()
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(divisions[f"mod {dtype}"](x, y), np.mod(x, y))
            np.testing.assert_array_equal(divisions[f"floordiv {dtype}"](x, y), np.floor_divide(x, y))


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="reads ELF objects")
@pytest.mark.skipif(host() == Target(16, 16), reason="no fused multiply-add: another note of the plan")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_calls_the_c_library_is_what_the_plan_says(dtype: str) -> None:
    """An object calls out where something is computed lane by lane. `explain` names these ops, and no others may be so."""
    names = [*BOUNDS, *EXACT, "mod", "floordiv", "weight"]
    arity = {"pow": 2, "mod": 2, "floordiv": 2, "weight": 3}
    calls = "".join(
        f"def {name}_kernel(args, worker):\n"
        f"    store(args, {name}({', '.join(f'load(F, args + {64 * k})' for k in range(arity.get(name, 1)))}))\n"
        for name in names
    )
    head = f"from numba import types\nfrom attnc.backends.cpu.elementwise import {', '.join(names)}\n"
    head += f"from attnc.backends.cpu.memory import load, store\nfrom attnc.backends.cpu.vector import vec\nF = vec(types.{dtype}, 8)\n"
    for name in names:
        parts = objects.split(compile_object(head + calls, f"<{name}>", f"{name}_kernel"))
        found = set().union(*(objects.symbols(part)[1] for part in parts)) - {"_GLOBAL_OFFSET_TABLE_"}
        assert found == ({SLOW_OPS[name] + ("f" if dtype == "float32" else "")} if name in SLOW_OPS else set()), name


def test_the_plan_names_slow_lanes() -> None:
    @at.attention
    def wrapped(q, k, v):
        return at.softmax(at.dot(q, k) % 1.5) @ v

    x = np.zeros((1, 1, 4, 8), "float32")
    slow = f"where a quotient of a vector reaches 2**{int(np.log2(LONG_QUOTIENT[32]))}, the C library's fmod is called"
    assert slow in wrapped.explain(x, x, x)

    @at.attention
    def smooth(q, k, v):
        return at.softmax(at.sin(at.dot(q, k)) + at.erf(at.dot(q, k))) @ v

    assert ("C library" in smooth.explain(x, x, x)) == (host() == Target(16, 16))
    assert any("no fused multiply-add" in note for note in slow_lanes(smooth.graph, 32, Target(16, 16)))
