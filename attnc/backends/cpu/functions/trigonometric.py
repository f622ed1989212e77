"""sin and cos: x less a number of quarter turns, as two floats, then one of two polynomials."""

from typing import Any

from attnc.backends.cpu.functions.exponent import nearest
from attnc.backends.cpu.functions.huge_angle import quarter_turns
from attnc.backends.cpu.functions.two_floats import Pair, add, product, sub
from attnc.backends.cpu.lanes import Lanes

# (sin(r) - r) / r**3 and (cos(r) - 1 + r**2 / 2) / r**4, in r**2, |r| <= 0.87
_SIN_32 = (-0.1666664481163025, 0.008331584744155407, -0.0001944295654539019)
_SIN_64 = (-0.1666666666666655, 0.008333333333303099, -0.000198412698153805, 2.755730903316879e-06,
           -2.505007988550621e-08, 1.5860246421541588e-10)  # fmt: skip
_COS_32 = (0.041666626930236816, -0.001388648641295731, 2.4346698410226963e-05)
_COS_64 = (0.04166666666666641, -0.0013888888888843878, 2.4801587272253707e-05, -2.755730980271805e-07,
           2.087515661006966e-09, -1.1332695273780877e-11)  # fmt: skip
# pi / 2 in three parts of full length: their products are exact, as fused ones or as pairs
_HALF_PI_32 = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
_HALF_PI_64 = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
# Up to here the nearest number of quarter turns is found well enough that at most 0.87 is left.
HUGE_32, HUGE_64 = 2.0**20, 2.0**30


def _reduced(g: Lanes, x: Any) -> tuple[Pair, Any]:
    """What quarter turns leave of x, and their number modulo 4 in the low bits of an integer."""
    short = g.bits == 32
    turns, number = nearest(g, g.fmul(x, g.const(0.6366197723675814)))
    back = g.b.fneg(turns)
    first, second, third = map(g.const, _HALF_PI_32 if short else _HALF_PI_64)
    # Exact: x and the product are multiples of the last bit of pi / 2, and little is left of them.
    near = g.fma(back, first, x)
    middle, end = product(g, back, second)
    high = add(g, near, middle)
    low = g.fma(back, third, add(g, add(g, sub(g, near, high), middle), end))
    huge = g.b.fcmp_ordered(">=", g.call("fabs", x), g.const(HUGE_32 if short else HUGE_64))

    def slow() -> list[Any]:
        (above, below), count = quarter_turns(g, x)
        return [above, below, count]

    high, low, number = g.where_any(huge, slow, [high, low, number])
    return (high, low), number


def _wave(g: Lanes, x: Any, ahead: int) -> Any:
    """sin of x and `ahead` quarter turns."""
    b, i, short = g.b, g.integer, g.bits == 32
    (r, rest), number = _reduced(g, x)
    number = b.add(number, i.const(ahead))
    z = g.fmul(r, r)
    sine = g.polynomial(z, _SIN_32 if short else _SIN_64)
    sine = g.fadd(r, g.fma(g.fmul(z, r), sine, rest))
    cosine = g.polynomial(z, _COS_32 if short else _COS_64)
    # 1 - z / 2 rounded, and what the rounding lost
    half = g.fmul(z, g.const(0.5))
    near = sub(g, g.const(1), half)
    lost = sub(g, sub(g, g.const(1), near), half)
    cosine = g.fadd(near, g.fadd(lost, g.fma(g.fmul(z, z), cosine, g.b.fneg(g.fmul(r, rest)))))
    odd = b.icmp_signed("!=", b.and_(number, i.const(1)), i.const(0))
    value = b.select(odd, cosine, sine)
    value = b.select(b.icmp_signed("!=", b.and_(number, i.const(2)), i.const(0)), b.fneg(value), value)
    finite = b.fcmp_ordered("<", g.call("fabs", x), g.const(float("inf")))
    return b.select(finite, value, g.const(float("nan")))


def sin(g: Lanes, x: Any) -> Any:
    return g.b.select(g.b.fcmp_ordered("==", x, g.const(0)), x, _wave(g, x, 0))


def cos(g: Lanes, x: Any) -> Any:
    return _wave(g, x, 1)
