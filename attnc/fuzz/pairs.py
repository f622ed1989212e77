"""A pairwise cover: few settings in which every two values of every two factors meet."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

Pair = tuple[str, int, str, int]


def pairwise(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Settings {factor: value}, made greedily: each meets as many pairs that are still missing as it can."""
    names = list(factors)
    if len(names) < 2:
        return [{name: value} for name in names for value in factors[name]]
    missing: dict[Pair, None] = {
        (a, x, b, y): None
        for a, b in itertools.combinations(names, 2)
        for x in range(len(factors[a]))
        for y in range(len(factors[b]))
    }
    rows: list[dict[str, Any]] = []
    while missing:
        a, x, b, y = next(iter(missing))
        row = {a: x, b: y}
        for name in names:
            if name not in row:
                start = len(rows)  # ties go to another value each time
                order = [(start + n) % len(factors[name]) for n in range(len(factors[name]))]
                row[name] = max(order, key=lambda value: sum(p in missing for p in _pairs(row, name, value, names)))
        for a, b in itertools.combinations(names, 2):
            missing.pop((a, row[a], b, row[b]), None)
        rows.append({name: factors[name][row[name]] for name in names})
    return rows


def _pairs(row: Mapping[str, int], name: str, value: int, names: Sequence[str]) -> list[Pair]:
    """The pairs that `name` = `value` makes with what is chosen."""
    place = names.index(name)
    return [
        (other, chosen, name, value) if names.index(other) < place else (name, value, other, chosen)
        for other, chosen in row.items()
    ]


def product(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All settings."""
    return [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
