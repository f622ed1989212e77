"""Check that the operands of one call agree about the feature axes that the formula lets them bring in."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.dsl.place import here
from attnc.errors import ShapeError
from attnc.ir.graph import Graph


def check_features(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Every feature axis has one extent, whichever operands bring it in.

    shapes: of the tensor operands. Axes that the formula indexes away (`table[i - j]`) are free: two tables over 'n' may
    differ in length.

    Raises:
        ShapeError: two operands disagree about an axis that both have as features, or a square matrix is not square.
    """
    seen: dict[str, tuple[int, str]] = {}
    for x in graph.nodes():
        if x.op != "gather":
            continue
        name = x["name"]
        for axis, n in zip(x["features"], shapes[name][len(x.operands) :], strict=True):
            before, other = seen.setdefault(axis, (n, name))
            if before != n:
                both = f"operands {other!r} and {name!r} disagree about the feature axis {axis!r}"
                raise ShapeError(
                    f"operand {name!r} is not square" if name == other else both,
                    where=here(),
                    cause=f"{other!r} has {before} entries along {axis!r}, {'then' if name == other else repr(name) + ' has'} {n}",
                    cure="give both the same extent, or name the axes apart in the variant",
                )
