"""Moving numbers between the user's memory and scratch: queries in as Q^T, accumulators out as rows, halves widened.

In all of these, F is the SIMD type, T its lane type, `stored` the format in the user's memory, sizes and pitches are bytes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.extending import intrinsic
from numba.extending import register_jitable

from attnc.backends.cpu.lanes import I32, Lanes, convert, element, is_float, token
from attnc.backends.cpu.memory import (
    FORMATS,
    decode,
    encode,
    load_as,
    load_first,
    memory_type_of,
    native_name,
    splat,
    storage_format,
    store,
    typed_pointer,
)
from attnc.backends.cpu.pieces import function
from attnc.backends.cpu.vector import Vec, host_width

I64 = ir.IntType(64)
# What a transposition is told, all int64: byte addresses, byte strides, and counts.
OPERANDS = ("target", "target_step", "source", "source_step", "rows", "m", "n")


def _int(value: int) -> Any:
    return ir.Constant(I64, value)


@dataclass(frozen=True, slots=True)
class Transposition:
    """target[x][y] = source[min(y, rows - 1)][x] for x < m and y < n, in blocks of `width` x `width` numbers.

    The last block in a direction starts early and overlaps the one before it, so that nothing outside m x n is touched
    and no mask is needed. Counts below `width` are left to the transposition of half the width.
    """

    dtype: Any  # in registers: float32 or float64
    width: int  # a power of two
    read: tuple[Any, int, str]  # the storage format of the source,
    write: tuple[Any, int, str]  # and of the target

    @property
    def family(self) -> str:
        """See `attnc.backends.cpu.pieces`."""
        read, write = (f"{rule}{8 * size}" for _, size, rule in (self.read, self.write))
        return f"attnc.transpose.{self.dtype}.{read}.{write}"

    @property
    def name(self) -> str:
        return f"{self.family}.{self.width}"

    @property
    def operands(self) -> int:
        return len(OPERANDS)

    def build(self, found: Any) -> None:
        """Fill in the LLVM function."""
        b = ir.IRBuilder(found.append_basic_block())
        at = dict(zip(OPERANDS, found.args, strict=True))
        if self.width > 1:
            with b.if_then(b.icmp_signed("<", _least(b, at["m"], at["n"]), _int(self.width))):
                b.call(function(b.module, replace(self, width=self.width // 2)), found.args)
                b.ret_void()
        with _starts(b, at["m"], self.width) as x, _starts(b, at["n"], self.width) as y:
            self._block(b, at, x, y)
        b.ret_void()

    def _block(self, b: Any, at: dict[str, Any], x: Any, y: Any) -> None:
        """target[x + k][y + l] for k, l < width."""
        lanes = Lanes(b, self.dtype, self.width if self.width > 1 else None)
        column = b.add(at["source"], b.mul(x, _int(self.read[1])))
        last = b.sub(at["rows"], _int(1))
        block = []
        for k in range(self.width):
            row = b.mul(_least(b, b.add(y, _int(k)), last), at["source_step"])
            place = typed_pointer(b, b.add(column, row), memory_type_of(self.read[0], lanes.width))
            block.append(decode(b, b.load(place, align=self.read[1]), self.read, self.dtype, lanes.width))
        start = b.add(b.add(at["target"], b.mul(y, _int(self.write[1]))), b.mul(x, at["target_step"]))
        for vector in _transposed(b, block, 128 // lanes.bits):
            raw = encode(b, vector, lanes, self.write)
            b.store(raw, typed_pointer(b, start, raw.type), align=self.write[1])
            start = b.add(start, at["target_step"])


def _least(b: Any, x: Any, y: Any) -> Any:
    return Lanes(b, types.int64, None).call("smin", x, y)


@contextlib.contextmanager
def _starts(b: Any, count: Any, width: int) -> Iterator[Any]:
    """A loop over the starts of blocks of `width` that cover 0..count-1; count is 0 or at least width."""
    with cgutils.for_range_slice(b, _int(0), count, _int(width), intp=I64) as (index, _):
        yield _least(b, index, b.sub(count, _int(width)))


def _transposed(b: Any, block: Sequence[Any], register: int) -> list[Any]:
    """The columns of a square block of vectors, in log2(width) stages of `width` shuffles.

    A stage deals two vectors into the even and the odd numbers of both: first inside each 128-bit register (`register`
    lanes), then by whole such registers. Those are the shuffles that x86 and ARM have as single instructions.
    """
    vectors, width = list(block), len(block)
    distance = 1
    while distance < width:
        inside = distance < min(register, width)
        unit, group = (1, min(register, width)) if inside else (register, width)
        for i in (i for i in range(width) if not i & distance):
            pair = vectors[i], vectors[i + distance]
            for odd in range(2):
                lanes = ir.Constant(ir.VectorType(I32, width), _dealt(width, unit, group, odd))
                vectors[i + odd * distance] = b.shuffle_vector(*pair, lanes)
        distance *= 2
    return vectors


def _dealt(width: int, unit: int, group: int, odd: int) -> list[int]:
    """Lanes of two vectors: of each `group` of lanes the even (or odd) `unit`s of the first, then of the second."""
    half = group // unit // 2
    lanes = []
    for lane in range(width):
        number = lane % group // unit
        source = number % half * 2 + odd
        lanes.append(number // half * width + lane // group * group + source * unit + lane % unit)
    return lanes


def _rule(operands: Sequence[Any], F: Any, read: Any, write: Any, order: Sequence[int]) -> Any:
    """Signature and code of an intrinsic; `order` says which of its operands are a transposition's OPERANDS.

    F: a SIMD type, whose width the blocks get, or a lane type, for this machine's width. read, write: storage tokens, or
    None where the numbers lie as F has them.
    """
    kind = token(F)
    dtype = element(kind)
    if not is_float(dtype):
        raise errors.TypingError(f"rows of float32 or float64 are rearranged, not of {kind}")
    width = kind.width if isinstance(kind, Vec) else host_width(dtype.bitwidth // 8)
    if width & (width - 1):
        raise errors.TypingError(f"blocks of {width} lanes: the width must be a power of two")
    counts = [operands[k] for k in order[-2:]]
    for n in (t.literal_value for t in counts if isinstance(t, types.IntegerLiteral)):
        while width > max(n, 1):
            width //= 2
    native = FORMATS[native_name(dtype)]
    transposition = Transposition(
        dtype, width, storage_format(read) if read else native, storage_format(write) if write else native
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        values = [convert(builder, args[k], sig.args[k], types.int64, None) for k in order]
        builder.call(function(builder.module, transposition), values)
        return context.get_dummy_value()

    return types.void(*operands), codegen


@intrinsic(prefer_literal=True)
def pack_rows(
    typingctx: Any, T: Any, target: Any, pitch: Any, source: Any, step: Any, stored: Any, rows: Any, lanes: Any,
    features: Any,
) -> Any:  # fmt: skip
    """target[f][lane] = source[lane][f] for `lanes` lanes, of which those from `rows` on repeat the last row."""
    operands = (T, target, pitch, source, step, stored, rows, lanes, features)
    return _rule(operands, T, stored, None, (1, 2, 3, 4, 6, 8, 7))


@intrinsic(prefer_literal=True)
def unpack_rows(
    typingctx: Any, T: Any, target: Any, step: Any, stored: Any, source: Any, pitch: Any, rows: Any, features: Any,
) -> Any:  # fmt: skip
    """target[row][f] = source[f][row]."""
    operands = (T, target, step, stored, source, pitch, rows, features)
    return _rule(operands, T, None, stored, (1, 2, 4, 5, 7, 6, 7))


@register_jitable
def fill(F: Any, target: int, rows: int, pitch: int, vectors: int, vector_size: int) -> None:
    """Zeros: `rows` rows of `vectors` vectors."""
    zero = splat(F, 0.0)
    for r in range(rows):
        for x in range(vectors):
            store(target + r * pitch + x * vector_size, zero)


@register_jitable
def widen(
    F: Any, target: int, pitch: int, size: int, source: int, step: int, stored: Any, stored_size: int, rows: int,
    features: int, width: int,
) -> None:  # fmt: skip
    """target[r][f] = source[r][f] in the compute type, rows filled up to whole vectors with zeros."""
    whole = features // width * width
    for r in range(rows):
        for f in range(0, whole, width):
            store(target + r * pitch + f * size, load_as(F, source + r * step + f * stored_size, stored))
        if whole < features:
            last = load_first(F, source + r * step + whole * stored_size, features - whole, stored)
            store(target + r * pitch + whole * size, last)
