"""Matrix instructions of four warps, m64nNk16, as functions that Numba compiles: importing this imports numba-cuda.

They go on while the threads do. Until `wgmma_wait` has waited for their group, their accumulators may not be touched, nor
the registers and the shared memory that they read be changed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.core import errors

from attnc.backends.cuda.registers import I64, Registers, literal_intrinsic, places, update

KINDS = ("bf16", "f16")
COLUMNS = range(8, 257, 8)
OF_A = 4  # registers of a 64 x 16 operand: the fragment of mma.m16n8k16


def _accumulators(name: str, array: Any, kind: Any, trans: Any) -> tuple[int, str, int]:
    """N, the kind of numbers and whether b is transposed. TypingError where the instruction does not exist."""
    if not isinstance(array, Registers) or array.letter != "f" or 2 * array.size not in COLUMNS:
        raise errors.TypingError(f"{name}: accumulators are 4, 8, .. or 128 float32 registers, not {array}")
    chosen, turned = getattr(kind, "literal_value", None), getattr(trans, "literal_value", None)
    if chosen not in KINDS or turned not in (0, 1):
        raise errors.TypingError(f"{name}: the kind is one of {KINDS} and trans 0 or 1, not {kind}, {trans}")
    return 2 * array.size, chosen, turned


def _integers(name: str, *operands: Any) -> None:
    for kind in operands:
        if not isinstance(types.unliteral(kind), types.Integer):
            raise errors.TypingError(f"{name}: descriptors, `add` and `n` are integers, not {kind}")


def _text(columns: int, kind: str, a: int, tail: str) -> str:
    """The instruction; a: how many operands describe A."""
    last = columns  # the first operand after the accumulators, as results and as inputs
    accumulators, left = (", ".join(f"${n}" for n in x) for x in (range(columns // 2), range(last, last + a)))
    return (
        f"{{ .reg .pred add; setp.ne.b32 add, ${last + a + 1}, 0; "
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} "
        f"{{{accumulators}}}, {f'{{{left}}}' if a > 1 else left}, ${last + a}, add, 1, 1, {tail}; }}"
    )


@literal_intrinsic
def wgmma_ss(typingctx: Any, acc: Any, a: Any, b: Any, add: Any, kind: Any, trans: Any) -> Any:
    """acc = A B, or acc += A B where `add` is not 0. a, b: descriptors of shared memory; trans: 1 where B's rows run along K."""
    columns, chosen, turned = _accumulators("wgmma_ss", acc, kind, trans)
    _integers("wgmma_ss", a, b, add)
    text = _text(columns, chosen, 1, f"0, {turned}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        operands = [("l", args[1]), ("l", args[2]), ("r", args[3])]
        update(builder, text, acc, places(context, builder, acc, args[0]), operands, memory=True)
        return context.get_dummy_value()

    return types.void(acc, types.int64, types.int64, types.int32, kind, trans), codegen


@literal_intrinsic
def wgmma_rs(typingctx: Any, acc: Any, a: Any, n: Any, b: Any, add: Any, kind: Any, trans: Any) -> Any:
    """The same with A in registers: numbers 4 n .. 4 n + 3 of an array of letter r. n: a constant at last."""
    columns, chosen, turned = _accumulators("wgmma_rs", acc, kind, trans)
    _integers("wgmma_rs", n, b, add)
    if not isinstance(a, Registers) or a.letter != "r" or a.size % OF_A:
        raise errors.TypingError(f"wgmma_rs: a matrix of 64 x 16 has {OF_A} registers r, not {a}")
    text = _text(columns, chosen, OF_A, str(turned))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = places(context, builder, acc, args[0])
        operands = [*_fragment(context, builder, a, args[1], args[2]), ("l", args[3]), ("r", args[4])]
        update(builder, text, acc, at, operands, memory=True)
        return context.get_dummy_value()

    return types.void(acc, a, types.int64, types.int64, types.int32, kind, trans), codegen


def _fragment(context: Any, builder: Any, kind: Registers, array: Any, n: Any) -> list[tuple[str, Any]]:
    """The registers of the matrix number n of an array."""
    start, first = context.make_array(kind)(context, builder, array).data, builder.mul(n, ir.Constant(I64, OF_A))
    at = [builder.gep(start, [builder.add(first, ir.Constant(I64, k))]) for k in range(OF_A)]
    return [("r", builder.load(place)) for place in at]
