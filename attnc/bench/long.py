"""A window over a million keys: time, memory and analysis of a call that no N x N structure could serve.

It is measured in a process of its own, `python -m attnc.bench.long`, as the peak of a process's memory never goes down.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc.bench.analysis import Tiles, changed, count, counting
from attnc.bench.attention import IN_A_ROW
from attnc.bench.process import python
from attnc.bench.row import Row, constant
from attnc.bench.timing import Settings, alternate, timed
from attnc.interp import Array

DENSE_LENGTH, DENSE_CALLS = 4096, 8
SAMPLES = 64  # rows that are compared with a float64 reference
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class LongRow:
    """One head of `length` queries and keys, a causal window, float32, beside a dense call of 4096 queries and keys.

    Needs 5 arrays of length x dim float32 of memory.
    """

    length: int = 1 << 20
    window: int = 1024
    dim: int = 64

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return "long"

    def measure(self, settings: Settings) -> Row:
        """In a new process."""
        numbers = (self.length, self.window, self.dim, settings.rounds or ROUNDS, settings.threads)
        _kernels(
            random_head(256, self.dim), self.window
        )  # so that the process finds them in the cache, and loads no compiler
        return Row.from_json(python(["-m", "attnc.bench.long", *map(str, numbers)]))


def measure(length: int, window: int, dim: int, rounds: int, threads: int) -> Row:
    """Measure in this process, which should be fresh: its peak of memory counts from its start.

    "memory": bytes above inputs and output at the peak of the first call, as the system counts pages, which may be a megabyte off.
    """
    from attnc.backends.cpu.threads import set_num_threads
    from attnc.variants import full, sliding_window

    set_num_threads(threads)
    small = random_head(min(DENSE_LENGTH, length), dim)
    with ThreadPoolExecutor(1) as warm:  # a thread of its own, so that its scratch memory does not serve the long call
        dense_tiles = warm.submit(_kernels, small, window).result()
    inputs = random_head(length, dim)
    before = resident("VmRSS")
    out = sliding_window(*inputs, window=window)
    above = resident("VmHWM") - before - out.nbytes
    difference = _difference(inputs, out, window)
    del out
    analysis = changed(sliding_window, inputs, {"window": window}, counting)
    measures = {
        "attnc": timed(lambda: sliding_window(*inputs, window=window)),
        "analysis": timed(analysis, in_a_row=IN_A_ROW),
        "dense": timed(lambda: [full(*small) for _ in range(DENSE_CALLS)]),
    }
    times, tiles = alternate(measures, Settings(threads, rounds), warm_ups=0), count(analysis)
    tile = DENSE_CALLS * dense_tiles / tiles.visited
    figures = (
        times.figure("attnc", "attnc", unit="s"),
        constant("memory above inputs and output", max(above, 0), "B", 64 * 2**20, at_most=True),
        times.figure("analysis / attnc", "analysis", "attnc", aim=0.01, at_most=True),
        times.figure("visited tile / tile of a dense call", "attnc", "dense", factor=tile, aim=1.2, at_most=True),
        constant("full tiles", tiles.full),
        constant("partial tiles", tiles.partial),
        constant("difference of outputs", difference),
    )
    return Row("long", f"1x1x{length}x{dim} float32, window {window}", figures, times.seconds)


def _kernels(inputs: tuple[Array, Array, Array], window: int) -> int:
    """Compile or load what is measured; the tiles of the dense call on these inputs."""
    from attnc.variants import full, sliding_window

    sliding_window(*inputs, window=window)
    full(*inputs)
    changed(sliding_window, inputs, {"window": window}, counting)()
    dense: Tiles = count(changed(full, inputs, {}, counting))
    return dense.visited


def random_head(length: int, dim: int) -> tuple[Array, Array, Array]:
    """q, k, v (1,1,length,dim) float32 of one head, standard normal."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, length, dim), dtype=np.float32) for _ in range(3))
    return q, k, v


def _difference(inputs: tuple[Array, Array, Array], out: Array, window: int) -> float:
    """The largest difference of sampled rows, the first and the last among them, from the formula in float64."""
    q, k, v = (x[0, 0] for x in inputs)
    worst = 0.0
    for i in np.unique(np.linspace(0, len(q) - 1, SAMPLES).astype(np.int64)):
        near = slice(max(i - window + 1, 0), i + 1)
        score = k[near].astype(np.float64) @ q[i] / np.sqrt(q.shape[1])
        weight = np.exp(score - score.max())
        worst = max(worst, float(np.abs(weight @ v[near] / weight.sum() - out[0, 0, i]).max()))
    return worst


def resident(field: str) -> int:
    """Bytes of memory of this process: now ("VmRSS") or at its peak ("VmHWM"); where the system does not say, at its peak."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    numbers: Any = map(int, sys.argv[1:])
    print(json.dumps(measure(*numbers).to_json()))
