"""Building LLVM code that means the same for one scalar and for a SIMD value: types, promotion, constants, calls."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import errors, types

from attnc.backends.cpu.vector import LLVM_TYPES, Vec, vec

_RANK: tuple[Any, ...] = (types.boolean, types.int32, types.int64, types.float32, types.float64)
I32 = ir.IntType(32)


def is_float(dtype: Any) -> bool:
    return dtype in (types.float32, types.float64)


def width_of(kind: Any) -> int | None:
    """Lanes of a Numba type; None for a scalar."""
    return kind.width if isinstance(kind, Vec) else None


def element(kind: Any) -> Any:
    """The lane type of a Numba type. Scalar integers of every size count as int64; TypingError for anything else."""
    if isinstance(kind, Vec):
        return kind.dtype
    kind = types.unliteral(kind)
    if isinstance(kind, types.Boolean):
        return types.boolean
    if isinstance(kind, types.Integer):
        return types.int64
    if is_float(kind):
        return kind
    raise errors.TypingError(f"{kind} is neither a SIMD value nor a number that a lane can hold")


def shaped(dtype: Any, width: int | None) -> Any:
    """The Numba type of `width` lanes of dtype, or dtype itself where width is None."""
    return dtype if width is None else vec(dtype, width)


def token(kind: Any) -> Any:
    """The type that a type token (a global of emitted code) names."""
    named = getattr(kind, "instance_type", None)
    if named is None:
        raise errors.TypingError(f"{kind} is not a type token")
    return named


def common(kinds: Sequence[Any]) -> tuple[Any, int | None]:
    """Lane type and width in which an operation on these Numba types happens.

    A scalar beside a SIMD value is weak: it raises the kind (integer to float), never the precision.
    """
    widths = {w for w in map(width_of, kinds) if w is not None}
    if len(widths) > 1:
        raise errors.TypingError(f"SIMD values of different widths: {', '.join(map(str, kinds))}")
    strong = [element(k) for k in kinds if isinstance(k, Vec)] or [element(k) for k in kinds]
    dtype = max(strong, key=_RANK.index)
    highest = max((element(k) for k in kinds), key=_RANK.index)
    if dtype == types.boolean or (is_float(highest) and not is_float(dtype)):
        dtype = highest
    return dtype, (widths.pop() if widths else None)


class BFloat(ir.HalfType):
    """LLVM's bfloat, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"


