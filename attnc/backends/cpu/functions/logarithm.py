"""log, log2 and log1p: x = m * 2**n with m around 1, and log(m) from s = (m - 1) / (m + 1) (the series of atanh)."""

from typing import Any

from attnc.backends.cpu.functions.exponent import as_float, power, split, split_any
from attnc.backends.cpu.functions.two_floats import add, sub, sum_of, times
from attnc.backends.cpu.lanes import Lanes

# (2 atanh(s) - 2 s) / s**3 in s**2, |s| <= 0.172
_SERIES_32 = (0.6666677594184875, 0.3997756838798523, 0.29871460795402527)
_SERIES_64 = (0.6666666666666735, 0.3999999999940935, 0.2857142874368632, 0.22222198429053774, 0.18183572346762727,
              0.15313832234679278, 0.14798263762636416)  # fmt: skip
# ln 2 in two parts, the first short enough that its products with exponents are exact; 1 / ln 2 as two floats
_LN2_32, _LN2_64 = (0.693359375, -2.12194440e-4), (0.6931471803691238, 1.9082149292705877e-10)
LOG2_E_32 = (1.4426950216293335, 1.925963033500011e-08)
LOG2_E_64 = (1.4426950408889634, 2.0355273740931033e-17)


def _tail(g: Lanes, f: Any) -> tuple[Any, Any]:
    """h and t of log(1 + f) = f - h + t, with h = f^2 / 2."""
    s = g.fdiv(f, g.fadd(f, g.const(2)))
    z = g.fmul(s, s)
    series = g.fmul(z, g.polynomial(z, _SERIES_32 if g.bits == 32 else _SERIES_64))
    h = g.fmul(g.fmul(f, f), g.const(0.5))
    return h, g.fmul(s, g.fadd(h, series))


def _log_of(g: Lanes, f: Any, n: Any) -> Any:
    """log((1 + f) * 2**n)."""
    h, t = _tail(g, f)
    high, low = _LN2_32 if g.bits == 32 else _LN2_64
    t = g.fma(n, g.const(low), t)
    return g.fma(n, g.const(high), g.fsub(f, g.fsub(h, t)))


def _ends(g: Lanes, x: Any, value: Any, zero: float) -> Any:
    """A logarithm's value inside its domain; -inf at its pole `zero`, NaN below, and x itself at inf and NaN."""
    b = g.b
    inside = b.fcmp_ordered("<", x, g.const(float("inf")))
    end = b.select(b.fcmp_ordered("==", x, g.const(zero)), g.const(float("-inf")), g.const(float("nan")))
    return b.select(b.fcmp_ordered(">", x, g.const(zero)), b.select(inside, value, x), b.select(inside, end, x))


def log(g: Lanes, x: Any) -> Any:
    m, n = split_any(g, x)
    return _ends(g, x, _log_of(g, g.fsub(m, g.const(1)), n), 0)


def log2(g: Lanes, x: Any) -> Any:
    """The logarithm of m as two floats times 1 / ln 2 as two floats."""
    m, n = split_any(g, x)
    f = g.fsub(m, g.const(1))
    h, t = _tail(g, f)
    high = sub(g, f, h)
    low = g.fadd(g.fsub(sub(g, f, high), h), t)
    scale = LOG2_E_32 if g.bits == 32 else LOG2_E_64
    high, low = times(g, (high, low), (g.const(scale[0]), g.const(scale[1])))
    high, rest = sum_of(g, n, high)
    return _ends(g, x, add(g, high, add(g, rest, low)), 0)


def log1p(g: Lanes, x: Any) -> Any:
    """log(u) of u = 1 + x, with what that sum lost put back into u's mantissa."""
    b, one = g.b, g.const(1)
    u = add(g, x, one)
    large = b.fcmp_ordered(">=", x, one)
    lost = b.select(large, sub(g, one, sub(g, u, x)), sub(g, x, sub(g, u, one)))
    m, n = split(g, u)
    # Where 2**-n is no normal number, nothing was lost that counts.
    scale = power(g, b.neg(g.integer.call("smin", n, g.integer.const(100))))
    value = _log_of(g, g.fma(lost, scale, g.fsub(m, one)), as_float(g, n))
    return b.select(b.fcmp_ordered("==", x, g.const(0)), x, _ends(g, x, value, -1))
