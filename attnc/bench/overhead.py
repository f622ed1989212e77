"""What attnc costs around the arithmetic: a cold compile, a warm start from the disk cache, one call in Python."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc.errors import AttncError

# A variant that no cache knows, called once; a file, because a variant's source is read for error messages.
PROBE = '''\
import json
import sys
import time

begin = time.perf_counter()
import numpy as np

numpy_loaded = time.perf_counter()
import attnc as at


@at.attention
def probe(q, k, v, i, j, *, cap: float = 50.0, window: int = 4096):
    """Soft-capped scores in a causal window."""
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    return at.softmax(cap * at.tanh(s / cap), where=(j <= i) & (i - j < window)) @ v


loaded = time.perf_counter()
q = np.ones((1, 1, 16, 64), np.float32)
ready = time.perf_counter()
probe(q, q, q)
called = time.perf_counter()
print(json.dumps({"import": loaded - numpy_loaded, "first call": called - ready, "numba": "numba" in sys.modules}))
'''
CALLS, ROUNDS = 200, 15


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """One measurement, in seconds, beside what is aimed at (None: nothing is)."""

    name: str
    seconds: float
    aim: float | None


def bench_overhead(threads: int = 2) -> list[OverheadRow]:
    """Measure all. AttncError where a warm start imports Numba, which it must not."""
    from attnc.backends.cpu.threads import get_num_threads, set_num_threads

    rows = _starts()
    before = get_num_threads()
    set_num_threads(threads)
    try:
        small = _call((1, 1, 16, 16), CALLS)
        large = _call((1, 8, 2048, 64), 1)
    finally:
        set_num_threads(before)
    return [
        *rows,
        OverheadRow("call, 1x1x16x16", small[0], 60e-6),
        OverheadRow("  of it in Python", small[2], 60e-6),
        OverheadRow(f"call, 1x8x2048x64, {threads} threads", large[0], None),
        OverheadRow("  of it in Python (the kernel left out)", large[2], 60e-6),
        OverheadRow("  outside the kernel, caches cold after it", large[1], None),
    ]


def _starts() -> list[OverheadRow]:
    """Two processes, one after the other, with one cache that is empty at first."""
    with tempfile.TemporaryDirectory(prefix="attnc-bench-") as folder:
        file = Path(folder) / "probe.py"
        file.write_text(PROBE, encoding="utf-8")
        cold, warm = (_process(file, Path(folder) / "cache") for _ in range(2))
    if warm["numba"]:
        raise AttncError(
            "a warm start imported Numba",
            cause="the kernel was in the disk cache, but loading it went through the compiler",
            cure="this is a bug of attnc, please report it",
        )
    return [
        OverheadRow("import attnc, beyond NumPy", warm["import"], 0.06),
        OverheadRow("first call, nothing cached (cold compile)", cold["first call"], 4.0),
        OverheadRow("first call, new process, from the disk cache", warm["first call"], 0.15),
    ]


def _process(file: Path, cache: Path) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    environment = {**os.environ, "ATTNC_CACHE_DIR": str(cache), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AttncError(
            "the benchmark's process failed", cause=done.stderr.strip(), cure="attnc doctor says what is missing"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _call(shape: tuple[int, ...], calls: int) -> tuple[float, float, float]:
    """Seconds of a call, of its part outside native code, and of a call whose kernel does nothing: medians over rounds."""
    from attnc.variants import full

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    native = _Native()
    full(q, k, v)
    totals, outside = [], []
    with native:
        for _ in range(ROUNDS):
            native.seconds = 0.0
            start = time.perf_counter()
            kept = [full(q, k, v) for _ in range(calls)]
            total = time.perf_counter() - start
            del kept  # giving megabytes back to the system is not part of the call
            totals.append(total / calls)
            outside.append((total - native.seconds) / calls)
        native.run = lambda *_: None
        empty = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(CALLS):
                full(q, k, v)
            empty.append((time.perf_counter() - start) / CALLS)
    return statistics.median(totals), statistics.median(outside), statistics.median(empty)


class _Native:
    """Counts the time in `threads.run`, the one way into machine code, while it is entered as a context."""

    def __init__(self) -> None:
        from attnc.backends.cpu import threads

        self.threads: Any = threads
        self.real: Callable[..., None] = threads.run
        self.run = self.real
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.threads.run = self._timed

    def __exit__(self, *_: object) -> None:
        self.threads.run = self.real

    def _timed(self, address: int, args: int, workers: int) -> None:
        start = time.perf_counter()
        self.run(address, args, workers)
        self.seconds += time.perf_counter() - start
