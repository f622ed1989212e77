"""Splitting a range of an index where its digits wrap (`attnc.passes.cuts`), in emitted code."""

from typing import Any

from llvmlite import ir
from numba.core import errors, types
from numba.core.extending import intrinsic

from attnc.backends.cpu.integers import int_divmod
from attnc.backends.cpu.lanes import Lanes, convert


@intrinsic
def box_last(typingctx: Any, first: Any, last: Any, shift: Any, radices: Any, apart: Any) -> Any:
    """The last index of the first box of first..last, where index + shift wraps at multiples of radices (widest last).

    apart: 0, or up to how many units of the narrowest radix are boxes of their own. Always within first..last, so that a loop
    over boxes ends, whatever overflows. A constant radix divides by a constant.
    """
    if not isinstance(radices, types.BaseTuple):
        raise errors.TypingError(f"box_last: radices are a tuple, not {radices}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        g = Lanes(builder, types.int64, None)
        start, end, offset = (convert(builder, args[n], sig.args[n], types.int64, None) for n in range(3))
        most = convert(builder, args[4], sig.args[4], types.int64, None)
        units = [
            convert(builder, builder.extract_value(args[3], n), kind, types.int64, None)
            for n, kind in enumerate(sig.args[3])
        ]
        x, left = builder.add(start, offset), builder.sub(end, start)
        done: Any = ir.Constant(ir.IntType(1), 0)

        def at_least_one(unit: Any) -> Any:
            return builder.select(builder.icmp_signed("<", unit, g.const(1)), g.const(1), unit)

        for unit in map(at_least_one, reversed(units)):
            inside = builder.sub(unit, g.const(1))
            digit = int_divmod(g, x, unit)[1]
            begins = builder.icmp_signed("==", digit, g.const(0))
            whole = builder.and_(begins, builder.icmp_signed(">=", left, inside))
            count = builder.add(left, g.const(1))
            units_only = builder.sub(builder.sub(count, int_divmod(g, count, unit)[1]), g.const(1))
            rest = builder.sub(inside, digit)
            to_wrap = builder.select(builder.icmp_signed("<", left, rest), left, rest)
            left = builder.select(done, left, builder.select(whole, units_only, to_wrap))
            done = builder.or_(done, whole)
        narrowest = at_least_one(units[0])
        count, rest = int_divmod(g, builder.add(left, g.const(1)), narrowest)[0], int_divmod(g, x, narrowest)[1]
        few = builder.and_(builder.icmp_signed("<=", g.const(1), count), builder.icmp_signed("<=", count, most))
        single = builder.and_(builder.icmp_signed("==", rest, g.const(0)), few)
        return builder.add(start, builder.select(single, builder.sub(narrowest, g.const(1)), left))

    return types.int64(first, last, shift, radices, apart), codegen
