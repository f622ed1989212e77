"""Which variants a command line means: FILE.py, FILE.py:NAME, or the name of a variant of the library."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

from attnc.errors import AttncError
from attnc.variant import Attention


class TargetError(AttncError, ValueError):
    """FILE[:NAME] names no variant."""


def split(target: str) -> tuple[str, str]:
    """(FILE, NAME), NAME '' where all are meant."""
    file, colon, name = target.rpartition(":")
    return (file, name) if colon and name.isidentifier() else (target, "")


def is_script(target: str) -> bool:
    """Whether the target is a file without a variant's name."""
    file, name = split(target)
    return not name and (file.endswith(".py") or Path(file).is_file())


def run_script(file: str, arguments: list[str]) -> None:
    """Run a file as `python file arguments...` does. TargetError where it does not exist."""
    _existing(file)
    before, path = sys.argv, list(sys.path)
    sys.argv = [file, *arguments]
    sys.path.insert(0, str(Path(file).resolve().parent))
    try:
        runpy.run_path(file, run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before, path


def variants(target: str) -> list[Attention]:
    """The variants of a target, in the order of the file. TargetError names what there is."""
    file, name = split(target)
    from attnc import variants as library

    if not is_script(file):
        if file in library.__all__ and not name:
            found: Attention = getattr(library, file)
            return [found]
        raise TargetError(
            f"no variant {target!r}",
            cause="it is neither a Python file nor a variant of the library",
            cure=f"FILE.py, FILE.py:NAME, or one of {', '.join(library.__all__)}",
        )
    module = _load(_existing(file))
    named = {key: x for key, x in vars(module).items() if isinstance(x, Attention)}
    if name and name not in named:
        raise TargetError(
            f"no variant {name!r} in {file}",
            cause=f"its variants are: {', '.join(named) or 'none'}",
            cure="name a function that is decorated with @at.attention",
        )
    if not named:
        raise TargetError(
            f"no variant in {file}",
            cause="nothing at the top level of the module is an attention",
            cure="decorate a function with @at.attention",
        )
    return [named[name]] if name else list(dict.fromkeys(named.values()))


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise TargetError(f"no file {file}", cause="it does not exist", cure="check the path")
    return path


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TargetError(
            f"{path} cannot be imported", cause="it is no Python file", cure="give a file that ends in .py"
        )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
