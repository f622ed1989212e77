"""Functions that many kernels call, and that are therefore compiled once on a machine, to objects of their own.

A piece is a function of int64 numbers, all that it does decided by its name: a matrix product of one register tile, a
transposition. Pieces of one family differ in their size only, are called by the same kernels and lie in the same object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from llvmlite import ir

I64 = ir.IntType(64)


class Piece(Protocol):
    """`family` begins the name; `operands`: how many numbers it takes."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def operands(self) -> int: ...
    def build(self, function: Any) -> None:
        """Fill in the LLVM function."""
        ...


class Module(ir.Module):
    """A module whose pieces are compiled elsewhere: it collects those that it calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.pieces: list[Piece] = []


def function(module: Any, piece: Piece) -> Any:
    """The piece in an LLVM module: declared where the module collects pieces, else built at its first use.

    Not inlined: each is compiled once.
    """
    found = module.globals.get(piece.name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * piece.operands), piece.name)
        if isinstance(module, Module):
            module.pieces.append(piece)
        else:
            found.linkage = "internal"
            found.attributes.add("noinline")
            piece.build(found)
    return found


def families(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Pieces by family, in the order of their names."""
    found: dict[str, list[Piece]] = {}
    for piece in sorted(pieces, key=lambda x: x.name):
        found.setdefault(piece.family, []).append(piece)
    return list(found.values())


def library(pieces: Iterable[Piece]) -> Any:
    """A module that holds the pieces, for others to call."""
    module = ir.Module("pieces")
    for piece in pieces:
        function(module, piece).linkage = "external"
    return module
