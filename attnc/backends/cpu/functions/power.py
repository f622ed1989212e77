"""x**y as 2**(y log2 |x|) with the logarithm in two floats, and the special cases of the C standard."""

from typing import Any

from attnc.backends.cpu.functions.exponent import nearest, split_any, times_power
from attnc.backends.cpu.functions.exponential import clamped, power_of_fraction
from attnc.backends.cpu.functions.two_floats import Pair, add, constant, mul, product, sub, sum_of, times
from attnc.backends.cpu.lanes import Lanes

# (atanh(s) / s - 1 - s**2 / 3) / s**4 in s**2, |s| <= 0.172
_SERIES_32 = (0.20000076293945312, 0.14273543655872345, 0.1170988455414772)
_SERIES_64 = (0.1999999999999999, 0.14285714285721932, 0.11111111108890297, 0.09090909422726105, 0.07692279155691502,
              0.06668134770968605, 0.05837834755509626, 0.05991370292492334)  # fmt: skip
_THIRD_32, _THIRD_64 = (0.3333333432674408, -9.934107758624577e-09), (0.3333333333333333, 1.850371707708594e-17)
# 2 / ln 2
_SCALE_32, _SCALE_64 = (2.885390043258667, 3.851926067000022e-08), (2.8853900817779268, 4.0710547481862066e-17)


def _log2(g: Lanes, x: Any) -> Pair:
    """log2(x) of a finite x > 0 as two floats: n + 2 / ln 2 * atanh(s), with s = (m - 1) / (m + 1) as two floats."""
    short, one = g.bits == 32, g.const(1)
    m, n = split_any(g, x)
    top, (below, lost) = sub(g, m, one), sum_of(g, one, m)  # exact for m > 1 too, being close to 1
    inverse = g.fdiv(one, below)
    s = mul(g, top, inverse)
    minus = g.b.fneg(s)
    s_low = mul(g, g.fma(minus, lost, g.fma(minus, below, top)), inverse)
    z = times(g, (s, s_low), (s, s_low))
    t = times(g, z, constant(g, _THIRD_32 if short else _THIRD_64))
    series = g.polynomial(z[0], _SERIES_32 if short else _SERIES_64)
    t = t[0], g.fma(mul(g, z[0], z[0]), series, t[1])
    u = times(g, (s, s_low), t)
    high, low = sum_of(g, s, u[0])
    whole = times(g, (high, add(g, low, add(g, u[1], s_low))), constant(g, _SCALE_32 if short else _SCALE_64))
    high, low = sum_of(g, n, whole[0])
    return sum_of(g, high, add(g, low, whole[1]))


def _size(g: Lanes, size: Any, y: Any) -> Any:
    """size**y for a finite size > 0 and a finite y."""
    high, low = _log2(g, size)
    power, rest = product(g, y, high)
    rest = g.fma(y, low, rest)
    inside = clamped(g, power)
    rest = g.b.select(g.b.fcmp_ordered("==", inside, power), rest, g.const(0))  # lost where it was clamped
    whole, n = nearest(g, inside)
    return times_power(g, power_of_fraction(g, g.fadd(g.fsub(inside, whole), rest)), n)


def _special(g: Lanes, x: Any, y: Any, value: Any) -> Any:
    """x**y where x is 0, negative, infinite or NaN, or y infinite or NaN; value: |x|**y as far as these are finite."""
    b, one, zero, inf = g.b, g.const(1), g.const(0), g.const(float("inf"))
    size = g.call("fabs", x)
    extreme = b.or_(b.fcmp_ordered("==", size, zero), b.fcmp_ordered("==", size, inf))
    extreme = b.or_(extreme, b.fcmp_ordered("==", g.call("fabs", y), inf))
    falls = b.xor(b.fcmp_ordered(">", size, one), b.fcmp_ordered(">", y, zero))
    value = b.select(extreme, b.select(falls, zero, inf), value)
    value = b.select(b.fcmp_unordered("uno", x, y), g.const(float("nan")), value)
    value = b.select(b.or_(b.fcmp_ordered("==", size, one), b.fcmp_ordered("==", y, zero)), one, value)
    half = g.fmul(y, g.const(0.5))
    whole = b.fcmp_ordered("==", g.call("floor", y), y)
    odd = b.and_(whole, b.fcmp_unordered("!=", g.call("floor", half), half))
    value = b.select(odd, g.call("copysign", value, x), value)
    finite = b.fcmp_ordered(">", x, g.const(float("-inf")))
    nothing = b.and_(b.and_(b.fcmp_ordered("<", x, zero), finite), b.not_(whole))
    return b.select(nothing, g.const(float("nan")), value)


def pow(g: Lanes, x: Any, y: Any) -> Any:
    """x**y, in every case as the C standard's pow and numpy.power."""
    b, inf = g.b, g.const(float("inf"))
    value = _size(g, g.call("fabs", x), y)
    plain = b.and_(b.fcmp_ordered(">", x, g.const(0)), b.fcmp_ordered("<", x, inf))
    plain = b.and_(plain, b.fcmp_ordered("<", g.call("fabs", y), inf))
    (value,) = g.where_any(b.not_(plain), lambda: [_special(g, x, y, value)], [value])
    return value
