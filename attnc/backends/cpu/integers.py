"""Integer division, powers and shifts that never trap: NumPy's results, Python's signs."""

from typing import Any

from llvmlite import ir
from numba.core import types

from attnc.backends.cpu.lanes import Lanes

# Quotients of smaller integers come out exactly from a division of doubles: one that is not whole is off the next
# whole number by at least 1/|y|, which is more than the rounding error while |x| < 2**53.
_EXACT = 2**52
_RECIPROCAL = 2**50


def int_divmod(g: Lanes, x: Any, y: Any) -> tuple[Any, Any]:
    """Floor division and its remainder, with the sign of y. By zero both are 0; the least integer // -1 is itself.

    No processor divides vectors of integers, so SIMD lanes go through doubles where all of them are small enough.
    """
    b, zero = g.b, g.const(0)
    none = b.icmp_signed("==", y, zero)
    minus = b.icmp_signed("==", y, g.const(-1))
    # The two divisors that trap are replaced by 1 and their results filled in afterwards.
    safe = b.select(b.or_(none, minus), g.const(1), y)
    if g.width is None:
        quotient = _floor_quotient(g, x, safe)
    elif g.bits == 32:
        quotient = _by_doubles(g, x, safe)
    else:
        small = [b.icmp_unsigned("<", b.add(v, g.const(_EXACT)), g.const(2 * _EXACT)) for v in (x, safe)]
        fits = g.function(f"llvm.vector.reduce.and.v{g.width}i1", ir.IntType(1), [b.and_(*small)])
        with b.if_else(fits) as (fast, slow):
            with fast:
                near, near_end = _by_doubles(g, x, safe), b.block
            with slow:
                far = g.outlined(f"attnc.idiv.{g.suffix}", (x, safe), lambda lanes, args: _floor_quotient(lanes, *args))
                far_end = b.block
        quotient = b.phi(g.type)
        quotient.add_incoming(near, near_end)
        quotient.add_incoming(far, far_end)
    rest = b.sub(x, b.mul(quotient, safe))
    quotient = b.select(none, zero, b.select(minus, b.neg(x), quotient))
    return quotient, b.select(b.or_(none, minus), zero, rest)


def divide_by(g: Lanes, x: Any, d: Any, part: int, short: bool) -> Any:
    """Lanes x // d (part 0) or x % d (part 1) by one int64 d, which must fit the lanes; by zero 0.

    short: |x| < 2**22, and |d| too for the remainder. No division happens per lane: 1 / d is the same for all.
    """
    if isinstance(d, ir.Constant) and d.constant > 0 and d.constant & (d.constant - 1) == 0 and d.constant < 2**31:
        if part:
            return g.b.and_(x, g.const(d.constant - 1))
        return g.b.ashr(x, g.const(d.constant.bit_length() - 1))
    if g.bits == 32:
        return _by_reciprocal(g, x, d, part, types.float32 if short else types.float64)
    b, one = g.b, Lanes(g.b, types.int64, None)
    near, limit = g.const(_RECIPROCAL), one.const(_RECIPROCAL)
    small = b.icmp_unsigned("<", b.add(x, near), g.const(2 * _RECIPROCAL))
    every = g.function(f"llvm.vector.reduce.and.v{g.width}i1", ir.IntType(1), [small])
    fits = b.and_(every, b.icmp_unsigned("<", b.add(d, limit), one.const(2 * _RECIPROCAL)))
    with b.if_else(fits) as (fast, slow):
        with fast:
            quick, quick_end = _by_reciprocal(g, x, d, part, types.float64), b.block
        with slow:
            name = f"attnc.{('floordiv', 'mod')[part]}.{g.suffix}"
            exact = g.outlined(name, (x, g.splat(d)), lambda lanes, args: int_divmod(lanes, *args)[part])
            exact_end = b.block
    result = b.phi(g.type)
    result.add_incoming(quick, quick_end)
    result.add_incoming(exact, exact_end)
    return result


