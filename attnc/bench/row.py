"""What a benchmark found: rows of figures, each with its spread and its aim, beside the raw times. Plain JSON both ways."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Spread = tuple[float, float, float]  # lower quartile, median, upper quartile


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. unit: "" for a ratio, "s", "GFLOP/s", "GB/s", "B", or what is counted. spread None: `missing` says why.

    aim: at least so much, or at most where `at_most`.
    """

    name: str
    spread: Spread | None
    unit: str = ""
    aim: float | None = None
    at_most: bool = False
    missing: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the aim; None where there is no aim or no number."""
        if self.aim is None or self.spread is None:
            return None
        return self.spread[1] <= self.aim if self.at_most else self.spread[1] >= self.aim

    @property
    def less_is_better(self) -> bool:
        """Times, bytes, and what has an upper limit."""
        return self.at_most or self.unit in ("s", "B")


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds by name, one number a round; for what could not be timed the reason."""

    seconds: dict[str, list[float]]
    missing: dict[str, str] = field(default_factory=dict)

    def figure(
        self, name: str, over: str, under: str | None = None, *, factor: float = 1.0, unit: str = "",
        aim: float | None = None, at_most: bool = False,
    ) -> Figure:  # fmt: skip
        """factor · over / under of each round, and its quartiles. under None counts as 1; "" as `over` makes it factor / under."""
        used = [x for x in (over, under) if x]
        for x in used:
            if x in self.missing:
                return Figure(name, None, unit, aim, at_most, self.missing[x])
        top = self.seconds[over] if over else [1.0] * len(self.seconds[under or ""])
        bottom = self.seconds[under] if under else [1.0] * len(top)
        return Figure(name, quartiles([factor * a / b for a, b in zip(top, bottom, strict=True)]), unit, aim, at_most)


@dataclass(frozen=True, slots=True)
class Row:
    """One problem. name: what `--only` selects. problem: its shape and dtype in words. seconds: the raw times."""

    name: str
    problem: str
    figures: tuple[Figure, ...]
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, None where there is none."""
        return next((x for x in self.figures if x.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Row:
        """The row that `to_json` described."""
        figures = [Figure(**{**x, "spread": x["spread"] and tuple(x["spread"])}) for x in data["figures"]]
        return Row(data["name"], data["problem"], tuple(figures), data["seconds"])


def quartiles(values: Sequence[float]) -> Spread:
    """The quartiles of some numbers, inclusive; of a single one, itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def constant(name: str, value: float, unit: str = "", aim: float | None = None, at_most: bool = False) -> Figure:
    """A number that has no spread."""
    return Figure(name, (value, value, value), unit, aim, at_most)


def geometric_mean(name: str, rows: Sequence[Row], figure: str, aim: float | None) -> Row:
    """Of a ratio over rows: of their medians, and of their quartiles."""
    found = [x for x in (r.figure(figure) for r in rows) if x is not None]
    spreads = [x.spread for x in found if x.spread is not None]
    if len(spreads) < len(found) or not found:
        return Row(name, f"{len(rows)} rows", (Figure(figure, None, aim=aim, missing="not in all rows"),))
    low, median, high = (statistics.geometric_mean(x) for x in zip(*spreads, strict=True))
    return Row(name, f"{len(rows)} rows", (Figure(figure, (low, median, high), aim=aim),))
