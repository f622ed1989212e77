"""Loads, stores, gathers, atomics and lane reductions at raw byte addresses (int64), as Numba intrinsics.

Arithmetic happens in float32 or wider, on int64 and on booleans; what lies in memory has a *storage* type, named by a
token made by `storage(name)`. Conversions to float16 and bfloat16 round to nearest, ties to even.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.extending import intrinsic

from attnc.backends.cpu.lanes import I32, Lanes, cast, convert, element, is_float, shaped, token, width_of
from attnc.backends.cpu.vector import Vec

I16, I64 = ir.IntType(16), ir.IntType(64)


class Storage(types.Type):
    """A type token for numbers in memory, by NumPy's name."""

    def __init__(self, dtype_name: str) -> None:
        self.dtype_name = dtype_name
        super().__init__(name=f"storage({dtype_name})")


# name: (LLVM type in memory, bytes, how it converts)
FORMATS: dict[str, tuple[Any, int, str]] = {
    "bool": (ir.IntType(8), 1, "bool"),
    "uint8": (ir.IntType(8), 1, "unsigned"),
    "int8": (ir.IntType(8), 1, "signed"),
    "int16": (I16, 2, "signed"),
    "int32": (I32, 4, "signed"),
    "int64": (I64, 8, "signed"),
    "float16": (ir.HalfType(), 2, "float"),
    "bfloat16": (I16, 2, "bfloat16"),
    "float32": (ir.FloatType(), 4, "float"),
    "float64": (ir.DoubleType(), 8, "float"),
}


def storage(name: str) -> Storage:
    """The token of the dtype NAME in memory: bool, uint8, int8..int64, float16, bfloat16, float32, float64."""
    if name not in FORMATS:
        raise ValueError(f"no storage type {name!r}; there are {', '.join(FORMATS)}")
    return Storage(name)


def storage_format(kind: Any) -> tuple[Any, int, str]:
    named = token(kind)
    if not isinstance(named, Storage):
        raise errors.TypingError(f"{named} is not a storage token")
    return FORMATS[named.dtype_name]


def native_name(kind: Any) -> str:
    """The storage that holds values of a compute type unchanged."""
    return {types.boolean: "bool"}.get(element(kind), str(element(kind)))


def memory_type_of(memory_type: Any, width: int | None) -> Any:
    return memory_type if width is None else ir.VectorType(memory_type, width)


def decode(builder: Any, raw: Any, form: tuple[Any, int, str], dtype: Any, width: int | None) -> Any:
    """What was read from memory as lanes of dtype."""
    _, size, rule = form
    if rule in ("bool", "unsigned", "signed"):
        if rule == "bool":
            zero = ir.Constant(raw.type, None if width is not None else 0)
            return cast(Lanes(builder, types.boolean, width), builder.icmp_unsigned("!=", raw, zero), dtype)
        integers = Lanes(builder, types.int64, width)
        if size < 8:
            raw = (builder.zext if rule == "unsigned" else builder.sext)(raw, integers.type)
        return cast(integers, raw, dtype)
    single = Lanes(builder, types.float32, width)
    if rule == "bfloat16":
        bits = builder.shl(builder.zext(raw, single.integer.type), single.integer.const(16))
        return cast(single, builder.bitcast(bits, single.type), dtype)
    if size == 2:
        return cast(single, builder.fpext(raw, single.type), dtype)
    return cast(Lanes(builder, types.float32 if size == 4 else types.float64, width), raw, dtype)


def encode(builder: Any, value: Any, lanes: Lanes, form: tuple[Any, int, str]) -> Any:
    """Lanes as the storage type."""
    memory_type, size, rule = form
    target = memory_type_of(memory_type, lanes.width)
    if rule == "bool":
        return builder.zext(cast(lanes, value, types.boolean), target)
    if rule in ("unsigned", "signed"):
        value = cast(lanes, value, types.int64)
        return value if size == 8 else builder.trunc(value, target)
    if size == 8:
        return cast(lanes, value, types.float64)
    value = cast(lanes, value, types.float32)
    if size == 4:
        return value
    if rule == "float":
        return builder.fptrunc(value, target)
    single = lanes.of(types.float32)
    bits, i = builder.bitcast(value, single.integer.type), single.integer
    odd = builder.and_(builder.lshr(bits, i.const(16)), i.const(1))
    rounded = builder.add(bits, builder.add(odd, i.const(0x7FFF)))
    # Rounding could carry a NaN into infinity: keep its high bits and make it quiet instead.
    kept = builder.select(single.isnan(value), builder.or_(bits, i.const(0x400000)), rounded)
    return builder.trunc(builder.lshr(kept, i.const(16)), target)