class Lanes:
    """A builder of LLVM code on values of one lane type, scalar (width None) or SIMD."""

    def __init__(self, builder: Any, dtype: Any, width: int | None) -> None:
        self.b = builder
        self.dtype = dtype
        self.width = width
        self.bits = {types.float32: 32, types.float64: 64, types.int32: 32, types.int64: 64}.get(dtype, 1)

    def of(self, dtype: Any) -> "Lanes":
        """The same lanes, of another type."""
        return Lanes(self.b, dtype, self.width)

    @property
    def integer(self) -> "Lanes":
        """Integers as wide as these lanes, for work on their bits."""
        return self.of(types.int64 if self.bits == 64 else types.int32)

    @property
    def type(self) -> Any:
        scalar = LLVM_TYPES[self.dtype]
        return scalar if self.width is None else ir.VectorType(scalar, self.width)

    @property
    def suffix(self) -> str:
        """How LLVM's overloaded intrinsics name this type."""
        scalar = ("f" if is_float(self.dtype) else "i") + str(self.bits)
        return scalar if self.width is None else f"v{self.width}{scalar}"

    def const(self, value: float) -> Any:
        number = float(value) if is_float(self.dtype) else int(value)
        return ir.Constant(self.type, number if self.width is None else [number] * self.width)

    def splat(self, scalar: Any) -> Any:
        if self.width is None:
            return scalar
        one = self.b.insert_element(ir.Constant(self.type, ir.Undefined), scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return self.b.shuffle_vector(one, ir.Constant(self.type, ir.Undefined), zeros)

    def call(self, name: str, *args: Any, result: Any = None) -> Any:
        """LLVM's intrinsic `llvm.NAME` for this type."""
        return self.function(f"llvm.{name}.{self.suffix}", result or self.type, args)

    def function(self, name: str, result: Any, args: Sequence[Any]) -> Any:
        module = self.b.module
        found = module.globals.get(name)
        if found is None:
            found = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.b.call(found, args)

    # Numba adds the kernel's fast-math flags to every instruction that has none. Compensated sums and roundings by a
    # large constant do not survive reassociation, so these carry the one flag that they allow.
    def fadd(self, x: Any, y: Any) -> Any:
        return self.b.fadd(x, y, flags=("contract",))

    def fsub(self, x: Any, y: Any) -> Any:
        return self.b.fsub(x, y, flags=("contract",))

    def fmul(self, x: Any, y: Any) -> Any:
        return self.b.fmul(x, y, flags=("contract",))

    def fdiv(self, x: Any, y: Any) -> Any:
        return self.b.fdiv(x, y, flags=("contract",))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.call("fma", x, y, z)

    def dot_pairs(self, x: Any, y: Any, z: Any) -> Any:
        """z + x0 * y0 + x1 * y1 in float32, where each lane of x and y holds two bfloat16. AVX512-BF16; subnormals count as 0."""
        halves = ir.VectorType(BFloat(), 32)
        pairs = [self.b.bitcast(v, halves) for v in (x, y)]
        return self.function("llvm.x86.avx512bf16.dpbf16ps.512", self.type, [z, *pairs])

    def polynomial(self, x: Any, coefficients: Sequence[float]) -> Any:
        """sum c_k x^k by Horner's rule in fused steps; coefficients from the constant term up."""
        value = self.const(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            value = self.fma(value, x, self.const(c))
        return value

    def isnan(self, x: Any) -> Any:
        return self.b.fcmp_unordered("uno", x, x)

    def at_least(self, x: Any, low: float) -> Any:
        """max(x, low), NaN kept: one max instruction, which returns its second operand when they do not compare."""
        bound = self.const(low)
        return self.b.select(self.b.fcmp_ordered(">", bound, x), bound, x)

    def at_most(self, x: Any, high: float) -> Any:
        bound = self.const(high)
        return self.b.select(self.b.fcmp_ordered("<", bound, x), bound, x)

    def per_lane(self, symbol: str, *args: Any) -> Any:
        """A scalar C function applied to each lane, out of line: one copy per module and width."""
        scalar = LLVM_TYPES[self.dtype]
        single = Lanes(self.b, self.dtype, None)
        if self.width is None:
            return single.function(symbol, scalar, args)

        def body(lanes: Lanes, values: Sequence[Any]) -> Any:
            one = Lanes(lanes.b, self.dtype, None)
            result = ir.Constant(self.type, ir.Undefined)
            for i in range(self.width or 0):
                lane = ir.Constant(I32, i)
                parts = [lanes.b.extract_element(v, lane) for v in values]
                result = lanes.b.insert_element(result, one.function(symbol, scalar, parts), lane)
            return result

        return self.outlined(f"attnc.each.{symbol}.{self.suffix}", args, body)

    def where_any(self, mask: Any, slow: Callable[[], Sequence[Any]], values: Sequence[Any]) -> list[Any]:
        """values, but those of `slow` in the lanes where mask holds: a branch around code that is rarely needed."""
        some = (
            mask
            if self.width is None
            else Lanes(self.b, types.boolean, self.width).call("vector.reduce.or", mask, result=ir.IntType(1))
        )
        before = self.b.block
        with self.b.if_then(some, likely=False):
            found = [self.b.select(mask, new, old) for new, old in zip(slow(), values, strict=True)]
            inside = self.b.block
        merged = []
        for new, old in zip(found, values, strict=True):
            phi = self.b.phi(old.type)
            phi.add_incoming(old, before)
            phi.add_incoming(new, inside)
            merged.append(phi)
        return merged

    def outlined(self, name: str, args: Sequence[Any], body: Callable[["Lanes", Sequence[Any]], Any]) -> Any:
        """A call of the module's own function `name` on such values, which `body` builds at its first use."""
        module = self.b.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(self.type, [a.type for a in args]), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            builder = ir.IRBuilder(function.append_basic_block())
            builder.ret(body(Lanes(builder, self.dtype, self.width), function.args))
        return self.b.call(function, args)


def cast(lanes: Lanes, value: Any, target: Any) -> Any:
    """value of lanes.dtype as lanes of `target`, by NumPy's rules; floats that no int64 holds give its least value."""
    source, out = lanes.dtype, lanes.of(target)
    b = lanes.b
    if source == target:
        return value
    if is_float(source):
        if is_float(target):
            return (b.fpext if out.bits > lanes.bits else b.fptrunc)(value, out.type)
        if target == types.boolean:
            return b.fcmp_unordered("!=", value, lanes.const(0))
        limit = 2.0 ** (out.bits - 1)
        fits = b.and_(b.fcmp_ordered(">=", value, lanes.const(-limit)), b.fcmp_ordered("<", value, lanes.const(limit)))
        # The conversion of a value out of range is poison in LLVM: convert a harmless one there.
        number = b.fptosi(b.select(fits, value, lanes.const(0)), out.type)
        return b.select(fits, number, out.const(-(2 ** (out.bits - 1))))
    if is_float(target):
        return (b.uitofp if source == types.boolean else b.sitofp)(value, out.type)
    if target == types.boolean:
        return b.icmp_signed("!=", value, lanes.const(0))
    if out.bits < lanes.bits:
        return b.trunc(value, out.type)
    return (b.zext if source == types.boolean else b.sext)(value, out.type)


def convert(builder: Any, value: Any, source: Any, dtype: Any, width: int | None) -> Any:
    """A Numba value of type `source` as `width` lanes of dtype; scalars are splatted."""
    scalar = types.unliteral(source)
    if isinstance(scalar, types.Integer) and not isinstance(scalar, types.Boolean) and scalar.bitwidth < 64:
        value = (builder.sext if scalar.signed else builder.zext)(value, ir.IntType(64))
    value = cast(Lanes(builder, element(source), width_of(source)), value, dtype)
    if width_of(source) is None and width is not None:
        return Lanes(builder, dtype, width).splat(value)
    return value
