"""Where the user's program stands while it is traced: the line and the columns of the expression that runs now."""

from __future__ import annotations

import dis
import os
import sys
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType, TracebackType

from attnc.errors import Location

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_VARIANTS = os.path.join(_PACKAGE, "variants") + os.sep  # written in the language, as a user would
_OTHERS = frozenset({"attnc", "numpy", "scipy", "torch", "jax", "typer", "click"})  # their frames are not the user's


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith(_VARIANTS):
        return True
    # by the module's name too: the methods of dataclasses have no file
    return not file.startswith(_PACKAGE) and frame.f_globals.get("__name__", "").partition(".")[0] not in _OTHERS


def _frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame):
        frame = frame.f_back
    return frame


def _location(code: CodeType, instruction: int, line: int) -> Location:
    first, last, column, end = None, None, None, None
    if instruction >= 0:
        first, last, column, end = next(islice(code.co_positions(), instruction // 2, None))
    one_line = end is not None and last == first
    return Location(
        code.co_filename, first or line, -1 if column is None else column, end if end is not None and one_line else -1
    )


def here() -> Location | None:
    """The innermost line that is the user's: not attnc's, nor of a library that attnc or the user called."""
    frame = _frame()
    return None if frame is None else _location(frame.f_code, frame.f_lasti, frame.f_lineno)


def recursion(error: RecursionError) -> Location | None:
    """The user's call that came back to a function that was already running."""
    running: set[CodeType] = set()
    place: Location | None = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if _is_users(trace.tb_frame):
            code = trace.tb_frame.f_code
            if code in running:
                return place
            running.add(code)
            place = _location(code, trace.tb_lasti, trace.tb_lineno)
        trace = trace.tb_next
    return place


def is_indexing() -> bool:
    """Whether the user's line is at `x[...]` of something that is not traced."""
    frame = _frame()
    if frame is None:
        return False
    return any(
        x.opname == "BINARY_SUBSCR" or (x.opname == "BINARY_OP" and x.argrepr == "[]")  # the latter from Python 3.14
        for x in dis.get_instructions(frame.f_code)
        if x.offset == frame.f_lasti
    )
