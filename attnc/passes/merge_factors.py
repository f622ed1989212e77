"""tanh(x * a / c) = tanh(x * (a / c)): what scores are multiplied with and divided by becomes one factor, computed once for each row.

Only below functions that are smooth and level off: there a factor is rounded once less, and nothing compares the result. A division
of each pair costs as much as the products of ten features.
"""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.graph import Graph, Node, const, rebuild, rewrite
from attnc.passes.expand import feature_axes
from attnc.passes.fold import op

SMOOTH = ("tanh", "sigmoid", "erf")


def merge_factors(graph: Graph) -> Graph:
    """One factor of a row below each smooth function of scores."""
    return replace(graph, outputs=rewrite(graph.outputs, _merged))


def _merged(x: Node) -> Node:
    if x.op not in SMOOTH:
        return x
    core, above, below = _parts(x.operands[0])
    if _of_row(core) or (len(above) < 2 and not below):
        return x
    factor = const(1.0)
    for y in above:
        factor = op("mul", factor, y)
    for y in below:
        factor = op("div", factor, y)
    return rebuild(x, [op("mul", core, factor)])


def _parts(x: Node) -> tuple[Node, list[Node], list[Node]]:
    """x as a core, what it is multiplied with, and what it is divided by; the latter two do not vary over keys or features."""
    if x.op == "div" and _of_row(x.operands[1]):
        core, above, below = _parts(x.operands[0])
        return core, above, [*below, x.operands[1]]
    if x.op == "mul":
        for y, factor in (x.operands, x.operands[::-1]):
            if _of_row(factor) and not _of_row(y):
                core, above, below = _parts(y)
                return core, [*above, factor], below
    return x, [], []


def _of_row(x: Node) -> bool:
    return "j" not in x.axes and not feature_axes(x)
