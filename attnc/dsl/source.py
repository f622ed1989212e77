"""Where in the user's source a parameter or a return statement stands: read only to place an error."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from attnc.errors import Location

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def defined(function: Callable[..., Any]) -> Location | str:
    """The line of `def`; the first line of the code, or the function's repr, where the source cannot be read."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(function)
    found = _parse(function)
    if found is None or isinstance(found[0], ast.Lambda):
        return Location(code.co_filename, code.co_firstlineno)
    tree, shift, start = found
    return Location(code.co_filename, start + tree.lineno, shift + tree.col_offset, -1)


def parameter(function: Callable[..., Any], name: str) -> Location | str:
    """The place of a parameter."""
    found = _parse(function)
    if found is not None:
        tree, shift, start = found
        arguments = tree.args
        listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for x in listed:
            if x is not None and x.arg == name:
                return _location(function, x, shift, start)
    return defined(function)


def returned(function: Callable[..., Any]) -> Location | str:
    """The place of the only return statement; of `def` where there is none or where there are several."""
    found = _parse(function)
    if found is not None and isinstance(found[0], ast.FunctionDef):
        tree, shift, start = found
        nested = {inner for x in _functions(tree) if x is not tree for inner in ast.walk(x)}
        statements = [x for x in ast.walk(tree) if isinstance(x, ast.Return) and x not in nested]
        if len(statements) == 1:
            return _location(function, statements[0], shift, start)
    return defined(function)


def _functions(tree: ast.AST) -> list[_Function]:
    return [x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]


def _location(function: Callable[..., Any], x: ast.arg | ast.stmt, shift: int, start: int) -> Location:
    end = x.end_col_offset if x.end_lineno == x.lineno and x.end_col_offset is not None else None
    return Location(
        function.__code__.co_filename, start + x.lineno, shift + x.col_offset, -1 if end is None else shift + end
    )


def _parse(function: Callable[..., Any]) -> tuple[_Function, int, int] | None:
    """The function's syntax tree, the columns its source was shifted left by, and the number of lines before it."""
    try:
        lines, first = inspect.getsourcelines(function)
        text = "".join(lines)
        tree = ast.parse(textwrap.dedent(text))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None  # no source (a REPL, exec), or a lambda in the middle of a statement
    functions = _functions(tree)
    if len(functions) == 0 or (len(functions) > 1 and isinstance(functions[0], ast.Lambda)):
        return None
    indent = len(lines[0]) - len(lines[0].lstrip())
    return functions[0], indent, max(first, 1) - 1
