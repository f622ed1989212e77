"""Sums and products of which the rounding error is known, and numbers that are the sum of two floats (Dekker, 1971).

A pair (high, low) holds twice the digits. Products and sums here must not be contracted to fused ones behind our back: they
carry a flag that allows nothing, since Numba gives the kernel's flags to what has none.
"""

from typing import Any

from attnc.backends.cpu.lanes import Lanes

Pair = tuple[Any, Any]
_ROUNDED = ("arcp",)


def add(g: Lanes, x: Any, y: Any) -> Any:
    return g.b.fadd(x, y, flags=_ROUNDED)


def sub(g: Lanes, x: Any, y: Any) -> Any:
    return g.b.fsub(x, y, flags=_ROUNDED)


def mul(g: Lanes, x: Any, y: Any) -> Any:
    return g.b.fmul(x, y, flags=_ROUNDED)


def sum_of(g: Lanes, x: Any, y: Any) -> Pair:
    """x + y exactly, where |x| >= |y| or x is 0."""
    high = add(g, x, y)
    return high, add(g, sub(g, x, high), y)


def product(g: Lanes, x: Any, y: Any) -> Pair:
    """x * y exactly."""
    high = mul(g, x, y)
    return high, g.fma(x, y, g.b.fneg(high))


def times(g: Lanes, x: Pair, y: Pair) -> Pair:
    """x * y, to about twice the digits of a float."""
    high, low = product(g, x[0], y[0])
    return high, g.fma(x[0], y[1], g.fma(x[1], y[0], low))


def constant(g: Lanes, value: tuple[float, float]) -> Pair:
    return g.const(value[0]), g.const(value[1])
