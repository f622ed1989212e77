"""exp, exp2, tanh and sigmoid as short SIMD polynomials, and the other elementary functions from the C library.

The polynomials are minimax fits (Remez, relative error, constant term exactly 1) on the reduced range |r| <= 1/2.
Measured: at most 2 ulp in float32 and float64.
"""

from typing import Any

from numba.core import types

from attnc.backends.cpu.lanes import Lanes

LOG2_E = 1.4426950408889634
# Fitted in units in the last place, which are twice as fine below 1 as above.
_EXP2_SHORT = (1.0, 0.6931468297706523, 0.2402223735163009, 0.05550891134158572, 0.00967174835560879,
               0.001322573250427998)  # fmt: skip
_EXP2_32 = (1.0, 0.6931472027809911, 0.24022647914253945, 0.05550332573785425, 0.009618437502256825,
            0.001339884379943363, 0.00015353284720876924)  # fmt: skip
_EXP2_64 = (1.0, 0.6931471805599453, 0.2402265069591013, 0.05550410866482009, 0.009618129107594188,
            0.0013333558146774026, 0.00015403530457037387, 1.5252733493413586e-05, 1.3215435315753666e-06,
            1.0178199528374722e-07, 7.073778002087502e-09, 4.434770053138381e-10)  # fmt: skip
# (e**r - 1 - r) / r**2
_EXP_32 = (0.4999999355192003, 0.1666652143712837, 0.041668373789047704, 0.008368640585954925,
           0.001381497992851178)  # fmt: skip
_EXP_64 = (0.5, 0.16666666666666682, 0.041666666666666116, 0.008333333333317419, 0.0013888888889109527,
           0.00019841269895582776, 2.4801586932939976e-05, 2.755723555722397e-06, 2.755757919581028e-07,
           2.5111821559926695e-08, 2.082691805611273e-09)  # fmt: skip
_TANH_32 = (-0.3333328507667976, 0.1333151520749695, -0.053745147182126675, 0.02065522610705041,
            -0.005721637833593628)  # fmt: skip


def _mantissa_bits(g: Lanes) -> int:
    return 23 if g.bits == 32 else 52


def _nearest(g: Lanes, x: Any) -> tuple[Any, Any]:
    """x rounded to the nearest integer, as a float and as the low bits of an integer, for |x| < 2**21.

    Adding 1.5 * 2**mantissa leaves the integer in the low bits of the sum: cheaper than a conversion.
    """
    shifter = g.const(1.5 * 2.0 ** _mantissa_bits(g))
    shifted = g.fadd(x, shifter)
    return g.fsub(shifted, shifter), g.b.bitcast(shifted, g.integer.type)


def _times_power(g: Lanes, p: Any, n: Any) -> Any:
    """p * 2**n for p in [1/2, 2], in two steps of which one rounds: subnormal and infinite results are right."""
    i, mantissa = g.integer, _mantissa_bits(g)
    bias = i.const(127 if g.bits == 32 else 1023)
    # The shifter's own bits stand above n: sign-extend the low ones, which hold it.
    high = i.const(g.bits - 16)
    n = g.b.ashr(g.b.shl(n, high), high)
    half = g.b.ashr(n, i.const(1))
    for part in (half, g.b.sub(n, half)):
        power = g.b.bitcast(g.b.shl(g.b.add(part, bias), i.const(mantissa)), g.type)
        p = g.fmul(p, power)
    return p


def exp2(g: Lanes, x: Any) -> Any:
    """2**x, NaN kept."""
    edge = 152.0 if g.bits == 32 else 1080.0
    x = g.at_most(g.at_least(x, -edge), edge)
    whole, n = _nearest(g, x)
    return _times_power(g, g.polynomial(g.fsub(x, whole), _EXP2_32 if g.bits == 32 else _EXP2_64), n)


def exp(g: Lanes, x: Any) -> Any:
    """e**x, NaN kept. Reduction with ln 2 in two parts (Cody and Waite)."""
    edge = 106.0 if g.bits == 32 else 750.0
    high, low = (0.693359375, -2.12194440e-4) if g.bits == 32 else (0.6931471803691238, 1.9082149292705877e-10)
    x = g.at_most(g.at_least(x, -edge), edge)
    whole, n = _nearest(g, g.fmul(x, g.const(LOG2_E)))
    r = g.fma(whole, g.const(-high), x)
    r = g.fma(whole, g.const(-low), r)
    # 1 + (r + c r^2 + ...) with the bracket rounded on its own: better than Horner's last step.
    tail = g.polynomial(r, _EXP_32 if g.bits == 32 else _EXP_64)
    return _times_power(g, g.fadd(g.fma(g.fmul(r, r), tail, r), g.const(1)), n)


def weight(g: Lanes, x: Any, r: Any, m: Any) -> Any:
    """2**(x - r) for x <= r, the weight of a softmax: 0 exactly where x <= m, else at least the least normal number.

    So a weight of 0 means "masked" and nothing else. NaN is kept.
    """
    mantissa, least = (23, -126.0) if g.bits == 32 else (52, -1022.0)
    # Not contracted with the product that x may be: 0 where x is r, however large both are.
    clamped = g.at_least(g.b.fsub(x, r, flags=("arcp",)), least)
    # The shifter holds the exponent bias too, so that the sum's low bits are the exponent field of 2**n.
    shifter = g.const(1.5 * 2.0**mantissa + 1 - least)
    shifted = g.fadd(clamped, shifter)
    rest = g.fsub(clamped, g.fsub(shifted, shifter))
    power = g.b.shl(g.b.bitcast(shifted, g.integer.type), g.integer.const(mantissa))
    value = g.fmul(g.polynomial(rest, _EXP2_SHORT if g.bits == 32 else _EXP2_64), g.b.bitcast(power, g.type))
    return g.b.select(g.b.fcmp_ordered("<=", x, m), g.const(0), value)


def tanh(g: Lanes, x: Any) -> Any:
    if g.bits == 64:
        return g.per_lane("tanh", x)
    size = g.call("fabs", x)
    square = g.fmul(x, x)
    near = g.fma(g.fmul(x, square), g.polynomial(square, _TANH_32), x)
    far = g.fsub(g.const(1), g.fdiv(g.const(2), g.fadd(exp(g, g.fadd(size, size)), g.const(1))))
    far = g.call("copysign", far, x)
    return g.b.select(g.b.fcmp_ordered("<", size, g.const(0.625)), near, far)


def sigmoid(g: Lanes, x: Any) -> Any:
    """1 / (1 + exp(-x)), from exp(-|x|) so that neither tail overflows."""
    e, one = exp(g, g.b.fneg(g.call("fabs", x))), g.const(1)
    total = g.fadd(one, e)
    lost = g.fsub(e, g.fsub(total, one))
    q = g.fdiv(one, total)
    # A Newton step with what the sum lost: q is then 1 / (1 + e) to its last bit.
    error = g.fma(g.b.fneg(q), total, one)
    error = g.fma(g.b.fneg(q), lost, error)
    q = g.fma(q, error, q)
    return g.b.select(g.b.fcmp_ordered("<", x, g.const(0)), g.fmul(e, q), q)


def library(name: str, g: Lanes, *args: Any) -> Any:
    """A function of the C library, once per lane."""
    return g.per_lane(name + "f" if g.dtype == types.float32 else name, *args)
