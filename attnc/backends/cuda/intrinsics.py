"""The instructions of `ptx.TABLE` and a few more as functions that Numba compiles: importing this imports numba-cuda.

Operands are converted as the table's letters ask, so int64 arithmetic of a kernel meets 32-bit addresses by itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.core import errors
from numba.cuda.cudadrv.nvvm import ADDRSPACE_SHARED
from numba.cuda.cudaimpl import registry as implementations
from numba.cuda.extending import core_models, intrinsic, register_model

from attnc.backends.cuda.ptx import BY_NAME, Instruction
from attnc.backends.cuda.registers import I8, I32, I64, LETTERS, literal_intrinsic
from attnc.backends.cuda.registers import hold as hold
from attnc.backends.cuda.registers import registers as registers
from attnc.backends.cuda.unroll import MARK
from attnc.backends.cuda.wgmma import wgmma_rs as wgmma_rs
from attnc.backends.cuda.wgmma import wgmma_ss as wgmma_ss

SHARED_ALIGNMENT = 1024  # the widest swizzle pattern of shared memory repeats after as many bytes


def __getattr__(name: str) -> Any:
    row = BY_NAME.get(name)
    if row is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return instruction(row)


@functools.cache
def instruction(row: Instruction) -> Any:
    """The Numba function of one row."""

    def typing(typingctx: Any, *kinds: Any) -> Any:
        for letter, kind in zip(row.operands, kinds, strict=True):
            _check(row.name, letter, kind)
        constants = {n: k.literal_value for n, k in enumerate(kinds) if row.operands[n] == "n"}
        wanted = [k if c == "n" else LETTERS[c][0] for c, k in zip(row.operands, kinds, strict=True)]

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            results = assemble(builder, row, args, constants)
            if len(results) < 2:
                return results[0] if results else context.get_dummy_value()
            return context.make_tuple(builder, sig.return_type, results)

        return _result(row.results)(*wanted), codegen

    return intrinsic_of(row.name, [f"x{n}" for n in range(len(row.operands))], typing, literals="n" in row.operands)


def _check(name: str, letter: str, kind: Any) -> None:
    plain = types.unliteral(kind)
    if letter == "n":
        fits = isinstance(kind, types.IntegerLiteral)
    elif letter in "fd":
        fits = isinstance(plain, types.Number)
    else:
        fits = isinstance(plain, types.Boolean if letter == "p" else types.Integer)
    if not fits:
        raise errors.TypingError(f"{name}: an operand {letter!r} cannot be {kind}")


def _result(letters: str) -> Any:
    kinds = [LETTERS[c][0] for c in letters]
    if len(kinds) < 2:
        return kinds[0] if kinds else types.void
    return types.UniTuple(kinds[0], len(kinds)) if len(set(kinds)) == 1 else types.Tuple(kinds)


def intrinsic_of(name: str, operands: Sequence[str], typing: Callable[..., Any], literals: bool = False) -> Any:
    """A function of the operands' types, which gives a signature and a code generator, as the intrinsic `name`."""

    def checked(typingctx: Any, *kinds: Any) -> Any:
        if len(kinds) != len(operands):
            raise errors.TypingError(f"{name} takes {len(operands)} operands, not {len(kinds)}")
        return typing(typingctx, *kinds)

    parameter = inspect.Parameter
    parameters = [parameter(x, parameter.POSITIONAL_OR_KEYWORD) for x in ("typingctx", *operands)]
    checked.__name__ = checked.__qualname__ = name
    checked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return (literal_intrinsic if literals else intrinsic)(checked)


def assemble(builder: Any, row: Instruction, args: Sequence[Any], constants: dict[int, int] | None = None) -> list[Any]:
    """The results of one instruction on LLVM values, as inline assembly."""
    text = _text(row, constants or {})
    values, classes = [], []
    for letter, value in zip(row.operands, args, strict=True):
        if letter == "n":
            continue
        _, kind, register = LETTERS[letter]
        classes.append(register)
        if letter in "ph":
            value = builder.zext(value, kind) if letter == "p" else builder.trunc(value, kind)
        values.append(value)
    outs = [LETTERS[c][1] for c in row.results]
    result = ir.VoidType() if not outs else outs[0] if len(outs) == 1 else ir.LiteralStructType(outs)
    constraints = ["=" + LETTERS[c][2] for c in row.results] + classes + ["~{memory}"] * row.memory
    signature = ir.FunctionType(result, [v.type for v in values])
    asm = ir.InlineAsm(signature, text, ",".join(constraints), side_effect=row.memory)
    call = builder.call(asm, values, attrs=("convergent",) if row.convergent else ())
    found = [call] if len(outs) == 1 else [builder.extract_value(call, n) for n in range(len(outs))]
    return [
        builder.icmp_unsigned("!=", x, ir.Constant(I32, 0)) if c == "p" else x
        for c, x in zip(row.results, found, strict=True)
    ]


