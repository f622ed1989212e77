"""LLVM code of one thread's numbers: float32, int64, int32 and booleans. NaN and infinity are never assumed away.

LLVM's dialect here is that of NVVM for sm_80 to sm_90 (LLVM 7): no `fneg`, no `llvm.smax`, no `llvm.maximum`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

F32, F64 = ir.FloatType(), ir.DoubleType()


class Scalars:
    """A builder of LLVM code on numbers of one type."""

    def __init__(self, builder: Any, kind: Any) -> None:
        self.b, self.type = builder, kind
        self.is_float = kind == F32
        self.bits: int = 32 if self.is_float else kind.width

    def const(self, value: float) -> Any:
        return ir.Constant(self.type, value)

    def call(self, name: str, *args: Any) -> Any:
        """A function of libdevice or of the C library on numbers of the operands' one type."""
        kind = args[0].type
        function = self.b.module.globals.get(name)
        if function is None:
            function = ir.Function(self.b.module, ir.FunctionType(kind, [kind] * len(args)), name)
        return self.b.call(function, args)

    def fadd(self, x: Any, y: Any) -> Any:
        return self.b.fadd(x, y, flags=("contract",))

    def fsub(self, x: Any, y: Any) -> Any:
        return self.b.fsub(x, y, flags=("contract",))

    def fmul(self, x: Any, y: Any) -> Any:
        return self.b.fmul(x, y, flags=("contract",))

    def fdiv(self, x: Any, y: Any) -> Any:
        return self.b.fdiv(x, y)

    def isnan(self, x: Any) -> Any:
        return self.b.fcmp_unordered("uno", x, x)

    def neg(self, x: Any) -> Any:
        return self.b.fsub(self.const(-0.0), x) if self.is_float else self.b.sub(self.const(0), x)

    def abs_int(self, x: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", x, self.const(0)), self.neg(x), x)

    def sign(self, x: Any) -> Any:
        """-1, 0 or 1; NaN stays."""
        compare = self.b.fcmp_ordered if self.is_float else self.b.icmp_signed
        below = self.b.select(compare("<", x, self.const(0)), self.const(-1), self.const(0))
        result = self.b.select(compare(">", x, self.const(0)), self.const(1), below)
        return self.b.select(self.isnan(x), x, result) if self.is_float else result

    def compare(self, relation: str, x: Any, y: Any) -> Any:
        if self.is_float:
            ordered = self.b.fcmp_unordered if relation == "!=" else self.b.fcmp_ordered
            return ordered(relation, x, y)
        # A one-bit integer is negative when true: booleans compare as unsigned.
        compare = self.b.icmp_unsigned if self.bits == 1 else self.b.icmp_signed
        return compare(relation, x, y)

    def extreme_int(self, relation: str, x: Any, y: Any) -> Any:
        return self.b.select(self.b.icmp_signed(relation, x, y), x, y)

    def shift_left(self, x: Any, count: Any) -> Any:
        """x << count; 0 for a count that is negative or not below the width."""
        inside, count = self._in_range(count)
        return self.b.select(inside, self.b.shl(x, count), self.const(0))

    def shift_right(self, x: Any, count: Any) -> Any:
        """x >> count with the sign shifted in; the sign alone for a count that is negative or not below the width."""
        inside, _ = self._in_range(count)
        return self.b.ashr(x, self.b.select(inside, count, self.const(self.bits - 1)))

    def _in_range(self, count: Any) -> tuple[Any, Any]:
        inside = self.b.icmp_unsigned("<", count, self.const(self.bits))
        return inside, self.b.select(inside, count, self.const(0))

    def divmod_int(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Floor division and its remainder, with the sign of y. By zero both are 0; the least integer // -1 is itself."""
        b, zero = self.b, self.const(0)
        none = b.icmp_signed("==", y, zero)
        minus = b.icmp_signed("==", y, self.const(-1))
        # Undefined for these two divisors: they are replaced by 1 and their results filled in afterwards.
        safe = b.select(b.or_(none, minus), self.const(1), y)
        quotient, rest = self._floor(x, safe)
        quotient = b.select(none, zero, b.select(minus, self.neg(x), quotient))
        return quotient, b.select(b.or_(none, minus), zero, rest)

    def divmod_constant(self, x: Any, y: int) -> tuple[Any, Any]:
        """The same for a constant y: shifts or multiplications, no division."""
        if y in (0, -1):
            return (self.neg(x) if y else self.const(0)), self.const(0)
        if y > 0 and y & (y - 1) == 0:
            return self.b.ashr(x, self.const(y.bit_length() - 1)), self.b.and_(x, self.const(y - 1))
        return self._floor(x, self.const(y))

    def _floor(self, x: Any, y: Any) -> tuple[Any, Any]:
        b = self.b
        quotient = b.sdiv(x, y)
        rest = b.sub(x, b.mul(quotient, y))
        low = b.and_(b.icmp_signed("!=", rest, self.const(0)), b.icmp_signed("<", b.xor(rest, y), self.const(0)))
        down = b.sub(quotient, self.const(1))
        return b.select(low, down, quotient), b.select(low, b.add(rest, y), rest)

    def divmod_float(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Python's floor division and remainder of floats, as NumPy computes them (from the C library's fmod)."""
        b, zero = self.b, self.const(0)
        quotient = self.fdiv(x, y)
        rest = self.call("__nv_fmodf", x, y)
        # No fused operation may appear in here: NVVM fuses products with sums only.
        whole = self.fdiv(b.fsub(x, rest), y)
        nonzero = b.fcmp_unordered("!=", rest, zero)
        differ = b.xor(b.fcmp_ordered("<", y, zero), b.fcmp_ordered("<", rest, zero))
        fix = b.and_(nonzero, differ)
        mod = b.select(nonzero, b.select(fix, b.fadd(rest, y), rest), self.call("__nv_copysignf", zero, y))
        whole = b.select(fix, b.fsub(whole, self.const(1)), whole)
        floor = self.call("__nv_floorf", whole)
        up = b.fcmp_ordered(">", b.fsub(whole, floor), self.const(0.5))
        floor = b.select(up, b.fadd(floor, self.const(1)), floor)
        floor = b.select(b.fcmp_unordered("!=", whole, zero), floor, self.call("__nv_copysignf", zero, quotient))
        by_zero = b.fcmp_ordered("==", y, zero)
        return b.select(by_zero, quotient, floor), b.select(by_zero, rest, mod)

    def power(self, x: Any, y: Any) -> Any:
        """x**y in float32, as the C standard's pow: from 2**(y log2 |x|) in float64, then the cases that it gets wrong."""
        b = self.b
        size = self.call("__nv_fabsf", x)
        wide = b.fmul(b.fpext(y, F64), self.call("__nv_log2", b.fpext(size, F64)))
        result = b.fptrunc(self.call("__nv_exp2", wide), F32)
        half = b.fmul(y, self.const(0.5))
        whole = b.fcmp_ordered("==", self.call("__nv_floorf", y), y)
        odd = b.and_(whole, b.fcmp_unordered("!=", self.call("__nv_floorf", half), half))
        result = b.select(odd, self.call("__nv_copysignf", result, x), result)
        endless = b.fcmp_ordered("==", self.call("__nv_fabsf", y), self.const(float("inf")))
        unit = b.and_(endless, b.fcmp_ordered("==", size, self.const(1)))
        one = b.or_(b.fcmp_ordered("==", x, self.const(1)), b.fcmp_ordered("==", y, self.const(0)))
        finite = b.fcmp_ordered("<", size, self.const(float("inf")))
        complex_ = b.and_(b.and_(b.fcmp_ordered("<", x, self.const(0)), finite), b.not_(whole))
        result = b.select(complex_, self.const(float("nan")), result)
        return b.select(b.or_(one, unit), self.const(1), result)

    def truncated(self, x: Any) -> Any:
        """A float as int64, towards zero; NaN and what no int64 holds give its least value."""
        b, wide = self.b, ir.IntType(64)
        fits = b.and_(b.fcmp_ordered(">=", x, self.const(-(2.0**63))), b.fcmp_ordered("<", x, self.const(2.0**63)))
        # The conversion of a value out of range is undefined: convert a harmless one there.
        number = b.fptosi(b.select(fits, x, self.const(0)), wide)
        return b.select(fits, number, ir.Constant(wide, -(2**63)))