def _by_reciprocal(g: Lanes, x: Any, d: Any, part: int, kind: Any) -> Any:
    """floor(x / d + 1 / |2 d|), which is floor(x / d): both are at least 1 / |2 d| away from the next whole number.

    The two roundings, of 1 / d and of the sum, are less together while |x| < 2**22 in single, 2**50 in double precision.
    """
    b, real, one = g.b, g.of(kind), Lanes(g.b, kind, None)
    none = b.icmp_signed("==", d, ir.Constant(d.type, 0))
    # by zero: x // 0 = floor(x * 0 + 0), and x % 0 = x % 1
    divisor = b.sitofp(b.select(none, ir.Constant(d.type, 1), d), one.type)
    inverse = one.fdiv(one.const(1), divisor)
    if not part:
        inverse = b.select(none, one.const(0), inverse)
    half = one.fmul(one.call("fabs", inverse), one.const(0.5))
    number = b.sitofp(x, real.type)
    quotient = real.call("floor", real.fma(number, real.splat(inverse), real.splat(half)))
    if part:
        quotient = real.fma(quotient, real.splat(b.fneg(divisor)), number)
    return b.fptosi(quotient, g.type)


def _by_doubles(g: Lanes, x: Any, y: Any) -> Any:
    wide = g.of(types.float64)
    ratio = wide.fdiv(g.b.sitofp(x, wide.type), g.b.sitofp(y, wide.type))
    return g.b.fptosi(wide.call("floor", ratio), g.type)


def _floor_quotient(g: Lanes, x: Any, y: Any) -> Any:
    b, zero = g.b, g.const(0)
    quotient = b.sdiv(x, y)
    rest = b.sub(x, b.mul(quotient, y))
    low = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, y), zero))
    return b.select(low, b.sub(quotient, g.const(1)), quotient)


def int_pow(g: Lanes, x: Any, y: Any) -> Any:
    """x**y modulo 2**64 by squaring; a negative y gives the truncated quotient 1 / x**-y, and 0 for x = 0."""
    if g.width is None:
        wide = Lanes(g.b, g.dtype, 1)
        result = int_pow(wide, wide.splat(x), wide.splat(y))
        return g.b.extract_element(result, ir.Constant(ir.IntType(32), 0))
    return g.outlined(f"attnc.ipow.{g.suffix}", (x, y), _int_pow_body)


def _int_pow_body(g: Lanes, args: Any) -> Any:
    b, one, zero = g.b, g.const(1), g.const(0)
    x, y = args
    result, square = one, x
    entry = b.block
    loop, done = b.append_basic_block(), b.append_basic_block()
    b.branch(loop)
    b.position_at_end(loop)
    left, power, base = b.phi(g.type), b.phi(g.type), b.phi(g.type)
    odd = b.icmp_signed("!=", b.and_(left, one), zero)
    result = b.select(odd, b.mul(power, base), power)
    square = b.mul(base, base)
    rest = b.lshr(left, one)
    for phi, first, following in ((left, y, rest), (power, one, result), (base, x, square)):
        phi.add_incoming(first, entry)
        phi.add_incoming(following, loop)
    flags = b.icmp_signed("!=", rest, zero)
    b.cbranch(g.function(f"llvm.vector.reduce.or.v{g.width}i1", ir.IntType(1), [flags]), loop, done)
    b.position_at_end(done)
    # Below zero: 1 for x = 1, +-1 for x = -1, else the quotient is truncated to 0.
    unit = b.or_(b.icmp_signed("==", x, one), b.icmp_signed("==", x, g.const(-1)))
    return b.select(b.and_(b.icmp_signed("<", y, zero), b.not_(unit)), zero, result)


def _in_range(g: Lanes, count: Any) -> tuple[Any, Any]:
    inside = g.b.icmp_unsigned("<", count, g.const(g.bits))
    return inside, g.b.select(inside, count, g.const(0))


def shift_left(g: Lanes, x: Any, count: Any) -> Any:
    """x << count; 0 for a count that is negative or not below the width."""
    inside, count = _in_range(g, count)
    return g.b.select(inside, g.b.shl(x, count), g.const(0))


def shift_right(g: Lanes, x: Any, count: Any) -> Any:
    """x >> count with the sign shifted in; the sign alone for a count that is negative or not below the width."""
    inside, count = _in_range(g, count)
    return g.b.ashr(x, g.b.select(inside, count, g.const(g.bits - 1)))
