"""The house rules that a machine can check: style, types, layers, file sizes, and a light import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "attnc"
MAX_LINES = 400
HEAVY = ("numba", "llvmlite", "networkx", "ml_dtypes", "torch", "jax", "cupy", "matplotlib", "typer", "rich")


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"$ {' '.join(command)}\n{done.stdout}{done.stderr}"


def script(name: str) -> str:
    """A console script of the environment that runs the tests, found without an activated PATH."""
    path = Path(sys.executable).parent / name
    assert path.exists(), f"{name} is not installed beside {sys.executable}: pip install -e '.[test]'"
    return str(path)


def test_ruff() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_mypy_strict() -> None:
    run(sys.executable, "-m", "mypy", "--strict", "-p", "attnc")


def test_import_layers() -> None:
    run(script("lint-imports"), "--no-cache")


@pytest.mark.parametrize("folder", ["attnc", "tests", "examples"])
def test_files_are_short(folder: str) -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    long = {name: lines for name, lines in sizes.items() if lines > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines, so more than one idea: {long}"


def test_no_module_is_hidden_from_the_checks() -> None:
    """Every folder with Python files in attnc is a package: mypy and import-linter do not see the others."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert folders, "attnc holds no Python file"
    missing = sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists())
    assert not missing, f"no __init__.py in {missing}"


def test_import_is_light() -> None:
    """A warm start needs no compiler: `import attnc` loads none of the heavy packages."""
    probe = f"import sys, attnc; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"import attnc loads {done.stdout.strip()}"
