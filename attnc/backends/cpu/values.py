"""What an expression of an emitted kernel is worth while it is translated: a Numba type and an LLVM value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types

from attnc.backends.cpu.integers import int_divmod, shift_left, shift_right
from attnc.backends.cpu.lanes import Lanes, convert, element, is_float
from attnc.backends.cpu.vector import LLVM_TYPES, Vec

VOID = ir.Constant(ir.IntType(8).as_pointer(), None)  # the value of what has none


@dataclass(frozen=True, slots=True)
class Value:
    """A Numba type, literal where the value is known, and the LLVM value; that of a type token is never looked at."""

    kind: Any
    code: Any

    @property
    def dynamic(self) -> Value:
        """The same, and that it is known forgotten."""
        return Value(types.unliteral(self.kind), self.code)


def llvm_type(kind: Any) -> Any:
    """The LLVM type that holds a Numba type."""
    if isinstance(kind, Vec):
        return ir.VectorType(LLVM_TYPES[kind.dtype], kind.width)
    if isinstance(kind, types.UniTuple):
        return ir.ArrayType(llvm_type(kind.dtype), kind.count)
    if isinstance(kind, types.BaseTuple):
        return ir.LiteralStructType([llvm_type(x) for x in kind])
    return LLVM_TYPES.get(types.unliteral(kind), VOID.type)


def constant(x: Any) -> Value:
    """A Python number or a Numba type, as a value of emitted code."""
    if isinstance(x, bool):
        return Value(types.boolean, ir.Constant(ir.IntType(1), int(x)))
    if isinstance(x, int):
        return Value(types.literal(x), ir.Constant(ir.IntType(64), x))
    if isinstance(x, float):
        return Value(types.float64, ir.Constant(ir.DoubleType(), x))
    if not isinstance(x, types.Type):
        raise TypeError(f"emitted code cannot hold a {type(x).__name__}")
    return Value(types.TypeRef(x), VOID)


def known(x: Value) -> int | None:
    """The integer that x always is, or None."""
    return int(x.kind.literal_value) if isinstance(x.kind, types.IntegerLiteral) else None


def joined(builder: Any, parts: Sequence[Value]) -> Value:
    """A tuple."""
    kind = types.BaseTuple.from_types([types.unliteral(x.kind) for x in parts])
    whole: Any = ir.Constant(llvm_type(kind), ir.Undefined)
    for n, part in enumerate(parts):
        whole = builder.insert_value(whole, part.code, n)
    return Value(kind, whole)


def parts(builder: Any, whole: Value) -> list[Value]:
    """What a tuple holds."""
    if not isinstance(whole.kind, types.BaseTuple):
        raise TypeError(f"{whole.kind} is no tuple")
    return [Value(kind, builder.extract_value(whole.code, n)) for n, kind in enumerate(whole.kind)]


def number(builder: Any, x: Value, kind: Any) -> Value:
    """A scalar as another kind of scalar: what calling the type means in Python."""
    return Value(kind, convert(builder, x.code, x.kind, element(kind), None))


def integer(builder: Any, x: Value) -> Any:
    """The LLVM value of an integer or a boolean, as int64."""
    if isinstance(x.kind, Vec) or is_float(element(x.kind)):
        raise TypeError(f"{x.kind} where emitted code uses an operator, which is for integers")
    return convert(builder, x.code, x.kind, types.int64, None)


def arithmetic(builder: Any, op: str, x: Value, y: Value) -> Value:
    """An operator on two integers, wrapping, with Python's signs; by zero 0."""
    g, a, b = Lanes(builder, types.int64, None), integer(builder, x), integer(builder, y)
    divisor = known(y)
    match op:
        case "Add" | "Sub" | "Mult":
            code = getattr(builder, {"Add": "add", "Sub": "sub", "Mult": "mul"}[op])(a, b)
        case "BitAnd":
            code = builder.and_(a, b)
        case "LShift":
            code = shift_left(g, a, b)
        case "RShift":
            code = shift_right(g, a, b)
        case "FloorDiv" if divisor and divisor > 0 and divisor & (divisor - 1) == 0:
            code = builder.ashr(a, g.const(divisor.bit_length() - 1))
        case "Mod" if divisor and divisor > 0 and divisor & (divisor - 1) == 0:
            code = builder.and_(a, g.const(divisor - 1))
        case "FloorDiv" | "Mod":
            code = int_divmod(g, a, b)[op == "Mod"]
        case _:
            raise NotImplementedError(f"emitted code has no operator {op}")
    return Value(types.int64, code)


def negative(builder: Any, x: Value) -> Value:
    """-x; of a constant a constant."""
    if (n := known(x)) is not None:
        return constant(-n)
    if is_float(x.kind):
        if isinstance(x.code, ir.Constant):
            return Value(x.kind, ir.Constant(x.code.type, -x.code.constant))
        return Value(x.kind, builder.fneg(x.code))
    return Value(types.int64, builder.neg(integer(builder, x)))


COMPARISONS = {"Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Eq": "==", "NotEq": "!="}


def comparison(builder: Any, op: str, x: Value, y: Value) -> Value:
    """x op y of scalars; a comparison with NaN is false, but for `!=`."""
    relation = COMPARISONS[op]
    kinds = [element(v.kind) for v in (x, y)]
    if any(map(is_float, kinds)):
        kind = types.float64 if types.float64 in kinds else types.float32
        a, b = (convert(builder, v.code, v.kind, kind, None) for v in (x, y))
        compare = builder.fcmp_unordered if relation == "!=" else builder.fcmp_ordered
        return Value(types.boolean, compare(relation, a, b))
    return Value(types.boolean, builder.icmp_signed(relation, integer(builder, x), integer(builder, y)))


def truth(builder: Any, x: Value) -> Any:
    """Whether x is not zero, as one bit."""
    return convert(builder, x.code, x.kind, types.boolean, None)


def extreme(builder: Any, name: str, values: Sequence[Value]) -> Value:
    """Python's min or max of integers."""
    least, *others = (integer(builder, x) for x in values)
    for other in others:
        chosen = builder.icmp_signed("<" if name == "min" else ">", other, least)
        least = builder.select(chosen, other, least)
    return Value(types.int64, least)


def packed(builder: Any, values: Sequence[Value]) -> Any:
    """The one LLVM value in which an intrinsic gets arguments that it takes as `*args`."""
    whole: Any = ir.Constant(ir.LiteralStructType([x.code.type for x in values]), ir.Undefined)
    for n, x in enumerate(values):
        whole = builder.insert_value(whole, x.code, n)
    return whole