def prefetch(builder: Any, address: Any, write: bool = False) -> None:
    """Asks for the cache line at an address, soon to be read or written. Any address will do."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, byte), I32(int(write)), I32(3), I32(1)])


def typed_pointer(builder: Any, address: Any, pointee: Any) -> Any:
    return builder.inttoptr(address, pointee.as_pointer())


def _address(kind: Any) -> None:
    if element(kind) != types.int64 or isinstance(kind, Vec):
        raise errors.TypingError(f"an address is an int64, not {kind}")


def _load_rule(result: Any, form: tuple[Any, int, str], signature: Any, count: bool) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width = width_of(result)
        memory = memory_type_of(form[0], width)
        address = convert(builder, args[1], sig.args[1], types.int64, None)
        pointer = typed_pointer(builder, address, memory)
        if count:
            first = first_lanes(builder, convert(builder, args[2], sig.args[2], types.int64, None), width)
            raw = masked_load(builder, pointer, first, memory, form[1])
        else:
            raw = builder.load(pointer, align=form[1])
        return decode(builder, raw, form, element(result), width)

    return result(*signature), codegen


def _store_rule(value: Any, form: tuple[Any, int, str], signature: Any, count: bool) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(builder, element(value), width_of(value))
        number = convert(builder, args[1], sig.args[1], lanes.dtype, lanes.width)
        raw = encode(builder, number, lanes, form)
        address = convert(builder, args[0], sig.args[0], types.int64, None)
        pointer = typed_pointer(builder, address, raw.type)
        if count:
            first = first_lanes(builder, convert(builder, args[2], sig.args[2], types.int64, None), lanes.width)
            _masked_store(builder, raw, pointer, first, form[1])
        else:
            builder.store(raw, pointer, align=form[1])
        return context.get_dummy_value()

    return types.void(*signature), codegen


def first_lanes(builder: Any, n: Any, width: int | None) -> Any:
    """The mask of lanes 0..n-1."""
    if width is None:
        raise errors.TypingError("a masked load or store needs a SIMD value")
    lanes = Lanes(builder, types.int64, width)
    return builder.icmp_signed("<", ir.Constant(lanes.type, list(range(width))), lanes.splat(n))


def masked_load(builder: Any, pointer: Any, mask: Any, memory: Any, align: int) -> Any:
    name = f"llvm.masked.load.v{memory.count}{_short(memory.element)}.p0"
    zero = ir.Constant(memory, None)
    return Lanes(builder, types.float32, None).function(name, memory, [pointer, ir.Constant(I32, align), mask, zero])


def _masked_store(builder: Any, raw: Any, pointer: Any, mask: Any, align: int) -> None:
    name = f"llvm.masked.store.v{raw.type.count}{_short(raw.type.element)}.p0"
    Lanes(builder, types.float32, None).function(name, ir.VoidType(), [raw, pointer, ir.Constant(I32, align), mask])


def _short(scalar: Any) -> str:
    return {"half": "f16", "float": "f32", "double": "f64"}.get(str(scalar), str(scalar))


@intrinsic
def load(typingctx: Any, kind: Any, address: Any) -> Any:
    """The value of type `kind` at address; contiguous lanes, any alignment."""
    _address(address)
    return _load_rule(token(kind), FORMATS[native_name(token(kind))], (kind, address), False)


@intrinsic
def load_as(typingctx: Any, kind: Any, address: Any, stored: Any) -> Any:
    """The value at address, stored as `stored`, converted to `kind`."""
    _address(address)
    return _load_rule(token(kind), storage_format(stored), (kind, address, stored), False)


@intrinsic
def load_first(typingctx: Any, kind: Any, address: Any, n: Any, stored: Any) -> Any:
    """The first n lanes at address, stored as `stored`; the others are 0 and their memory is not touched."""
    _address(address)
    return _load_rule(token(kind), storage_format(stored), (kind, address, n, stored), True)


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Writes value at address, contiguous lanes, any alignment; a boolean takes a byte."""
    _address(address)
    return _store_rule(value, FORMATS[native_name(value)], (address, value), False)


