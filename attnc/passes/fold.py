"""Evaluate what is constant, with the interpreter's own rules, so that folding cannot disagree with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attnc.interp import ELEMENTWISE
from attnc.ir.graph import Graph, Node, const, node, rewrite
from attnc.ir.ops import OPS
from attnc.passes.canonicalise import simplify

_TYPES = {"bool": np.bool_, "int": np.int64, "float": np.float64}


def fold_node(x: Node) -> Node:
    """x as a constant where all its operands are; integers stay exact, floats are float64."""
    if not OPS[x.op].elementwise or not all(operand.op == "const" for operand in x.operands):
        return simplify(x)
    values: list[Any] = [np.asarray(operand["value"], _TYPES[operand.dtype]) for operand in x.operands]
    with np.errstate(all="ignore"):
        result = values[0].astype(_TYPES[x.dtype]) if x.op == "cast" else ELEMENTWISE[x.op](*values)
    return const(np.asarray(result).item(), x.dtype)


def op(name: str, *operands: Node) -> Node:
    """An elementwise node, folded."""
    return fold_node(node(name, *operands))


def fold(graph: Graph) -> Graph:
    """Fold constants everywhere, bottom up."""
    return replace(graph, outputs=rewrite(graph.outputs, fold_node))
