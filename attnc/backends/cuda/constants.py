"""Parameters of a kernel that are no words: descriptions of arrays for the copy engine, by value in constant memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from llvmlite import ir
from numba.cuda import cgutils

BYTES = 128  # of a CUtensorMap
ALIGNMENT = 64


class _Plain(ir.values.ArgumentAttributes):
    """NVVM reads LLVM 7, where `byval` does not repeat the type."""

    _known: ClassVar[dict[str, bool]] = {**ir.values.ArgumentAttributes._known, "byval": False}


def by_value(function: Any, places: Collection[int]) -> None:
    """Makes the parameters at these places, int64 so far, 128 bytes each that are only read; the body has their addresses.

    `function` is to become a kernel, which has lost its first parameter, the place of the result.
    """
    if not places:
        return
    module, arguments, memory = function.module, list(function.args), ir.ArrayType(ir.IntType(8), BYTES).as_pointer()
    for n in places:
        word = arguments[n + 1]
        assert word.type == ir.IntType(64), f"internal error: parameter {n} of the kernel is {word}"
        arguments[n + 1] = ir.Argument(function, memory, name=f"{word.name}.bytes")
        arguments[n + 1].attributes = _Plain(["byval"])
        arguments[n + 1].attributes.align = ALIGNMENT
        _replace(function, word, arguments[n + 1])
    function.args = tuple(arguments)
    function.ftype = ir.FunctionType(function.ftype.return_type, [x.type for x in arguments])
    function.type = function.ftype.as_pointer()
    numbers = module.add_metadata([ir.Constant(ir.IntType(32), n + 1) for n in places])
    note = module.add_metadata([function, ir.MetaDataString(module, "grid_constant"), numbers])
    cgutils.get_or_insert_named_metadata(module, "nvvm.annotations").add(note)


def _replace(function: Any, word: Any, pointer: Any) -> None:
    """Puts the address of `pointer` where the body reads `word`."""
    start = ir.IRBuilder(function.entry_basic_block)
    start.position_at_start(function.entry_basic_block)
    address = start.ptrtoint(pointer, word.type)
    for block in function.blocks:
        for x in block.instructions:
            x.replace_usage(word, address)