@intrinsic
def store_as(typingctx: Any, address: Any, value: Any, stored: Any) -> Any:
    """Writes value at address in the format `stored`."""
    _address(address)
    return _store_rule(value, storage_format(stored), (address, value, stored), False)


@intrinsic
def store_first(typingctx: Any, address: Any, value: Any, n: Any, stored: Any) -> Any:
    """Writes the first n lanes of value at address in the format `stored`."""
    _address(address)
    return _store_rule(value, storage_format(stored), (address, value, n, stored), True)


@intrinsic
def splat(typingctx: Any, kind: Any, x: Any) -> Any:
    """The scalar x in every lane, converted to the lane type of `kind`."""
    result = token(kind)
    if isinstance(x, Vec):
        raise errors.TypingError("splat takes a scalar")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return convert(builder, args[1], x, element(result), width_of(result))

    return result(kind, x), codegen


@intrinsic
def iota(typingctx: Any, kind: Any, start: Any) -> Any:
    """start + lane number."""
    result = token(kind)
    width = width_of(result)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = convert(builder, args[1], start, element(result), width)
        if width is None:
            return first
        steps = ir.Constant(first.type, [float(k) if is_float(element(result)) else k for k in range(width)])
        return (builder.fadd if is_float(element(result)) else builder.add)(first, steps)

    return result(kind, start), codegen


@intrinsic
def gather(typingctx: Any, kind: Any, base: Any, index: Any, stored: Any) -> Any:
    """base[index] for each lane of index (in elements; a scalar gives a scalar), as the lane type of `kind`."""
    _address(base)
    form, width, dtype = storage_format(stored), width_of(index), element(token(kind))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = convert(builder, args[1], base, types.int64, None)
        places = convert(builder, args[2], index, types.int64, width)
        lanes = Lanes(builder, types.int64, width)
        addresses = builder.add(builder.mul(places, lanes.const(form[1])), lanes.splat(start))
        if width is None:
            raw = builder.load(typed_pointer(builder, addresses, form[0]), align=form[1])
        else:
            raw = ir.Constant(memory_type_of(form[0], width), ir.Undefined)
            for k in range(width):
                address = builder.extract_element(addresses, ir.Constant(I32, k))
                one = builder.load(typed_pointer(builder, address, form[0]), align=form[1])
                raw = builder.insert_element(raw, one, ir.Constant(I32, k))
        return decode(builder, raw, form, dtype, width)

    return shaped(dtype, width)(kind, base, index, stored), codegen


@intrinsic
def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Adds amount to the int64 at address, atomically, and returns what was there before."""
    _address(address)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = convert(builder, args[0], address, types.int64, None)
        value = convert(builder, args[1], amount, types.int64, None)
        return builder.atomic_rmw("add", typed_pointer(builder, place, I64), value, "seq_cst")

    return types.int64(address, amount), codegen


def _ask(name: str, write: bool) -> Any:
    def ask(typingctx: Any, address: Any) -> Any:
        _address(address)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            prefetch(builder, convert(builder, args[0], address, types.int64, None), write)
            return context.get_dummy_value()

        return types.void(address), codegen

    ask.__name__ = name
    return intrinsic(ask)


# The cache line at an address is soon read, or written. It may be any address.
ask_to_read = _ask("ask_to_read", False)
ask_to_write = _ask("ask_to_write", True)


def _reduction(name: str, on_mask: str | None, on_int: str | None, on_float: str | None) -> Any:
    def reduce(typingctx: Any, x: Any) -> Any:
        dtype, width = element(x), width_of(x)
        rule = on_float if is_float(dtype) else on_mask if dtype == types.boolean else on_int
        if rule is None:
            raise errors.TypingError(f"{name} is not defined on {x}")

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes, single = Lanes(builder, dtype, width), Lanes(builder, dtype, None)
            if width is None:
                return convert(builder, args[0], x, dtype, None)
            values = [single.const(0), args[0]] if rule == "fadd" else [args[0]]
            return single.function(f"llvm.vector.reduce.{rule}.{lanes.suffix}", single.type, values)

        return dtype(x), codegen

    reduce.__name__ = name
    return intrinsic(reduce)


any = _reduction("any", "or", None, None)
all = _reduction("all", "and", None, None)
reduce_sum = _reduction("reduce_sum", None, "add", "fadd")
reduce_max = _reduction("reduce_max", None, "smax", "fmaximum")
reduce_min = _reduction("reduce_min", None, "smin", "fminimum")
