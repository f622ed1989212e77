"""Attention weights as heat maps, and the picture of a variant. matplotlib is imported when something is drawn."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnc.errors import ShapeError
from attnc.figure import new_figure
from attnc.viz.text import check_labels, relative, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASKED_COLOUR, NAN_COLOUR = "0.93", "magenta"


def heatmap(
    weights: Any,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str = "",
    path: str | Path | None = None,
) -> Figure:
    """Draw weights (Lq, Lk), or a panel for each of (H, Lq, Lk); a weight of exactly 0 is light grey, NaN magenta.

    `rows` (queries) and `columns` (keys) label the axes with tokens; else positions are shown. Colours go from 0 to the
    largest weight; where some are negative, from blue through white to red. With a path the picture is saved there, in
    the format its ending names. Returns the figure.

    Raises:
        ShapeError: the weights are not 2- or 3-dimensional, or the labels do not fit. AttncError: matplotlib is missing.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim not in (2, 3) or 0 in w.shape:
        raise ShapeError(
            "weights cannot be drawn",
            cause=f"their shape is {w.shape}",
            cure="give (Lq, Lk) or (H, Lq, Lk), at least 1 each; of a batch, weights[b]",
        )
    check_labels(w, rows, columns)
    panels = w[None] if w.ndim == 2 else w
    figure, colours = _figure(panels.shape), _colours(w)
    for head, axes in enumerate(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]):
        axes.imshow(panels[head], interpolation="nearest", **colours)
        _label(axes, rows if head == 0 else None, columns)
        if len(panels) > 1:
            axes.set_title(f"head {head}", fontsize=9)
    if title:
        figure.suptitle(title)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _figure(shape: tuple[int, ...]) -> Figure:
    """An empty figure that leaves some 6 mm to a weight."""
    heads, q_len, kv_len = shape
    width, height = (min(max(0.24 * n, 2.5), 16) for n in (kv_len, q_len))
    return new_figure(heads * width + 1.5, height + 1.5)


def _colours(w: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The colour map and its limits; the least number above 0 is the lower limit, so that 0 itself lies under it."""
    from matplotlib import colormaps

    top = float(np.fmax.reduce(np.abs(w), axis=None)) or 1.0
    if (w < 0).any():
        return {"cmap": colormaps["RdBu_r"].with_extremes(bad=NAN_COLOUR), "vmin": -top, "vmax": top}
    cmap = colormaps["YlGnBu"].with_extremes(under=MASKED_COLOUR, bad=NAN_COLOUR)
    return {"cmap": cmap, "vmin": np.finfo(np.float64).tiny, "vmax": top}


def _label(axes: Axes, rows: Sequence[str] | None, columns: Sequence[str] | None) -> None:
    axes.set_xlabel("keys j")
    axes.set_ylabel("queries i")
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows)
    if columns is not None:
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.label_outer()


def variant_weights(
    variant: Any,
    operands: Mapping[str, Any] | None = None,
    *,
    q_len: int = 24,
    kv_len: int = 24,
    heads: int = 1,
    kv_heads: int | None = None,
) -> np.ndarray[Any, Any]:
    """Weights (heads, q_len, kv_len) of a variant for random queries and keys, each row relative to its largest.

    Tensor operands may be nested lists; they are for a batch of 1.
    """
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((1, h, n, 4)) for h, n in ((heads, q_len), (kv_heads or heads, kv_len)))
    arrays = {name: np.asarray(x) if isinstance(x, list) else x for name, x in (operands or {}).items()}
    return relative(variant.weights(q / 2, k, **arrays)[0])


def mask_picture(
    variant: Any, operands: Mapping[str, Any] | None = None, *, path: str | Path | None = None, **sizes: Any
) -> Figure:
    """Draw which keys each query of a variant sees, and how much; `sizes` as in `variant_weights`."""
    return heatmap(variant_weights(variant, operands, **sizes), title=variant.__name__, path=path)


def draw(variant: Any, operands: Mapping[str, Any] | None = None, **sizes: Any) -> None:
    """What `python -m attnc.variants.NAME [PATH]` does: print the variant's picture, save it to PATH, say where."""
    given = sys.argv[1:]
    path = Path(given[0]) if given else Path(tempfile.gettempdir()) / f"attnc_{variant.__name__}.png"
    for head in variant_weights(variant, operands, **sizes):
        print(text(head), end="\n\n")
    mask_picture(variant, operands, path=path, **sizes)
    print(f"{variant.__name__}: {variant.__doc__.strip().splitlines()[0]}\n{path}")
