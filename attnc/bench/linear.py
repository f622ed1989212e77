"""The suite `linear`: causal attentions that take linear time, beside PyTorch's operations for the same sum in chunks; and how time and
memory grow with the length, measured in a process of its own (`python -m attnc.bench.linear`), as the peak of its memory never goes down.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attnc.bench.attention import OURS, float32
from attnc.bench.long import random_head, resident
from attnc.bench.process import python
from attnc.bench.row import Row, constant
from attnc.bench.suite import Spec
from attnc.bench.timing import Settings, alternate, reason, timed, torch_or_none
from attnc.interp import Array

PEER = "PyTorch in chunks"
CHUNKS = (64, 128, 256)  # of which the peer takes the fastest
ROUNDS = 5


def linear(quick: bool) -> list[Spec]:
    """Linear attention and retention against PyTorch, and up to a million keys."""
    if quick:
        return [ChunkRow("linear", 1024, 16, 2), ChunkRow("retention", 1024, 16, 2), GrowthRow(4096, 2)]
    rows: list[Spec] = [ChunkRow(name, n, 64, 8) for name in ("linear", "retention") for n in (2048, 16384)]
    return [*rows, GrowthRow()]


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A variant of the library with `heads` heads, float32, beside the same in PyTorch; and beside attnc's own kernel over all pairs."""

    variant: str
    length: int
    dim: int
    heads: int

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return f"{self.variant} {self.length}"

    def measure(self, settings: Settings) -> Row:
        """In turn."""
        from attnc import variants

        rng = np.random.default_rng(0)
        q, k, v = (rng.standard_normal((1, self.heads, self.length, self.dim), dtype=np.float32) for _ in range(3))
        decay = -np.geomspace(0.03, 0.001, self.heads)
        operands = {"log_decay": decay} if self.variant == "retention" else {}
        ours = partial(getattr(variants, self.variant), q, k, v, **operands)
        calls: dict[str, Callable[[], Any]] = {OURS: ours}
        missing: dict[str, str] = {}
        figures = []
        try:
            calls[PEER] = peer(q, k, v, decay if operands else np.zeros(self.heads), self.variant == "linear")
            worst = np.abs(float32(ours()) - float32(calls[PEER]())).max()
            figures.append(constant("difference of outputs", float(worst)))
        except ImportError as error:
            missing[PEER] = reason(error)
        times = alternate({name: timed(call) for name, call in calls.items()}, settings, missing)
        tokens = self.heads * self.length / 1e6
        found = (
            times.figure(OURS, OURS, unit="s"),
            times.figure("queries", "", OURS, factor=tokens, unit="M/s"),
            times.figure(f"{PEER} / attnc", PEER, OURS),
            *figures,
        )
        return Row(self.name, f"1x{self.heads}x{self.length}x{self.dim} float32, causal", found, times.seconds)


def peer(q: Array, k: Array, v: Array, log_decay: Array, features: bool) -> Callable[[], Array]:
    """Chunks of keys as matrices, their running sum, and the pairs inside of chunks. features: elu + 1, and over the sum of weights."""
    torch = torch_or_none()
    if torch is None:
        raise ImportError("torch", name="torch")
    x, y, z = (torch.from_numpy(a) for a in (q, k, v))
    decay = torch.from_numpy(log_decay).float()

    def call(chunk: int) -> Array:
        with torch.inference_mode():
            return np.asarray(chunked(torch, x, y, z, decay, features, chunk).numpy())

    usable = [c for c in CHUNKS if q.shape[2] % c == 0]
    seconds = {c: min(timed(partial(call, c))() for _ in range(3)) for c in usable}
    return partial(call, min(usable, key=lambda c: seconds[c]))


def chunked(torch: Any, q: Any, k: Any, v: Any, log_decay: Any, features: bool, chunk: int) -> Any:
    """(B,H,L,E) of linear attention or of retention, their weights' sum as a further value."""
    batch, heads, length, _ = q.shape
    steps = torch.arange(chunk)
    inside = torch.exp(log_decay[:, None, None] * (steps[:, None] - steps)).tril()[:, None]
    if features:
        q, k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    else:
        q = q * q.shape[-1] ** -0.5
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    q, k, v = (x.reshape(batch, heads, length // chunk, chunk, -1) for x in (q, k, v))
    late = torch.exp(log_decay[:, None] * (chunk - 1 - steps))[:, None, :, None]
    sums = (k * late).mT @ v
    if log_decay.any():
        factor = torch.exp(log_decay * chunk)[:, None, None]
        for n in range(1, sums.shape[2]):
            sums[:, :, n] += factor * sums[:, :, n - 1]
    else:
        sums = sums.cumsum(2)
    out = (q @ k.mT * inside) @ v
    early = torch.exp(log_decay[:, None] * (steps + 1))[:, None, :, None]
    out[:, :, 1:] += (q[:, :, 1:] * early) @ sums[:, :, :-1]
    out, total = out[..., :-1], out[..., -1:]
    return (out / (total if features else total.abs().clamp(min=1))).reshape(batch, heads, length, -1)


@dataclass(frozen=True, slots=True)
class GrowthRow:
    """Linear attention of one head: time and memory of `factor` times `length` queries and keys, and of `length`."""

    length: int = 1 << 17
    factor: int = 8
    dim: int = 64

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return "growth"

    def measure(self, settings: Settings) -> Row:
        """In a new process, which finds the kernel in the cache and loads no compiler."""
        from attnc.variants import linear as variant

        variant(*random_head(self.length, self.dim))
        numbers = self.length, self.factor, self.dim, settings.rounds or ROUNDS, settings.threads
        return Row.from_json(python(["-m", "attnc.bench.linear", *map(str, numbers)]))


def growth(length: int, factor: int, dim: int, rounds: int, threads: int) -> Row:
    """Measure in this process, which should be fresh. "memory": as of `attnc.bench.long`."""
    from attnc.backends.cpu.threads import set_num_threads
    from attnc.variants import linear as variant

    set_num_threads(threads)
    long = random_head(length * factor, dim)
    before = resident("VmRSS")
    out = variant(*long)
    above = resident("VmHWM") - before - out.nbytes
    short = tuple(np.ascontiguousarray(x[:, :, :length]) for x in long)
    room = np.empty_like(out), np.empty_like(short[0])
    calls = {"long": timed(partial(variant, *long, out=room[0])), "short": timed(partial(variant, *short, out=room[1]))}
    times = alternate(calls, Settings(threads, rounds))
    figures = (
        times.figure("attnc", "long", unit="s"),
        times.figure(f"time / time of a {factor}th", "long", "short", aim=9.0, at_most=True),
        constant("memory above inputs and output", max(above, 0), "B", 64 * 2**20, at_most=True),
    )
    return Row("growth", f"1x1x{length * factor}x{dim} float32, causal linear attention", figures, times.seconds)


if __name__ == "__main__":
    given: Any = map(int, sys.argv[1:])
    print(json.dumps(growth(*given).to_json()))
