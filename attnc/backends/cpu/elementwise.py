"""The elementwise operations of the graph as Numba intrinsics on scalars and SIMD values alike.

Each has the name of its op and NumPy's meaning. A scalar beside a SIMD value is splatted, and does not raise its
precision. Nothing here assumes that NaN or infinity are absent: only products and sums may contract to fma.
"""

from collections.abc import Callable
from typing import Any

from numba.core import errors, types
from numba.core.extending import intrinsic

from attnc.backends.cpu.functions import exponential, logarithm, power, remainder, saturating, trigonometric
from attnc.backends.cpu.integers import divide_by, int_divmod, int_pow, shift_left, shift_right
from attnc.backends.cpu.lanes import Lanes, cast, common, convert, element, is_float, shaped, token, width_of

Emit = Callable[..., Any]
FLOAT, INT, BOOL = "float", "int", "bool"


def _allowed(name: str, dtype: Any, kinds: tuple[str, ...]) -> Any:
    """The lane type in which the op `name` works when its operands have dtype: booleans count as integers."""
    if is_float(dtype) and FLOAT in kinds:
        return dtype
    if dtype == types.boolean and BOOL in kinds:
        return dtype
    if not is_float(dtype) and INT in kinds:
        return types.int64 if dtype == types.boolean else dtype
    raise errors.TypingError(f"{name} is not defined on {dtype}")


