"""Attention weights in the terminal, as shades of characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnc.errors import ShapeError

SHADES = " ░▒▓█"


def text(weights: Any, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> str:
    """A (Lq, Lk) matrix, a line per row: dark where a weight is near its row's largest, blank where it is 0, ? for NaN.

    `rows` and `columns` are labels; column labels are written downwards. Raises ShapeError where they do not fit.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 2:
        raise ShapeError("weights are no matrix", cause=f"their shape is {w.shape}", cure="pick one: weights[b, h]")
    check_labels(w, rows, columns)
    margin = max((len(label) + 1 for label in rows or ()), default=0)
    height = max((len(label) for label in columns or ()), default=0)
    names = [label.rjust(height) for label in columns or ()]
    lines = [" " * margin + "".join(name[line] + " " for name in names) for line in range(height)]
    left = [f"{label} ".rjust(margin) for label in rows] if rows is not None else [""] * len(w)
    for label, row in zip(left, relative(w), strict=True):
        lines.append(label + "".join(_shade(x) * 2 for x in row))
    return "\n".join(line.rstrip() for line in lines)


def _shade(x: float) -> str:
    """The smallest weight that is not 0 still shows: a blank is masked."""
    if np.isnan(x):
        return "?"
    return SHADES[1 + min(int(abs(x) * 4), 3)] if x else SHADES[0]


def relative(w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Each row over its largest size, so that a row of many small weights shows as clearly as one of few; 0 stays 0."""
    top = np.fmax.reduce(np.abs(w), axis=-1, keepdims=True, initial=0)
    return np.asarray(w / np.where(top > 0, top, 1))


def check_labels(w: np.ndarray[Any, Any], rows: Sequence[str] | None, columns: Sequence[str] | None) -> None:
    """Raise ShapeError unless there is one label for each of the last two axes' entries."""
    for name, labels, n in (("rows", rows, w.shape[-2]), ("columns", columns, w.shape[-1])):
        if labels is not None and len(labels) != n:
            raise ShapeError(
                f"{len(labels)} labels for {n} {name}", cause=f"the weights are {w.shape}", cure="one each"
            )
