"""What a suite is: rows that measure themselves, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Protocol

from attnc.bench.row import Row, geometric_mean
from attnc.bench.timing import Settings, same_threads
from attnc.errors import AttncError

SUITES = {
    "cpu": "cpu",
    "avx2": "cpu",
    "decode": "cpu",
    "sparse": "sparse",
    "scores": "scores",
    "linear": "linear",
    "overhead": "overhead",
    "compile": "overhead",
}


class Spec(Protocol):
    """A row to be measured."""

    @property
    def name(self) -> str:
        """What `--only` selects."""
        ...

    def measure(self, settings: Settings) -> Row:
        """Run it, with the threads of the settings."""
        ...


@dataclass(frozen=True, slots=True)
class Mean:
    """The geometric mean of a figure over the rows whose names begin with `start`, of those that were measured."""

    name: str
    start: str
    figure: str
    aim: float | None = None

    def measure(self, settings: Settings) -> Row:
        """It is not measured: see `run`."""
        raise AssertionError("a mean is made of rows")


def specs(suite: str, quick: bool) -> list[Spec]:
    """The rows of a suite, in their order."""
    make: Callable[[bool], list[Spec]] = getattr(import_module(f"attnc.bench.{SUITES[suite]}"), suite)
    return make(quick)


def known_peers(text: str | None, quick: bool) -> tuple[str, ...]:
    """Those that are named, else all, but flex where it is to be quick. AttncError for a name that is none."""
    from attnc.bench.peers import PEERS

    if text is None:
        return tuple(x for x in PEERS if not quick or x != "flex")
    names = tuple(x.strip() for x in text.split(",") if x.strip())
    if unknown := [x for x in names if x not in PEERS]:
        raise AttncError(f"--peers {unknown[0]}", cause="no such peer", cure=f"some of {', '.join(PEERS)}")
    return names


def select(found: Sequence[Spec], only: Sequence[str]) -> list[Spec]:
    """Those whose names match one of the patterns, `dense*`; all where there are none. AttncError where a pattern matches none."""
    for pattern in only:
        if not any(fnmatchcase(x.name, pattern) for x in found):
            names = ", ".join(x.name for x in found)
            raise AttncError(f"--only {pattern!r}", cause="no such row", cure=f"a name or pattern (*) of: {names}")
    return [x for x in found if not only or any(fnmatchcase(x.name, p) for p in only)]


def run(chosen: Sequence[Spec], settings: Settings) -> Iterator[Row]:
    """Measure one row after the other. A mean comes of the rows before it, if there are several."""
    rows: list[Row] = []
    with same_threads(settings.threads):
        for spec in chosen:
            if isinstance(spec, Mean):
                parts = [x for x in rows if x.name.startswith(spec.start)]
                if parts:
                    yield geometric_mean(spec.name, parts, spec.figure, None if settings.quick else spec.aim)
                continue
            row = spec.measure(settings)
            rows.append(row)
            yield without_aims(row) if settings.quick else row


def without_aims(row: Row) -> Row:
    """Aims are for the sizes of a whole run."""
    return replace(row, figures=tuple([replace(x, aim=None) for x in row.figures]))
