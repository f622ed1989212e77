"""The ops of the graph on values of threads: the reference interpreter's functions, in the types of the kernel.

Constants of Python are weak: they take the type of what they meet. Booleans count as integers where an op has no booleans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attnc import interp
from attnc.backends.cuda.emulate.values import INT64, LETTERS, Data, Value, convert, operand, select

BOOL, INT32, FLOAT32, FLOAT64 = (LETTERS[letter] for letter in "prfd")
_RANK = (BOOL, INT32, INT64, FLOAT32)
_KINDS = "bif"
_TINY = np.finfo(np.float32).tiny
LEAST = np.int64(-(2**63))

Rule = Callable[..., Any]


def _weak(x: Any) -> bool:
    return isinstance(x, bool | int | float) and not isinstance(x, np.generic)


def _dtype(x: Any) -> np.dtype[Any]:
    data = operand(x)
    if data is None:
        raise TypeError(f"{type(x).__name__} is no number")
    found: np.dtype[Any] = data.dtype
    return found if found in _RANK else FLOAT32 if found.kind == "f" else INT64


def common(operands: tuple[Any, ...]) -> np.dtype[Any]:
    """The type in which an op happens: float32 for floats, int64 unless all are int32 or constants that fit it, or bool."""
    strong = [_dtype(x) for x in operands if not _weak(x)]
    weak = [x for x in operands if _weak(x)]
    chosen = max(strong or map(_dtype, weak), key=_RANK.index)
    for x in weak:
        if _KINDS.index(_dtype(x).kind) > _KINDS.index(chosen.kind):
            chosen = _dtype(x)
        elif chosen == INT32 and not -(2**31) <= x < 2**31:
            chosen = INT64
    return chosen


def _alike(operands: tuple[Any, ...]) -> np.dtype[Any] | None:
    """The type of operands that are Values of one type, and perhaps constants of Python that take it; None for others."""
    dtype: np.dtype[Any] | None = None
    for x in operands:
        if type(x) is Value:
            if dtype is None:
                dtype = x.data.dtype
            elif x.data.dtype is not dtype:
                return None
    if dtype not in _RANK:
        return None
    for x in operands:
        if type(x) is not Value:
            whole = type(x) is int
            fits = dtype is INT64 or dtype is FLOAT32 or (dtype is INT32 and -(2**31) <= x < 2**31)
            if not (whole and fits) and not (type(x) is float and dtype is FLOAT32):
                return None
    return dtype


def _values(operands: tuple[Any, ...], kinds: str, name: str) -> tuple[list[Data], np.dtype[Any]]:
    dtype = _alike(operands)
    if dtype is not None and dtype.kind in kinds:  # most often, so this need not ask each for its type
        return [x.data if type(x) is Value else operand(x).astype(dtype) for x in operands], dtype
    dtype = common(operands)
    if dtype == BOOL and "b" not in kinds:
        dtype = INT64
    if dtype.kind not in kinds:
        raise TypeError(f"{name} is not defined on {dtype}")
    return [operand(x).astype(dtype, copy=False) for x in operands], dtype


def _op(name: str, arity: int, kinds: str, function: Rule, compares: bool = False) -> Rule:
    """A rule: `function` on NumPy data of one type, that gives the same type or, where it compares, booleans."""

    def rule(*operands: Any) -> Value:
        if len(operands) != arity:
            raise TypeError(f"{name} takes {arity} operands, not {len(operands)}")
        data, dtype = _values(operands, kinds, name)
        result = function(*data)
        if not compares and (result.dtype is not dtype or (type(result) is np.ndarray and not result.ndim)):
            result = np.asarray(result).astype(dtype, copy=False)[()]
        return Value(result)

    return rule


def _pow(x: Data, y: Data) -> Data:
    """Of integers modulo 2**64; below zero the quotient 1 / x**-y, truncated."""
    if x.dtype.kind == "f":
        return np.power(x, y)
    power = np.power(x, np.maximum(y, 0))
    inverse = np.where(np.abs(x) == 1, np.where(y & 1, x, 1), 0)
    return np.where(y < 0, inverse, power)


def _fma(x: Data, y: Data, z: Data) -> Data:
    # Products of float32 are exact in float64.
    return x.astype(FLOAT64) * y.astype(FLOAT64) + z


def _where(mask: Any, x: Any, y: Any) -> Value:
    data, _ = _values((x, y), "bif", "where")
    return Value(select(convert(mask, "p"), *data))


def _cast_float(x: Any) -> Value:
    return Value(operand(x).astype(FLOAT32))


def _cast_int(x: Any) -> Value:
    """Towards zero; what no int64 holds, and NaN, is the least one."""
    data = operand(x)
    if data.dtype.kind != "f":
        return Value(data.astype(INT64))
    inside = (data >= -(2.0**63)) & (data < 2.0**63)
    return Value(select(inside, np.where(inside, data, 0).astype(INT64), LEAST))


def _resize(x: Any, bits: int) -> Value:
    """An integer or boolean as one of 32 or 64 bits; what does not fit wraps."""
    data, dtype = operand(x), {32: INT32, 64: INT64}.get(bits)
    if dtype is None or data.dtype.kind == "f":
        raise TypeError(f"resize of {data.dtype} to {bits} bits: integers have 32 or 64")
    return Value(data.astype(dtype))


def _flush(x: Data) -> Data:
    return select(np.abs(x) < _TINY, np.copysign(np.float32(0), x), x)


def fast_ex2(x: Any) -> Value:
    """ex2.approx.ftz: 2**x, where numbers below the least normal one count as 0."""
    return Value(_flush(np.exp2(_flush(convert(x, "f")))))


def fast_rcp(x: Any) -> Value:
    """rcp.approx.ftz: 1 / x, where numbers below the least normal one count as 0."""
    return Value(_flush(np.float32(1) / _flush(convert(x, "f"))))


def _weight_fast(x: Any, r: Any) -> Value:
    return fast_ex2(Value(convert(x, "f") - convert(r, "f")))


_REFERENCE: tuple[tuple[str, int, str, bool], ...] = (  # names, operands, kinds, whether the result is a boolean
    ("exp exp2 log log2 log1p tanh sigmoid erf sqrt rsqrt sin cos floor", 1, "f", False),
    ("weight", 3, "f", False),
    ("neg abs sign", 1, "if", False),
    ("add sub mul floordiv mod minimum maximum", 2, "if", False),
    ("div", 2, "f", False),
    ("lt le eq ne", 2, "bif", True),
    ("and or xor", 2, "bi", False),
    ("not", 1, "bi", False),
    ("shl shr", 2, "i", False),
)

RULES: dict[str, Rule] = {
    **{
        name + "_" * (name in ("and", "or", "not")): _op(name, arity, kinds, interp.ELEMENTWISE[name], compares)
        for names, arity, kinds, compares in _REFERENCE
        for name in names.split()
    },
    "pow": _op("pow", 2, "if", _pow),
    "fma": _op("fma", 3, "f", _fma),
    "maximum_fast": _op("maximum_fast", 2, "f", np.fmax),
    "weight_fast": _weight_fast,
    "where": _where,
    "cast_float": _cast_float,
    "cast_int": _cast_int,
    "resize": _resize,
}
