"""An empty matplotlib figure. matplotlib is imported when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnc.errors import AttncError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Of so many inches; without pyplot, whose figures outlive their use. AttncError: matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AttncError(
            "matplotlib is missing", cause=f"a picture needs it ({error})", cure="pip install 'attnc[viz]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")
