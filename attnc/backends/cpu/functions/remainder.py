"""The remainder of a division of floats, exact: from the quotient where that is a whole number of the type."""

from typing import Any

from attnc.backends.cpu.lanes import Lanes
from attnc.backends.cpu.slow_lanes import LONG_QUOTIENT


def fmod(g: Lanes, x: Any, y: Any) -> Any:
    """x - y * trunc(x / y), as the C library's fmod; that one is called, lane by lane, where a quotient is too long."""
    b = g.b
    top, divisor = g.call("fabs", x), g.call("fabs", y)
    quotient = g.fdiv(top, divisor)
    whole = g.call("floor", quotient)
    # The quotient may be rounded up to a whole number, never down below one: the remainder is exact, or y too small.
    rest = g.fma(b.fneg(whole), divisor, top)
    rest = b.select(b.fcmp_ordered("<", rest, g.const(0)), g.fadd(rest, divisor), rest)
    rest = g.call("copysign", b.select(b.fcmp_ordered("<", top, divisor), top, rest), x)
    long = b.fcmp_ordered(">=", quotient, g.const(LONG_QUOTIENT[g.bits]))
    finite = b.and_(b.fcmp_ordered("<", top, g.const(float("inf"))), b.fcmp_ordered(">", divisor, g.const(0)))
    name = "fmodf" if g.bits == 32 else "fmod"
    (rest,) = g.where_any(b.and_(long, finite), lambda: [g.per_lane(name, x, y)], [rest])
    return rest
