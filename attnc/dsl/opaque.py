"""What a traced value refuses to do, each with the reason and the cure."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from attnc.errors import Location, TraceError
from attnc.ir.graph import Node

_PACKAGE = str(Path(__file__).resolve().parent.parent)


def here() -> Location | None:
    """The innermost frame outside of attnc: the user's line that is being traced."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE) or "/variants/" in code.co_filename:
            positions = list(code.co_positions())
            line, _, column, end = positions[frame.f_lasti // 2] if frame.f_lasti >= 0 else (None, None, None, None)
            return Location(
                code.co_filename, line or frame.f_lineno, -1 if column is None else column, -1 if end is None else end
            )
        frame = frame.f_back
    return None


_AT_NAMES = {"absolute": "abs", "power": "pow"}


def captured_array(x: Any) -> TraceError:
    """The error for an array that the variant closes over instead of taking it as an operand."""
    shape = tuple(getattr(x, "shape", ()))
    axes = ", ".join(repr(a) for a in "nmpq"[: max(len(shape), 1)])
    return TraceError(
        "an array inside the variant",
        where=here(),
        cause=f"an array of shape {shape} is captured by the function; its values would be baked into the kernel",
        cure=f"make it an operand: add a keyword-only parameter, name: at.Tensor[{axes}], index it, and pass name=array at the call",
    )


def refuse_numpy(name: str) -> TraceError:
    """The error for a NumPy function of a traced value."""
    return TraceError(
        f"numpy.{name} of a traced value",
        where=here(),
        cause="NumPy computes on arrays; a traced value is an expression",
        cure=f"use at.{_AT_NAMES.get(name, name)} if the language has it (docs/language.md lists all functions)",
    )


class Opaque:
    """Base of traced values: it has no truth, number, length, items or state while the formula is traced."""

    __slots__ = ("node",)
    node: Node

    def __bool__(self) -> NoReturn:
        raise TraceError(
            "a traced value has no truth value",
            where=here(),
            cause=f"`if`, `while`, `and`, `or`, `not`, or a chained comparison needs {self.node!r} while the formula is traced, once, for all pairs",
            cure="choose with at.where(condition, a, b); combine masks with & | ~, and write (a <= b) & (b < c)",
        )

    def _no_value(self, what: str) -> NoReturn:
        raise TraceError(
            f"{what} of a traced value",
            where=here(),
            cause=f"{self.node!r} stands for a value at every (query, key) pair and has none while the formula is traced",
            cure="use at.* functions and operators; a plain number belongs in a keyword-only operand annotated at.Const[int]",
        )

    def __float__(self) -> NoReturn:
        self._no_value("float()")

    def __int__(self) -> NoReturn:
        self._no_value("int()")

    def __index__(self) -> NoReturn:
        self._no_value("use as a Python index or range()")

    def __len__(self) -> NoReturn:
        self._no_value("len()")

    def __iter__(self) -> NoReturn:
        self._no_value("iteration")

    def __getitem__(self, index: Any) -> NoReturn:
        raise TraceError(
            "a traced value cannot be indexed",
            where=here(),
            cause=f"{self.node!r} already is the value at the current pair",
            cure="only operand tensors are indexed: declare one as a keyword-only parameter, table: at.Tensor['n'], and read table[i - j]",
        )

    def _mutation(self) -> NoReturn:
        raise TraceError(
            "a traced value cannot be changed in place",
            where=here(),
            cause="the formula is a graph of values; nothing in it is stored",
            cure="bind a new name, s2 = at.where(condition, new, s)",
        )

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._mutation()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        self._mutation()

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise refuse_numpy(getattr(func, "__name__", str(func)))
