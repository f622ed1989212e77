"""The elementwise operations of the graph as Numba functions on the numbers of a thread, with NumPy's meaning.

An op happens in float32 where an operand is a float; else in int64, or in int32 where every integer is an int32 or a
constant that fits one; else on booleans. (Python's operators would widen int32: that is why these are functions.) Only
products and sums may fuse, nothing assumes that NaN or infinity are absent, and no division raises.

Accuracy, in units in the last place by the table of maximum errors in the CUDA C++ Programming Guide's appendix on
mathematical functions: at most 2 for exp, exp2, rsqrt, tanh, erf, sin and cos, at most 1 for log, log2 and log1p; add, sub,
mul, div, fma, sqrt, floor and mod are correctly rounded or exact. powf is given more, so pow goes through float64. sigmoid
divides once after exp and stays at 2. weight_fast has the error of ex2.approx. sin and cos take
28 bytes of local memory for the reduction of large angles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.cuda import types
from numba.cuda.core import errors

from attnc.backends.cuda.intrinsics import assemble, call_python, intrinsic_of
from attnc.backends.cuda.ptx import BY_NAME, Instruction
from attnc.backends.cuda.scalars import F32, Scalars

Emit = Callable[..., Any]
FLOAT, INT, BOOL = "float", "int", "bool"
_RANK: tuple[Any, ...] = (types.boolean, types.int32, types.int64, types.float32)
TINY = 2.0**-126  # the least normal float32
# One instruction each, where LLVM has none that keeps (or that drops) NaN, or that is never fused with a product.
MIN_NAN = Instruction("min", "min.NaN.f32 $0, $1, $2;", "f", "ff")
MAX_NAN = Instruction("max", "max.NaN.f32 $0, $1, $2;", "f", "ff")
MAX_NUMBER = Instruction("max", "max.f32 $0, $1, $2;", "f", "ff")
SUB = Instruction("sub", "sub.rn.f32 $0, $1, $2;", "f", "ff")


def _scalar(kind: Any) -> Any:
    """The type in which an operand of a Numba type takes part."""
    kind = types.unliteral(kind)
    if isinstance(kind, types.Boolean):
        return types.boolean
    if isinstance(kind, types.Float):
        return types.float32
    if isinstance(kind, types.Integer):
        return types.int32 if kind == types.int32 else types.int64
    raise errors.TypingError(f"{kind} is not a number that a thread computes with")


def common(kinds: tuple[Any, ...]) -> Any:
    """The type in which an op on these types happens: constants are weak."""
    strong = [_scalar(k) for k in kinds if not isinstance(k, types.Literal)]
    constants = [k for k in kinds if isinstance(k, types.Literal)]
    chosen = max(strong or map(_scalar, constants), key=_RANK.index)
    for k in constants:
        if not isinstance(_scalar(k), types.Boolean) and chosen in (types.boolean, types.int32):
            fits = chosen == types.int32 and -(2**31) <= k.literal_value < 2**31
            chosen = types.int32 if fits else types.int64
    return chosen


def _allowed(name: str, dtype: Any, kinds: tuple[str, ...]) -> Any:
    """The type in which the op `name` works on operands of dtype: booleans count as integers."""
    if (dtype == types.float32 and FLOAT in kinds) or (dtype == types.boolean and BOOL in kinds):
        return dtype
    if dtype != types.float32 and INT in kinds:
        return types.int64 if dtype == types.boolean else dtype
    raise errors.TypingError(f"{name} is not defined on {dtype}")


def _op(name: str, operands: str, kinds: tuple[str, ...], emit: Emit, mask: bool = False) -> Any:
    """An op whose operands have one type. Numba converts them, since the signature asks for it."""

    def typing(typingctx: Any, *found: Any) -> Any:
        dtype = _allowed(name, common(found), kinds)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(Scalars(builder, context.get_value_type(dtype)), *args)

        return (types.boolean if mask else dtype)(*[dtype] * len(found)), codegen

    return intrinsic_of(name, operands.split(), typing, literals=True)


def _unary(name: str, kinds: tuple[str, ...], emit: Emit) -> Any:
    return _op(name, "x", kinds, emit)


def _binary(name: str, kinds: tuple[str, ...], emit: Emit, mask: bool = False) -> Any:
    return _op(name, "x y", kinds, emit, mask)


def _by_kind(on_float: Emit, on_int: Emit) -> Emit:
    return lambda g, *xs: on_float(g, *xs) if g.is_float else on_int(g, *xs)


def _plain(name: str) -> Emit:
    return lambda g, *xs: getattr(g.b, name)(*xs)


def _libdevice(name: str) -> Emit:
    return lambda g, *xs: g.call(f"__nv_{name}f", *xs)


def _row(row: Instruction) -> Emit:
    return lambda g, *xs: assemble(g.b, row, xs)[0]


def _compare(relation: str) -> Emit:
    return lambda g, x, y: g.compare(relation, x, y)


def _less(relation: str) -> Emit:
    return lambda g, x, y: g.extreme_int(relation, x, y)


def _sigmoid(g: Scalars, x: Any) -> Any:
    """1 / (1 + exp(-x)) or exp(x) / (1 + exp(x)): neither overflows where it is taken."""
    e, one = g.call("__nv_expf", g.neg(g.call("__nv_fabsf", x))), g.const(1)
    above = g.b.select(g.compare("<", x, g.const(0)), e, one)
    return g.fdiv(above, g.fadd(one, e))


def _weight(g: Scalars, x: Any, r: Any, m: Any) -> Any:
    """2**(x - r), but at least the least normal number unless x <= m, so that a weight of 0 means "masked"."""
    power = g.call("__nv_exp2f", assemble(g.b, SUB, [x, r])[0])
    value = assemble(g.b, MAX_NAN, [power, g.const(TINY)])[0]
    return g.b.select(g.compare("<=", x, m), g.const(0), value)


def _weight_fast(g: Scalars, x: Any, r: Any) -> Any:
    return assemble(g.b, BY_NAME["fast_ex2"], assemble(g.b, SUB, [x, r]))[0]


def _division(name: str, part: int) -> Any:
    """Floor division (part 0) or its remainder (1); a constant divisor makes shifts or multiplications."""

    def typing(typingctx: Any, x: Any, y: Any) -> Any:
        dtype = _allowed(name, common((x, y)), (FLOAT, INT))
        constant = dtype != types.float32 and isinstance(y, types.IntegerLiteral)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            g = Scalars(builder, context.get_value_type(dtype))
            if constant:
                return g.divmod_constant(args[0], y.literal_value)[part]
            return (g.divmod_float if g.is_float else g.divmod_int)(*args)[part]

        # The constant stays in the signature: Numba finds the code generator by it.
        return dtype(dtype, y if constant else dtype), codegen

    return intrinsic_of(name, ["x", "y"], typing, literals=True)


def _int_pow(x: Any, y: Any) -> Any:
    """x**y modulo 2**64 by squaring; a negative y gives the truncated quotient 1 / x**-y, and 0 for x = 0."""
    left, square, result = max(y, 0), x, 1
    while left > 0:
        if left & 1:
            result = result * square
        square = square * square
        left = left >> 1
    if y < 0:
        unit = x if y & 1 else 1
        result = unit if x == 1 or x == -1 else 0
    return result


def _pow(typingctx: Any, x: Any, y: Any) -> Any:
    dtype = _allowed("pow", common((x, y)), (FLOAT, INT))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if dtype != types.float32:
            return call_python(context, builder, _int_pow, sig, args)
        return Scalars(builder, F32).power(*args)

    return dtype(dtype, dtype), codegen


def _where(typingctx: Any, mask: Any, x: Any, y: Any) -> Any:
    if _scalar(mask) != types.boolean:
        raise errors.TypingError(f"where: the mask is {mask}, not a boolean")
    dtype = common((x, y))
    return dtype(types.boolean, dtype, dtype), lambda context, builder, sig, args: builder.select(*args)


def _first(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return args[0]  # Numba has converted it, since the signature asks for it


def _cast_float(typingctx: Any, x: Any) -> Any:
    return types.float32(types.float32), _first


def _cast_int(typingctx: Any, x: Any) -> Any:
    """Towards zero; NaN and what no int64 holds give the least int64, as NumPy does on x86."""
    if _scalar(x) != types.float32:
        return types.int64(types.int64), _first
    return types.int64(types.float32), lambda context, builder, sig, args: Scalars(builder, F32).truncated(*args)


def _resize(typingctx: Any, x: Any, bits: Any) -> Any:
    """An integer or boolean x as one of `bits` 32 or 64; what does not fit wraps."""
    dtype = {32: types.int32, 64: types.int64}.get(getattr(bits, "literal_value", 0))
    if dtype is None or _scalar(x) == types.float32:
        raise errors.TypingError(f"resize: an integer to 32 or 64 bits, not {x} to {bits}")
    return dtype(dtype, bits), _first


neg = _unary("neg", (FLOAT, INT), Scalars.neg)
abs = _unary("abs", (FLOAT, INT), _by_kind(_libdevice("fabs"), Scalars.abs_int))
sign = _unary("sign", (FLOAT, INT), Scalars.sign)
exp = _unary("exp", (FLOAT,), _libdevice("exp"))
exp2 = _unary("exp2", (FLOAT,), _libdevice("exp2"))
log = _unary("log", (FLOAT,), _libdevice("log"))
log2 = _unary("log2", (FLOAT,), _libdevice("log2"))
log1p = _unary("log1p", (FLOAT,), _libdevice("log1p"))
tanh = _unary("tanh", (FLOAT,), _libdevice("tanh"))
sigmoid = _unary("sigmoid", (FLOAT,), _sigmoid)
erf = _unary("erf", (FLOAT,), _libdevice("erf"))
sqrt = _unary("sqrt", (FLOAT,), _libdevice("sqrt"))
rsqrt = _unary("rsqrt", (FLOAT,), _libdevice("rsqrt"))
sin = _unary("sin", (FLOAT,), _libdevice("sin"))
cos = _unary("cos", (FLOAT,), _libdevice("cos"))
floor = _unary("floor", (FLOAT,), _libdevice("floor"))

add = _binary("add", (FLOAT, INT), _by_kind(Scalars.fadd, _plain("add")))
sub = _binary("sub", (FLOAT, INT), _by_kind(Scalars.fsub, _plain("sub")))
mul = _binary("mul", (FLOAT, INT), _by_kind(Scalars.fmul, _plain("mul")))
div = _binary("div", (FLOAT,), Scalars.fdiv)
pow = intrinsic_of("pow", ["x", "y"], _pow, literals=True)
floordiv = _division("floordiv", 0)
mod = _division("mod", 1)
minimum = _binary("minimum", (FLOAT, INT), _by_kind(_row(MIN_NAN), _less("<")))
maximum = _binary("maximum", (FLOAT, INT), _by_kind(_row(MAX_NAN), _less(">")))
maximum_fast = _binary("maximum_fast", (FLOAT,), _row(MAX_NUMBER))  # a number beside a NaN, not the NaN
fma = _op("fma", "x y z", (FLOAT,), _libdevice("fma"))
weight = _op("weight", "x r m", (FLOAT,), _weight)
weight_fast = _binary("weight_fast", (FLOAT,), _weight_fast)

lt = _binary("lt", (FLOAT, INT, BOOL), _compare("<"), mask=True)
le = _binary("le", (FLOAT, INT, BOOL), _compare("<="), mask=True)
eq = _binary("eq", (FLOAT, INT, BOOL), _compare("=="), mask=True)
ne = _binary("ne", (FLOAT, INT, BOOL), _compare("!="), mask=True)

and_ = _binary("and_", (INT, BOOL), _plain("and_"))
or_ = _binary("or_", (INT, BOOL), _plain("or_"))
xor = _binary("xor", (INT, BOOL), _plain("xor"))
not_ = _unary("not_", (INT, BOOL), _plain("not_"))
shl = _binary("shl", (INT,), Scalars.shift_left)
shr = _binary("shr", (INT,), Scalars.shift_right)

where = intrinsic_of("where", ["mask", "x", "y"], _where, literals=True)
cast_float = intrinsic_of("cast_float", ["x"], _cast_float, literals=True)
cast_int = intrinsic_of("cast_int", ["x"], _cast_int, literals=True)
resize = intrinsic_of("resize", ["x", "bits"], _resize, literals=True)
