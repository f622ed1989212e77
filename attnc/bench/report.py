"""A benchmark as a file and as tables: what it was measured on, its rows, and how they compare with an older file."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attnc.bench.row import Figure, Row, Spread
from attnc.bench.timing import BLAS_PAUSE, PAUSE, Settings
from attnc.errors import AttncError

FORMAT = 1
PACKAGES = ("attnc", "numpy", "numba", "llvmlite", "torch", "onnxruntime", "jax")
COLUMNS = ["row", "what", "median", "quartiles", "aim", "met"]
COMPARED = ["row", "what", "old", "new", "beyond the spread"]
Cells = list[list[str]]


@dataclass(frozen=True, slots=True)
class Report:
    """One run. machine, versions, settings: what its numbers depend on."""

    suite: str
    rows: tuple[Row, ...]
    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write JSON. AttncError where it cannot be written."""
        data = {"format": FORMAT, **asdict(self)}
        try:
            path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise AttncError(f"--json {path}", cause=str(error), cure="a file that can be written") from error

    @staticmethod
    def load(path: Path) -> Report:
        """The report that was saved. AttncError where it is none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError("it is of another version")
            return Report(**{**data, "rows": tuple(Row.from_json(x) for x in data["rows"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AttncError(
                f"{path} is no result of a benchmark",
                cause=f"{type(error).__name__}: {error}",
                cure="attnc bench SUITE --json FILE writes one",
            ) from error


def report(suite: str, rows: Iterable[Row], settings: Settings) -> Report:
    """A report of rows measured here, now."""
    from attnc.bench.doctor import processor, version
    from attnc.schedule.target import instruction_set

    machine = {
        "processor": processor(), "instructions": instruction_set(), "processors": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}", "Python": platform.python_version(),
        "load average": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
    }  # fmt: skip
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = tuple(rows)
    return Report(
        suite,
        found,
        now,
        machine,
        {x: version(x) for x in PACKAGES},
        {**asdict(settings), "pauses": [PAUSE, BLAS_PAUSE]},
    )


def title(r: Report) -> str:
    """What a table of times has to say."""
    rounds = sorted({len(x) for row in r.rows for x in row.seconds.values()})
    many = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else "".join(map(str, rounds))
    m = r.machine
    return (
        f"{r.suite}: {r.date[:10]}, {m['processor']}, {m['instructions']}, {r.settings['threads']} threads, "
        f"PyTorch {r.versions['torch']}, medians of {many} rounds, alternating"
    )


def table(rows: Sequence[Row]) -> Cells:
    """COLUMNS: one line for each figure; the row's name stands on its first."""
    return [
        [f"{row.name}: {row.problem}" if first else "", *_cells(x)]
        for row in rows for first, x in zip(_first(), row.figures, strict=False)
    ]  # fmt: skip


def compare(old: Report, new: Report) -> Cells:
    """COMPARED: the figures that both have. A change is one beyond the spread where the quartiles do not overlap."""
    before = {(row.name, row.problem, x.name): x for row in old.rows for x in row.figures}
    lines = []
    for row in new.rows:
        first = True
        for x in row.figures:
            was = before.get((row.name, row.problem, x.name))
            if was is None or was.spread is None or x.spread is None:
                continue
            start = f"{row.name}: {row.problem}" if first else ""
            lines.append([start, x.name, show(was.spread[1], x.unit), show(x.spread[1], x.unit), changed(was, x)])
            first = False
    return lines


def changed(old: Figure, new: Figure) -> str:
    """ "better" or "worse" where the quartiles do not overlap, with the ratio of the medians; else ""."""
    assert old.spread is not None and new.spread is not None
    if new.spread[0] <= old.spread[2] and old.spread[0] <= new.spread[2]:
        return ""
    higher = new.spread[1] > old.spread[1]
    word = "worse" if higher == new.less_is_better else "better"
    return f"{word}, x {new.spread[1] / old.spread[1]:.2f}" if old.spread[1] else word


def markdown(reports: Sequence[Report], aims: bool = False) -> str:
    """One table for a document: what each report was measured on, then the rows of all. aims: only figures that have one."""
    rows = [row for r in reports for row in r.rows]
    if aims:
        kept = (replace(row, figures=tuple([x for x in row.figures if x.aim is not None])) for row in rows)
        rows = [row for row in kept if row.figures]
    head = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    titles = dict.fromkeys(f"- {title(r)}" for r in reports)
    return "\n".join([*titles, "", *head, *(f"| {' | '.join(x)} |" for x in table(rows))])


def show(value: float, unit: str) -> str:
    """A number with its unit."""
    if unit == "s":
        for name, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1e9:.3g} ns"
    if unit == "B":
        return f"{value / 2**20:.3g} MiB"
    text = f"{value:.0f}" if value == int(value) and unit == "" else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _cells(x: Figure) -> list[str]:
    aim = "" if x.aim is None else f"{'≤' if x.at_most else '≥'} {show(x.aim, x.unit)}"
    if x.spread is None:
        return [x.name, x.missing, "", aim, ""]
    met = {None: "", True: "yes", False: "no"}[x.met]
    return [x.name, show(x.spread[1], x.unit), _range(x.spread, x.unit), aim, met]


def _range(spread: Spread, unit: str) -> str:
    return "" if spread[0] == spread[2] else f"{show(spread[0], unit)} to {show(spread[2], unit)}"


def _first() -> Iterator[bool]:
    yield True
    while True:
        yield False
