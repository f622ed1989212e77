"""Values of a block's threads in lockstep, with the types and operators that Numba gives them.

A Value holds one NumPy vector, an entry per thread, or one NumPy scalar where all threads agree by construction.
Plain operators work as Numba types them: integers in int64, float32 beside anything but float32 in float64. Data are
never changed in place, so that values and registers may share them.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Divergence

Data = Any  # a NumPy vector over the threads of the block, or a NumPy scalar

# The letters of the table of intrinsics: how operands and results are typed.
LETTERS: dict[str, np.dtype[Any]] = {
    "r": np.dtype(np.int32), "l": np.dtype(np.int64), "f": np.dtype(np.float32), "d": np.dtype(np.float64),
    "h": np.dtype(np.int16), "p": np.dtype(np.bool_),
}  # fmt: skip
INT64 = LETTERS["l"]
_ACCEPTED = {"f": "if", "d": "if", "p": "b"}  # kinds of numbers; for the other letters integers


def operand(x: Any) -> Data:
    """The data of x, typed as Numba types x; None where x is no number."""
    if type(x) is Value:
        return x.data
    if isinstance(x, bool):
        return np.bool_(x)
    if isinstance(x, int):
        return np.int64(x)
    if isinstance(x, np.generic):
        return x
    return np.float64(x) if isinstance(x, float) else None


def widened(x: Any) -> Data:
    """The data of x with integers and booleans as int64."""
    data = operand(x)
    if data is None or data.dtype == INT64 or data.dtype.kind == "f":
        return data
    return data.astype(INT64)


def _operator(apply: Callable[[Any, Any], Any], typed: Callable[[Any], Data], swapped: bool = False) -> Any:
    def method(self: Value, other: Any) -> Any:
        x = self.data
        if x.dtype is INT64 and type(other) is int:
            y = other  # NumPy gives a constant the type of what it meets
        elif type(other) is Value and x.dtype is INT64 and other.data.dtype is INT64:
            y = other.data
        else:
            x, y = typed(self), typed(other)
            if y is None:
                return NotImplemented
        return Value(apply(y, x) if swapped else apply(x, y))

    return method


def _bitwise(apply: Callable[[Any, Any], Any]) -> Any:
    def method(self: Value, other: Any) -> Any:
        x, y = operand(self), operand(other)
        if y is None:
            return NotImplemented
        if x.dtype.kind != "b" or y.dtype.kind != "b":
            x, y = widened(self), widened(other)
        return Value(apply(x, y))

    return method


def _divide(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def division(x: Any, y: Any) -> Any:
        if np.count_nonzero(y) < np.size(y) if type(y) is not int else not y:  # most often a constant
            raise ZeroDivisionError("the plain operators // and % need divisors that are not zero in any thread")
        return apply(x, y)

    return division


class Value:
    """One variable of the kernel."""

    __slots__ = ("data",)
    __array_ufunc__ = None  # NumPy scalars on the left leave operators to this class

    def __init__(self, data: Data) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"Value({self.data!r})"

    __add__, __radd__ = _operator(operator.add, widened), _operator(operator.add, widened)
    __mul__, __rmul__ = _operator(operator.mul, widened), _operator(operator.mul, widened)
    __sub__, __rsub__ = _operator(operator.sub, widened), _operator(operator.sub, widened, True)
    __truediv__, __rtruediv__ = _operator(operator.truediv, widened), _operator(operator.truediv, widened, True)
    __floordiv__ = _operator(_divide(operator.floordiv), widened)
    __rfloordiv__ = _operator(_divide(operator.floordiv), widened, True)
    __mod__, __rmod__ = _operator(_divide(operator.mod), widened), _operator(_divide(operator.mod), widened, True)
    __lshift__, __rlshift__ = _operator(operator.lshift, widened), _operator(operator.lshift, widened, True)
    __rshift__, __rrshift__ = _operator(operator.rshift, widened), _operator(operator.rshift, widened, True)
    __and__, __rand__ = _bitwise(operator.and_), _bitwise(operator.and_)
    __or__, __ror__ = _bitwise(operator.or_), _bitwise(operator.or_)
    __xor__, __rxor__ = _bitwise(operator.xor), _bitwise(operator.xor)
    __lt__, __le__ = _operator(operator.lt, operand), _operator(operator.le, operand)
    __gt__, __ge__ = _operator(operator.gt, operand), _operator(operator.ge, operand)
    __eq__, __ne__ = _operator(operator.eq, operand), _operator(operator.ne, operand)
    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Value:
        return Value(-widened(self))

    def __pos__(self) -> Value:
        return Value(widened(self))

    def __abs__(self) -> Value:
        return Value(abs(widened(self)))

    def __invert__(self) -> Value:
        return Value(~widened(self))

    def one(self) -> Any:
        """The Python number that all threads hold. Divergence: they hold different ones."""
        data = self.data
        if isinstance(data, np.ndarray):
            first = data[0]
            other = (data != first) & ((data == data) | (first == first))  # one NaN is as good as another
            if other.any():
                thread = int(other.argmax())
                raise Divergence(
                    f"control flow on a value that differs in the block: {first} in thread 0, {data[thread]} in {thread}"
                )
            data = first
        return data.item()

    def __bool__(self) -> bool:
        return bool(self.one())

    def __index__(self) -> int:
        return operator.index(self.one())

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.one())


_SMALL = tuple(Value(np.int64(k)) for k in builtins.range(1024))


def convert(x: Any, letter: str) -> Data:
    """The data of an operand, of its letter's type: integers wrap, floats are rounded. TypeError: another kind of number.

    Integers may stand for floats; booleans stand for nothing else, and nothing else for them.
    """
    dtype = LETTERS[letter]
    if type(x) is Value and x.data.dtype is dtype:  # most often
        return x.data
    data = operand(x)
    if data is not None and data.dtype == dtype:
        return data
    if data is None or data.dtype.kind not in _ACCEPTED.get(letter, "i"):
        raise TypeError(f"{type(x).__name__ if data is None else data.dtype} where {dtype} is expected")
    return data.astype(dtype)


def spread(data: Data, n: int) -> Any:
    """Data as a vector over n threads."""
    return data if isinstance(data, np.ndarray) else np.full(n, data)


def select(condition: Any, x: Data, y: Data) -> Data:
    """np.where that keeps scalars scalars."""
    chosen: Any = np.where(condition, x, y)
    return chosen[()]


def _extreme(builtin: Callable[..., Any], better: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def function(*numbers: Any, **options: Any) -> Any:
        if not any(type(x) is Value for x in numbers):
            return builtin(*numbers, **options)
        best = widened(numbers[0])
        for x in map(widened, numbers[1:]):
            best = select(better(x, best), x, best)
        return Value(best)

    return function


# What takes the place of Python's own min, max and range in a kernel: Numba's mean selects, and loop counters are int64.
least, greatest = _extreme(min, operator.lt), _extreme(max, operator.gt)


def counters(*bounds: Any) -> Iterator[Value]:
    """range() of bounds that are the same for all threads."""
    for k in builtins.range(*(operator.index(x) for x in bounds)):
        yield _SMALL[k] if 0 <= k < len(_SMALL) else Value(np.int64(k))