def _build(name: str, kinds: tuple[str, ...], emit: Emit, mask: bool, operands: tuple[Any, ...]) -> Any:
    """Signature and code generator of one use of an op."""
    dtype, width = common(operands)
    dtype = _allowed(name, dtype, kinds)
    result = shaped(types.boolean if mask else dtype, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [convert(builder, a, k, dtype, width) for a, k in zip(args, operands, strict=True)]
        return emit(Lanes(builder, dtype, width), *values)

    return result(*operands), codegen


def _unary(name: str, kinds: tuple[str, ...], emit: Emit) -> Any:
    def op(typingctx: Any, x: Any) -> Any:
        return _build(name, kinds, emit, False, (x,))

    op.__name__ = name
    return intrinsic(op)


def _binary(name: str, kinds: tuple[str, ...], emit: Emit, mask: bool = False) -> Any:
    def op(typingctx: Any, x: Any, y: Any) -> Any:
        return _build(name, kinds, emit, mask, (x, y))

    op.__name__ = name
    return intrinsic(op)


def _division(name: str, part: int, short: bool = False) -> Any:
    """Floor division (part 0) or its remainder (1); integer lanes are divided by one scalar with its reciprocal."""

    def op(typingctx: Any, x: Any, y: Any) -> Any:
        dtype, width = common((x, y))
        if is_float(dtype) or width_of(x) is None or width_of(y) is not None:
            general = _by_kind(lambda *a: _float_divmod(*a)[part], lambda *a: int_divmod(*a)[part])
            return _build(name, (FLOAT, INT), general, False, (x, y))
        dtype = _allowed(name, dtype, (INT,))

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lanes = convert(builder, args[0], x, dtype, width)
            divisor = convert(builder, args[1], y, types.int64, None)
            return divide_by(Lanes(builder, dtype, width), lanes, divisor, part, short)

        return shaped(dtype, width)(x, y), codegen

    op.__name__ = name
    return intrinsic(op)


def _by_kind(on_float: Emit, on_int: Emit) -> Emit:
    return lambda g, *xs: on_float(g, *xs) if is_float(g.dtype) else on_int(g, *xs)


def _abs_int(g: Lanes, x: Any) -> Any:
    return g.b.select(g.b.icmp_signed("<", x, g.const(0)), g.b.neg(x), x)


def _sign_float(g: Lanes, x: Any) -> Any:
    b, zero = g.b, g.const(0)
    one = b.select(b.fcmp_ordered(">", x, zero), g.const(1), zero)
    one = b.select(b.fcmp_ordered("<", x, zero), g.const(-1), one)
    return b.select(g.isnan(x), x, one)


def _sign_int(g: Lanes, x: Any) -> Any:
    b, zero = g.b, g.const(0)
    return b.select(b.icmp_signed(">", x, zero), g.const(1), b.select(b.icmp_signed("<", x, zero), g.const(-1), zero))


def _extreme(float_relation: str) -> Emit:
    """Minimum or maximum; a NaN on either side is the result."""

    def on_float(g: Lanes, x: Any, y: Any) -> Any:
        chosen = g.b.select(g.b.fcmp_ordered(float_relation, x, y), x, y)
        return g.b.select(g.isnan(x), x, chosen)

    def on_int(g: Lanes, x: Any, y: Any) -> Any:
        return g.b.select(g.b.icmp_signed(float_relation, x, y), x, y)

    return _by_kind(on_float, on_int)


def _compare(relation: str) -> Emit:
    def on_float(g: Lanes, x: Any, y: Any) -> Any:
        ordered = g.b.fcmp_unordered if relation == "!=" else g.b.fcmp_ordered
        return ordered(relation, x, y)

    def on_int(g: Lanes, x: Any, y: Any) -> Any:
        # A one-bit integer is negative when true: booleans compare as unsigned.
        compare = g.b.icmp_unsigned if g.dtype == types.boolean else g.b.icmp_signed
        return compare(relation, x, y)

    return _by_kind(on_float, on_int)


def _float_divmod(g: Lanes, x: Any, y: Any) -> tuple[Any, Any]:
    """Python's floor division and remainder of floats, as NumPy computes them (from the C library's fmod)."""
    b, zero = g.b, g.const(0)
    quotient = g.fdiv(x, y)
    rest = _outlined(remainder.fmod)(g, x, y)
    whole = g.fdiv(g.fsub(x, rest), y)
    nonzero = b.fcmp_unordered("!=", rest, zero)
    differ = b.xor(b.fcmp_ordered("<", y, zero), b.fcmp_ordered("<", rest, zero))
    fix = b.and_(nonzero, differ)
    mod = b.select(nonzero, b.select(fix, g.fadd(rest, y), rest), g.call("copysign", zero, y))
    whole = b.select(fix, g.fsub(whole, g.const(1)), whole)
    floor = g.call("floor", whole)
    floor = b.select(b.fcmp_ordered(">", g.fsub(whole, floor), g.const(0.5)), g.fadd(floor, g.const(1)), floor)
    floor = b.select(b.fcmp_unordered("!=", whole, zero), floor, g.call("copysign", zero, quotient))
    by_zero = b.fcmp_ordered("==", y, zero)
    return b.select(by_zero, quotient, floor), b.select(by_zero, rest, mod)


def _plain(name: str) -> Emit:
    return lambda g, *xs: getattr(g.b, name)(*xs)


def _llvm(name: str) -> Emit:
    return lambda g, x: g.call(name, x)


def _outlined(emit: Emit) -> Emit:
    """The function out of line: its code stands once in a kernel, however often it is used."""
    return lambda g, *xs: g.outlined(f"attnc.{emit.__name__}.{g.suffix}", xs, lambda h, ys: emit(h, *ys))


neg = _unary("neg", (FLOAT, INT), _by_kind(_plain("fneg"), _plain("neg")))
abs = _unary("abs", (FLOAT, INT), _by_kind(_llvm("fabs"), _abs_int))
sign = _unary("sign", (FLOAT, INT), _by_kind(_sign_float, _sign_int))
exp = _unary("exp", (FLOAT,), exponential.exp)
exp2 = _unary("exp2", (FLOAT,), exponential.exp2)
tanh = _unary("tanh", (FLOAT,), saturating.tanh)
sigmoid = _unary("sigmoid", (FLOAT,), saturating.sigmoid)
log = _unary("log", (FLOAT,), _outlined(logarithm.log))
log2 = _unary("log2", (FLOAT,), _outlined(logarithm.log2))
log1p = _unary("log1p", (FLOAT,), _outlined(logarithm.log1p))
erf = _unary("erf", (FLOAT,), _outlined(saturating.erf))
sin = _unary("sin", (FLOAT,), _outlined(trigonometric.sin))
cos = _unary("cos", (FLOAT,), _outlined(trigonometric.cos))
sqrt = _unary("sqrt", (FLOAT,), _llvm("sqrt"))
rsqrt = _unary("rsqrt", (FLOAT,), lambda g, x: g.fdiv(g.const(1), g.call("sqrt", x)))
floor = _unary("floor", (FLOAT,), _llvm("floor"))

add = _binary("add", (FLOAT, INT), _by_kind(Lanes.fadd, _plain("add")))
sub = _binary("sub", (FLOAT, INT), _by_kind(Lanes.fsub, _plain("sub")))
mul = _binary("mul", (FLOAT, INT), _by_kind(Lanes.fmul, _plain("mul")))
div = _binary("div", (FLOAT,), Lanes.fdiv)
floordiv = _division("floordiv", 0)
mod = _division("mod", 1)
floordiv_short = _division("floordiv_short", 0, short=True)
mod_short = _division("mod_short", 1, short=True)
pow = _binary("pow", (FLOAT, INT), _by_kind(_outlined(power.pow), int_pow))
minimum = _binary("minimum", (FLOAT, INT), _extreme("<"))
maximum = _binary("maximum", (FLOAT, INT), _extreme(">"))
maximum_fast = _binary("maximum_fast", (FLOAT,), lambda g, s, m: g.b.select(g.b.fcmp_ordered(">", s, m), s, m))

lt = _binary("lt", (FLOAT, INT, BOOL), _compare("<"), mask=True)
le = _binary("le", (FLOAT, INT, BOOL), _compare("<="), mask=True)
eq = _binary("eq", (FLOAT, INT, BOOL), _compare("=="), mask=True)
ne = _binary("ne", (FLOAT, INT, BOOL), _compare("!="), mask=True)
gt = _binary("gt", (FLOAT, INT, BOOL), _compare(">"), mask=True)
ge = _binary("ge", (FLOAT, INT, BOOL), _compare(">="), mask=True)

and_ = _binary("and_", (INT, BOOL), _plain("and_"))
or_ = _binary("or_", (INT, BOOL), _plain("or_"))
xor = _binary("xor", (INT, BOOL), _plain("xor"))
not_ = _unary("not_", (INT, BOOL), _plain("not_"))
shl = _binary("shl", (INT,), shift_left)
shr = _binary("shr", (INT,), shift_right)


@intrinsic
def where(typingctx: Any, mask: Any, x: Any, y: Any) -> Any:
    """x where mask is true, else y; the three may be scalars or SIMD values in any mix."""
    dtype, width = common((x, y))
    width = width if width is not None else width_of(mask)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        chosen = convert(builder, args[0], mask, types.boolean, width)
        return builder.select(
            chosen, convert(builder, args[1], x, dtype, width), convert(builder, args[2], y, dtype, width)
        )

    return shaped(dtype, width)(mask, x, y), codegen


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once."""
    return _build("fma", (FLOAT,), Lanes.fma, False, (x, y, z))


@intrinsic
def weight(typingctx: Any, x: Any, r: Any, m: Any) -> Any:
    """2**(x - r), or 0 where x <= m."""
    return _build("weight", (FLOAT,), exponential.weight, False, (x, r, m))


def _cast_to(dtype: Any, operands: tuple[Any, ...]) -> Any:
    x = operands[-1]
    width = width_of(x)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cast(Lanes(builder, element(x), width), convert(builder, args[-1], x, element(x), width), dtype)

    return shaped(dtype, width)(*operands), codegen


@intrinsic
def cast_float(typingctx: Any, kind: Any, x: Any) -> Any:
    """x as floats of the lane type of the token `kind`, in as many lanes as x has."""
    dtype = element(token(kind))
    if not is_float(dtype):
        raise errors.TypingError(f"cast_float: {dtype} is not a float")
    return _cast_to(dtype, (kind, x))


@intrinsic
def cast_int(typingctx: Any, x: Any) -> Any:
    """x as int64, truncated towards zero; NaN and what no int64 holds give its least value, as NumPy does on x86."""
    return _cast_to(types.int64, (x,))


@intrinsic
def resize(typingctx: Any, kind: Any, x: Any) -> Any:
    """Lanes of integers or booleans as the integers of the token `kind`, which must hold them."""
    return _cast_to(element(token(kind)), (kind, x))


def _saturate(g: Lanes, x: Any) -> Any:
    return g.call("smin", g.call("smax", x, g.const(-(2**31))), g.const(2**31 - 1))


saturate = _unary("saturate", (INT,), _saturate)
