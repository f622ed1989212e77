"""A program in a Python process of its own, which prints JSON as its last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnc.errors import AttncError


def python(arguments: list[str], environment: Mapping[str, str] | None = None) -> Any:
    """What it printed last. It imports this attnc. AttncError with what it wrote to stderr where it fails."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        raise AttncError(
            f"the process of the benchmark failed: {' '.join(arguments)}",
            cause=done.stderr.strip() or f"it ended with {done.returncode}, for lack of memory perhaps",
            cure="attnc doctor says what is missing",
        )
    return json.loads(done.stdout.strip().rpartition("\n")[2])
