"""The lse of a variant as one of its outputs."""

from __future__ import annotations

from dataclasses import replace

from attnc.dsl.place import here
from attnc.errors import OutputError
from attnc.ir.graph import Graph, node


def with_lse(graph: Graph) -> Graph:
    """The graph with the lse of its one softmax as a further output."""
    nodes = [x for x in graph.nodes() if x.op == "softmax"]
    if len(nodes) != 1:
        raise OutputError(
            f"return_lse of {graph.name}",
            where=here(),
            cause=f"it has {len(nodes)} softmaxes; the lse is the log of one softmax's denominator",
            cure="use return_lse with exactly one softmax",
        )
    (softmax,) = nodes
    lse = node("lse", *softmax.operands, loc=softmax.loc, **dict(softmax.attrs))
    return replace(graph, outputs=(*graph.outputs, lse))
