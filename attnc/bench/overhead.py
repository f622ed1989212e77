"""The suites `overhead` and `compile`: what attnc costs around the arithmetic. One call in Python; a first call, cold and warm."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnc.bench.attention import OURS, AttentionRow
from attnc.bench.case import Case, square
from attnc.bench.process import python
from attnc.bench.row import Row, Times
from attnc.bench.suite import Spec
from attnc.bench.timing import Settings, timed, torch_or_none
from attnc.errors import AttncError

# A variant that no cache knows, called once; a file, because a variant's source is read for error messages.
PROBE = '''\
import json
import sys
import time

import numpy as np

begin = time.perf_counter()
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
print(json.dumps({"import": loaded - begin, "first": called - ready, "numba": "numba" in sys.modules}))
'''
FLEX = """\
import json
import time

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

cap, window = 50.0, 4096
q = torch.ones((1, 1, 128, 64))
mask = create_block_mask(lambda b, h, i, j: (j <= i) & (i - j < window), None, None, 128, 128, device="cpu")
compiled = torch.compile(flex_attention)
ready = time.perf_counter()
with torch.inference_mode():
    compiled(q, q, q, score_mod=lambda s, b, h, i, j: cap * torch.tanh(s / cap), block_mask=mask)
print(json.dumps({"first": time.perf_counter() - ready}))
"""
CALLS = 200
STARTS = 3  # rounds, of processes


def overhead(quick: bool) -> list[Spec]:
    """A call of the smallest problem, and of one whose kernel runs in parallel."""
    from attnc.variants import full

    large = square(64, 16, 2) if quick else square(2048, 64, 8)
    return [
        CallRow(Case("small call", full, square(16, 16, 1)), 20 if quick else CALLS),
        CallRow(Case("parallel call", full, large), 1),
    ]


def compile(quick: bool) -> list[Spec]:
    """First calls in fresh processes."""
    return [StartRow("cold", False, 2.5), StartRow("cached", True, 0.05), ColdPeerRow()]


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call, `in_a_row` of them timed together: of it in Python, with a kernel that does nothing, and outside the kernel as it is."""

    case: Case
    in_a_row: int

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def measure(self, settings: Settings) -> Row:
        """Times and figures; PyTorch's SDPA beside."""
        row = AttentionRow(self.case, ("SDPA",))
        found = row.prepare(replace(settings, peers=("SDPA",)))
        inputs, native = found.inputs, Native()
        many = 20 if settings.quick else CALLS

        def calls(count: int) -> Callable[[], Any]:
            def run() -> None:
                for _ in range(count):  # outputs are not kept: the memory of one serves the next
                    self.case.variant(*inputs)

            return run

        whole, empty = timed(calls(self.in_a_row)), timed(calls(many))

        def outside() -> float:
            native.seconds = 0.0
            with native:
                total = whole()
            return (total - native.seconds) / self.in_a_row

        def in_python() -> float:
            native.run = lambda *_: None
            try:
                with native:
                    return empty() / many
            finally:
                native.run = native.real

        found.measures.update({OURS: lambda: whole() / self.in_a_row, "Python": in_python, "outside": outside})
        times = found.times(settings)
        figures = [
            times.figure("attnc", OURS, unit="s"),
            times.figure("of it in Python", "Python", unit="s", aim=20e-6, at_most=True),
            times.figure("outside the kernel, caches as it leaves them", "outside", unit="s"),
            times.figure("SDPA", "SDPA", unit="s"),
        ]
        return row.row(found, times, figures)


class Native:
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


@dataclass(frozen=True, slots=True)
class StartRow:
    """The first call of a new variant in a new process, with an empty cache or one that has its kernel. aim: seconds at most."""

    name: str
    cached: bool
    aim: float

    def measure(self, settings: Settings) -> Row:
        """Seconds of the call, and of `import attnc`. AttncError where a warm start imports Numba, which it must not."""
        with tempfile.TemporaryDirectory(prefix="attnc-bench-") as folder:
            file = Path(folder) / "probe.py"
            file.write_text(PROBE, encoding="utf-8")
            filled = _start(file, Path(folder) / "filled") if self.cached else {}
            found: list[dict[str, Any]] = []
            for number in range(_starts(settings)):
                found.append(_start(file, Path(folder) / ("filled" if filled else f"empty{number}")))
        if filled and any(x["numba"] for x in found):
            raise AttncError(
                "a warm start imported Numba",
                cause="the kernel was in the disk cache, but loading it went through the compiler",
                cure="this is a bug of attnc, please report it",
            )
        times = Times({"first call": [x["first"] for x in found], "import": [x["import"] for x in found]})
        figures = (
            times.figure("first call, after the import", "first call", unit="s", aim=self.aim, at_most=True),
            times.figure("import attnc, beyond NumPy, and a variant", "import", unit="s"),
        )
        return Row(self.name, "soft-capped window, 1x1x16x64 float32", figures, times.seconds)


@dataclass(frozen=True, slots=True)
class ColdPeerRow:
    """A cold first call beside that of torch.compile(flex_attention), with empty caches."""

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return "cold beside flex"

    def measure(self, settings: Settings) -> Row:
        """One process each, in every round; one round unless the settings say more."""
        with tempfile.TemporaryDirectory(prefix="attnc-bench-") as folder:
            probe, flex = (Path(folder) / f"{x}.py" for x in ("probe", "flex"))
            probe.write_text(PROBE, encoding="utf-8")
            flex.write_text(FLEX, encoding="utf-8")
            missing = {}
            if "flex" not in settings.peers:
                missing["flex"] = "left out"
            elif not torch_or_none():
                missing["flex"] = "not installed: torch"
            times = Times({OURS: []} if missing else {OURS: [], "flex": []}, missing)
            for number in range(settings.rounds or 1):
                times.seconds[OURS].append(_start(probe, Path(folder) / f"attnc{number}")["first"])
                if not missing:
                    caches = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / f"flex{number}")}
                    try:
                        times.seconds["flex"].append(python([str(flex)], caches)["first"])
                    except AttncError as error:  # no C++ compiler perhaps
                        del times.seconds["flex"]
                        missing["flex"] = (error.cause or error.message).strip().rpartition("\n")[2]
        figures = (
            times.figure("attnc", OURS, unit="s"),
            times.figure("flex", "flex", unit="s"),
            times.figure("flex / attnc", "flex", OURS, aim=1.0),
        )
        return Row(self.name, "soft-capped window, float32, D 64", figures, times.seconds)


def _start(file: Path, cache: Path) -> dict[str, Any]:
    """A process with this cache. Python's bytecode is kept from one to the next, as where attnc is installed."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(file.with_name("bytecode"))}
    found: dict[str, Any] = python([str(file)], {"ATTNC_CACHE_DIR": str(cache), **bytecode})
    return found


def _starts(settings: Settings) -> int:
    return settings.rounds or (1 if settings.quick else STARTS)
