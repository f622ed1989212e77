"""Emitted source run as a module, so that tracebacks and `inspect` show its lines."""

from __future__ import annotations

import contextlib
import linecache
import os
import types
from typing import Any


def execute(source: str, filename: str) -> dict[str, Any]:
    """The namespace of the module `source`, run as if it were the file `filename`; tracebacks show its lines."""
    if not os.path.exists(filename):
        known = (len(source), None, source.splitlines(keepends=True), filename)
        linecache.cache[filename] = known
        with contextlib.suppress(ValueError):  # on Windows, from another drive
            linecache.cache[os.path.relpath(filename)] = known  # Numba's errors look for this name
    module = types.ModuleType(os.path.basename(filename).removesuffix(".py"))
    module.__file__ = filename
    exec(compile(source, filename, "exec"), module.__dict__)
    return module.__dict__
