"""Calls timed in turn, so that a slow moment of the machine meets all of them.

Before each timed call there is an untimed pause: the threads of OpenMP spin for some milliseconds after a call of PyTorch or MKL,
and would slow whoever runs next; those of OpenBLAS, which NumPy calls, spin for 100 ms. It is the same for all calls of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from attnc.bench.row import Times

PAUSE, BLAS_PAUSE = 0.02, 0.15  # seconds; where NumPy's products take part, the second
ROUNDS, LEAST_ROUNDS, ROW_SECONDS = 15, 5, 20.0
QUICK_ROUNDS = 2
WARM_UPS = 1
Measure = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Settings:
    """rounds: of each row; None: 15, fewer (5 at least) where they would take over 20 s. threads: of attnc and of all peers.

    quick: small sizes and 2 rounds. peers: the names of those that are wanted.
    """

    threads: int
    rounds: int | None = None
    quick: bool = False
    peers: tuple[str, ...] = ()


def timed(call: Callable[[], Any], before: Callable[[], Any] | None = None, in_a_row: int = 1) -> Measure:
    """Seconds of a call. `before` is not timed. in_a_row: the best of so many calls, whose caches are warm."""

    def measure() -> float:
        if before is not None:
            before()
        return min(_seconds(call) for _ in range(in_a_row))

    return measure


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    kept = call()
    seconds = time.perf_counter() - start
    del kept  # giving megabytes back to the system is not part of the call
    return seconds


def alternate(
    measures: Mapping[str, Measure],
    settings: Settings,
    missing: Mapping[str, str] | None = None,
    warm_ups: int = WARM_UPS,
    pause: float = PAUSE,
) -> Times:
    """Each in turn after a pause, round after round. missing: why others have no times."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(warm_ups):
        for measure in measures.values():
            measure()
    start, number = time.perf_counter(), 0
    while _goes_on(settings, number, time.perf_counter() - start):
        for name, measure in measures.items():
            time.sleep(pause)
            times[name].append(measure())
        number += 1
    return Times(times, dict(missing or {}))


def _goes_on(settings: Settings, rounds: int, seconds: float) -> bool:
    if settings.rounds is not None:
        return rounds < settings.rounds
    if settings.quick:
        return rounds < QUICK_ROUNDS
    return rounds < LEAST_ROUNDS or (rounds < ROUNDS and seconds * (rounds + 1) / rounds < ROW_SECONDS)


@contextmanager
def same_threads(threads: int) -> Iterator[None]:
    """attnc, and PyTorch where it is installed, with so many threads; as before afterwards."""
    from attnc.backends.cpu.threads import get_num_threads

    torch = torch_or_none()
    ours, theirs = get_num_threads(), torch and torch.get_num_threads()
    try:
        set_threads(threads)()
        yield
    finally:
        set_threads(ours)()
        if torch:
            torch.set_num_threads(theirs)


def set_threads(threads: int) -> Callable[[], None]:
    """What gives attnc and PyTorch so many threads."""
    return partial(_set_threads, torch_or_none(), threads)


def _set_threads(torch: Any, threads: int) -> None:
    from attnc.backends.cpu.threads import set_num_threads

    set_num_threads(threads)
    if torch:
        torch.set_num_threads(threads)


def torch_or_none() -> Any:
    """The module torch, None where it cannot be imported."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def reason(error: BaseException) -> str:
    """Why something was not timed, in a line: "not installed" for a package that cannot be imported."""
    if isinstance(error, ImportError):
        return f"not installed: {error.name or error}"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def chosen(names: Sequence[str], settings: Settings) -> list[str]:
    """Those of `names` that the settings want."""
    return [x for x in names if x in settings.peers]
