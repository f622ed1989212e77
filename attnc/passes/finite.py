"""What is proved to be neither NaN nor infinite, whatever the operands are."""

from __future__ import annotations

from attnc.ir.graph import Node, topological

KEEPS = ("const", "cast", "neg", "abs", "sign", "minimum", "maximum", "where", "tanh", "sigmoid", "floor")


def is_finite(x: Node) -> bool:
    """Whether x is made of indices and constants alone, by what makes no NaN and no infinity of them."""
    return all(y.op in KEEPS or y.dtype != "float" for y in topological([x])) and x.op != "gather"


def is_fixed(x: Node) -> bool:
    """Whether constants and extents alone decide x, as 1/√d: it is finite where there are keys."""
    return all(y.operands or y.op in ("const", "extent") for y in topological([x]))