def _text(row: Instruction, constants: dict[int, int]) -> str:
    """The row's text with constants put in; a predicated one under a predicate made of its first operand."""
    text = row.text
    for n, value in constants.items():  # a row has no other operand beside its constant
        text = text.replace(f"${len(row.results) + n}", str(value))
    return f"{{ .reg .pred go; setp.ne.b32 go, $0, 0; @go {text} }}" if row.predicated else text


def device(letters: str) -> Callable[[Any], Any]:
    """Makes a Python function one that kernels can call; `letters` are its results.

    Numba's own decorators ask a driver for the device to compile for, and so need one.
    """

    def decorate(function: Any) -> Any:
        def typing(typingctx: Any, *kinds: Any) -> Any:
            sig = _result(letters)(*map(types.unliteral, kinds))

            def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                return call_python(context, builder, function, sig, args)

            return sig, codegen

        return intrinsic_of(function.__name__, list(inspect.signature(function).parameters), typing)

    return decorate


def call_python(context: Any, builder: Any, function: Any, sig: Any, args: Sequence[Any]) -> Any:
    """A call of a Python function, compiled for operands of these types; it raises nothing."""
    compiled = context.python(function, sig)
    return context.call_internal_no_propagate(builder, compiled.fndesc, sig, args)[1]


def _special(name: str, register: str) -> Any:
    def typing(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.call(declared(builder.module, f"llvm.nvvm.read.ptx.sreg.{register}", I32, []), [])

        return types.int32(), codegen

    return intrinsic_of(name, [], typing)


def declared(module: Any, name: str, result: Any, operands: Sequence[Any]) -> Any:
    """The module's function of that name, declared at its first use."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, operands), name)


thread, block, blocks = _special("thread", "tid.x"), _special("block", "ctaid.x"), _special("blocks", "nctaid.x")


class Counter(types.SimpleIteratorType):
    """Counts from 0 up to a constant, in int64, for a loop that is unrolled completely."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"unrolled({count})", types.int64)


@register_model(Counter)
class CounterModel(core_models.PrimitiveModel):
    """The address of the next number."""

    def __init__(self, models: Any, kind: Any) -> None:
        super().__init__(models, kind, I64.as_pointer())


@literal_intrinsic
def unrolled(typingctx: Any, count: Any) -> Any:
    """range(count) of a constant, whose loop leaves no counter behind; see `unroll.unroll`."""
    if not isinstance(count, types.IntegerLiteral):
        raise errors.TypingError(f"unrolled: a constant, not {count}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.alloca_once_value(builder, ir.Constant(I64, 0))

    return Counter(count.literal_value)(count), codegen


@implementations.lower("getiter", Counter)
def itself(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """A counter is its own iterator."""
    return args[0]


@implementations.lower("iternext", Counter)
def following(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """The number, and whether the loop goes on; `unroll.unroll` counts."""
    pair, number = context.make_helper(builder, sig.return_type), builder.load(args[0])
    number.set_metadata(MARK, builder.module.add_metadata([]))
    pair.first, pair.second = number, builder.icmp_signed("<", number, ir.Constant(I64, sig.args[0].count))
    return pair._getvalue()


@intrinsic
def shared(typingctx: Any) -> Any:
    """The address of the block's dynamic shared memory."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = builder.module.globals.get("attnc_shared")
        if memory is None:
            memory = ir.GlobalVariable(builder.module, ir.ArrayType(I8, 0), "attnc_shared", addrspace=ADDRSPACE_SHARED)
            memory.linkage, memory.align = "external", SHARED_ALIGNMENT
        return builder.ptrtoint(memory, I32)

    return types.int32(), codegen
