"""The exponent field of floats: splitting numbers into mantissa and power of two, and putting powers back."""

from typing import Any

from attnc.backends.cpu.lanes import Lanes


def mantissa_bits(g: Lanes) -> int:
    return 23 if g.bits == 32 else 52


def bias(g: Lanes) -> int:
    return 127 if g.bits == 32 else 1023


def nearest(g: Lanes, x: Any) -> tuple[Any, Any]:
    """x rounded to the nearest integer, as a float and as the low bits of an integer, for |x| < 2**(mantissa - 2).

    Adding 1.5 * 2**mantissa leaves the integer in the low bits of the sum: cheaper than a conversion.
    """
    shifter = g.const(1.5 * 2.0 ** mantissa_bits(g))
    shifted = g.fadd(x, shifter)
    return g.fsub(shifted, shifter), g.b.bitcast(shifted, g.integer.type)


def as_float(g: Lanes, n: Any) -> Any:
    """Integers of g's size, |n| < 2**(mantissa - 2), as floats; 64-bit integers have no conversion in AVX2."""
    shifter = g.const(1.5 * 2.0 ** mantissa_bits(g))
    return g.fsub(g.b.bitcast(g.b.add(n, g.b.bitcast(shifter, g.integer.type)), g.type), shifter)


def low(g: Lanes, n: Any) -> Any:
    """The integer in the low bits that `nearest` left: the shifter's own bits stand above it."""
    high = g.integer.const(g.bits - 16)
    return g.b.ashr(g.b.shl(n, high), high)


def power(g: Lanes, n: Any) -> Any:
    """2**n, which must be a normal number, for the low bits of n."""
    i = g.integer
    return g.b.bitcast(g.b.shl(g.b.add(n, i.const(bias(g))), i.const(mantissa_bits(g))), g.type)


def times_power(g: Lanes, p: Any, n: Any) -> Any:
    """p * 2**n for p in [1/2, 2], in two steps of which one rounds: subnormal and infinite results are right."""
    n = low(g, n)
    half = g.b.ashr(n, g.integer.const(1))
    for part in (half, g.b.sub(n, half)):
        p = g.fmul(p, power(g, part))
    return p


def split(g: Lanes, x: Any) -> tuple[Any, Any]:
    """m in [sqrt(1/2), sqrt(2)) and the integer n (of g's size) of x = m * 2**n, for a positive normal x."""
    b, i = g.b, g.integer
    width = i.const(mantissa_bits(g))
    bits = b.bitcast(x, i.type)
    root = b.bitcast(g.const(0.5**0.5), i.type)
    n = b.ashr(b.sub(bits, root), width)
    return b.bitcast(b.sub(bits, b.shl(n, width)), g.type), n


def split_any(g: Lanes, x: Any) -> tuple[Any, Any]:
    """As `split`, with n as a float, for subnormal x too."""
    scale = mantissa_bits(g) + 1
    small = g.b.fcmp_ordered("<", x, g.const(2.0 ** (1 - bias(g))))
    m, n = split(g, g.b.select(small, g.fmul(x, g.const(2.0**scale)), x))
    return m, as_float(g, g.b.sub(n, g.b.select(small, g.integer.const(scale), g.integer.const(0))))
