"""Arrays of a thread's own numbers, which become registers, and the types of operands: importing this imports numba-cuda."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.core import errors
from numba.cuda.cudadrv.nvvm import ADDRSPACE_LOCAL
from numba.cuda.cudaimpl import _generic_array
from numba.cuda.extending import _intrinsic, core_models, register_model

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
# letter: (type in Numba, type of the operand of the instruction, its register class)
LETTERS: dict[str, tuple[Any, Any, str]] = {
    "r": (types.int32, I32, "r"),
    "l": (types.int64, I64, "l"),
    "f": (types.float32, F32, "f"),
    "d": (types.float64, F64, "d"),
    "h": (types.int32, I16, "h"),
    "p": (types.boolean, I32, "r"),
}
OF_ARRAYS = ("f", "d", "r", "l")

# Numba's decorator for functions that see whether an operand is a constant.
literal_intrinsic = _intrinsic(target="cuda", prefer_literal=True)


class Registers(types.Array):
    """An array whose extents are part of its type: instructions take all of it."""

    def __init__(self, letter: str, extents: tuple[int, ...]) -> None:
        self.letter, self.extents = letter, extents
        super().__init__(LETTERS[letter][0], len(extents), "C", name=f"registers({extents}, {letter})")

    @property
    def size(self) -> int:
        """How many registers."""
        return math.prod(self.extents)

    @property
    def key(self) -> Any:
        """What equal types share."""
        return self.letter, self.extents

    @property
    def mangling_args(self) -> Any:
        """Names of functions compiled for the type."""
        return "Registers", [self.dtype, *self.extents]


@register_model(Registers)
class RegistersModel(core_models.ArrayModel):
    """As any array: what is not used of it vanishes."""


@literal_intrinsic
def registers(typingctx: Any, shape: Any, kind: Any) -> Any:
    """An array of this thread's own numbers, of a letter f, d, r or l: registers where all indices are constants at last."""
    extents = list(shape) if isinstance(shape, types.BaseTuple) else [shape]
    letter = getattr(kind, "literal_value", None)
    if not all(isinstance(n, types.IntegerLiteral) for n in extents) or letter not in OF_ARRAYS:
        raise errors.TypingError(f"registers: a constant shape and one of the letters f, d, r, l, not {shape}, {kind}")
    made = Registers(letter, tuple(n.literal_value for n in extents))
    if made.size <= 0:
        raise errors.TypingError(f"registers: nothing fits into the shape {made.extents}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _generic_array(
            context, builder, shape=made.extents, dtype=made.dtype, symbol_name="registers", addrspace=ADDRSPACE_LOCAL
        )

    return made(shape, kind), codegen


def places(context: Any, builder: Any, kind: Registers, array: Any) -> list[Any]:
    """The addresses of an array's numbers, in C order."""
    start = context.make_array(kind)(context, builder, array).data
    return [builder.gep(start, [ir.Constant(I64, n)]) for n in range(kind.size)]


def update(
    builder: Any, text: str, kind: Registers, at: list[Any], operands: list[tuple[str, Any]], memory: bool
) -> None:
    """An instruction that reads and writes the registers at these addresses, its operands 0.., and reads what follows.

    Operands 0.. are results, each tied to an input; the further ones, (letter, value), are numbered after the inputs.
    """
    _, number, register = LETTERS[kind.letter]
    values = [builder.load(place) for place in at] + [value for _, value in operands]
    ties = [f"={register}"] * len(at) + [str(n) for n in range(len(at))]
    constraints = [*ties, *(LETTERS[letter][2] for letter, _ in operands), *["~{memory}"] * memory]
    result = number if len(at) == 1 else ir.LiteralStructType([number] * len(at))
    asm = ir.InlineAsm(ir.FunctionType(result, [x.type for x in values]), text, ",".join(constraints), side_effect=True)
    found = builder.call(asm, values, attrs=("convergent",))
    for n, place in enumerate(at):
        builder.store(found if len(at) == 1 else builder.extract_value(found, n), place)


@literal_intrinsic
def hold(typingctx: Any, array: Any) -> Any:
    """No instruction, but what reads and writes an array's registers stays on its side of it."""
    if not isinstance(array, Registers):
        raise errors.TypingError(f"hold: an array of registers, not {array}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        update(builder, "", array, places(context, builder, array, args[0]), [], memory=True)
        return context.get_dummy_value()

    return types.void(array), codegen
