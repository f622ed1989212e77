"""exp, exp2, and the weight of a softmax. exp and exp2 reduce to |r| <= 1/2 in base 2, and put the power back with the exponent field."""

from typing import Any

import numpy as np
from llvmlite import ir

from attnc.backends.cpu.functions.exponent import mantissa_bits, nearest, times_power
from attnc.backends.cpu.lanes import Lanes

LOG2_E = 1.4426950408889634
# Fitted in units in the last place, which are twice as fine below 1 as above.
_EXP2_SHORT = (1.0, 0.6931468297706523, 0.2402223735163009, 0.05550891134158572, 0.00967174835560879,
               0.001322573250427998)  # fmt: skip
TABLE = 32  # entries: what two registers of AVX-512 hold
_EXP2_TABLE = (0.69315751, 0.24022662)  # (2**r - 1) / r, of relative errors of 2**r below 2**-24
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


def power_of_fraction(g: Lanes, r: Any) -> Any:
    """2**r for |r| <= 1/2."""
    return g.polynomial(r, _EXP2_32 if g.bits == 32 else _EXP2_64)


def clamped(g: Lanes, x: Any) -> Any:
    """x no further from 0 than where 2**x is 0 or infinite; NaN kept."""
    edge = 152.0 if g.bits == 32 else 1080.0
    return g.at_most(g.at_least(x, -edge), edge)


def exp2(g: Lanes, x: Any) -> Any:
    """2**x, NaN kept."""
    x = clamped(g, x)
    whole, n = nearest(g, x)
    return times_power(g, power_of_fraction(g, g.fsub(x, whole)), n)


def reduced(g: Lanes, x: Any) -> tuple[Any, Any]:
    """e**r - 1 and the low bits of n, of e**x = 2**n e**r, |r| <= ln(2) / 2; ln 2 in two parts (Cody and Waite)."""
    high, low = (0.693359375, -2.12194440e-4) if g.bits == 32 else (0.6931471803691238, 1.9082149292705877e-10)
    whole, n = nearest(g, g.fmul(x, g.const(LOG2_E)))
    r = g.fma(whole, g.const(-high), x)
    r = g.fma(whole, g.const(-low), r)
    # r + c r^2 + ... rounded apart from the 1 before it: better than Horner's last step.
    return g.fma(g.fmul(r, r), g.polynomial(r, _EXP_32 if g.bits == 32 else _EXP_64), r), n


def exp(g: Lanes, x: Any) -> Any:
    """e**x, NaN kept."""
    edge = 106.0 if g.bits == 32 else 750.0
    rest, n = reduced(g, g.at_most(g.at_least(x, -edge), edge))
    return times_power(g, g.fadd(rest, g.const(1)), n)


def weight(g: Lanes, x: Any, r: Any, m: Any) -> Any:
    """2**(x - r) for x - r up to 64 or 512, the weight of a softmax: 0 exactly where x <= m, else at least the least normal number.

    So a weight of 0 means "masked" and nothing else. NaN is kept.
    """
    least = -126.0 if g.bits == 32 else -1022.0
    # Not contracted with the product that x may be: 0 where x is r, however large both are.
    at_least = g.at_least(g.b.fsub(x, r, flags=("arcp",)), least)
    value = _by_table(g, at_least) if (g.bits, g.width) == (32, TABLE // 2) else _by_polynomial(g, at_least, least)
    return g.b.select(g.b.fcmp_ordered("<=", x, m), g.const(0), value)


def _by_polynomial(g: Lanes, x: Any, least: float) -> Any:
    """2**x for x >= least, where the result is a normal number."""
    mantissa = mantissa_bits(g)
    # The shifter holds the exponent bias too, so that the sum's low bits are the exponent field of 2**n.
    shifter = g.const(1.5 * 2.0**mantissa + 1 - least)
    shifted = g.fadd(x, shifter)
    rest = g.fsub(x, g.fsub(shifted, shifter))
    power = g.b.shl(g.b.bitcast(shifted, g.integer.type), g.integer.const(mantissa))
    return g.fmul(g.polynomial(rest, _EXP2_SHORT if g.bits == 32 else _EXP2_64), g.b.bitcast(power, g.type))


def _by_table(g: Lanes, x: Any) -> Any:
    """The same of float32 with AVX-512: 2**(n / 32) from two registers, and a polynomial on |rest| <= 1/64.

    A third of the multiply-adds of `_by_polynomial`, which is what it waits for.
    """
    i, digits = g.integer, TABLE.bit_length() - 1
    shifter = g.const(1.5 * 2.0 ** (mantissa_bits(g) - digits))
    shifted = g.fadd(x, shifter)
    rest = g.fsub(x, g.fsub(shifted, shifter))
    n = g.b.bitcast(shifted, i.type)
    # Of each entry the bits of n are taken that are no whole powers, and come back with n: one addition to the exponent field.
    up = mantissa_bits(g) - digits
    entries = [int(np.exp2(np.float64(k) / TABLE).astype(np.float32).view(np.int32)) - (k << up) for k in range(TABLE)]
    half = TABLE // 2
    low, high = (ir.Constant(i.type, entries[part : part + half]) for part in (0, half))
    found = g.function("llvm.x86.avx512.vpermi2var.d.512", i.type, [low, n, high])
    power = g.b.bitcast(g.b.add(found, g.b.shl(n, i.const(up))), g.type)
    return g.fma(g.fmul(power, rest), g.polynomial(rest, _EXP2_TABLE), power)
