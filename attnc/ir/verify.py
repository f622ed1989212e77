"""Checks at the border of every pass: what the table says of a node must hold."""

from __future__ import annotations

from attnc.ir.graph import Graph, IRError, Node, node


def verify(graph: Graph, known: dict[int, Node] | None = None) -> Graph:
    """Return the graph unchanged, or raise IRError naming the bad node (a bug of attnc).

    known: nodes that were found right, by id, which need not be looked at again; those of this graph join them.
    """
    known = {} if known is None else known
    if not graph.outputs:
        raise IRError(f"{graph.name}: a graph without outputs")
    for x in graph.nodes():
        if id(x) in known:
            continue
        again = node(x.op, *x.operands, **dict(x.attrs))
        if again.key != x.key or again.axes != x.axes or again.dtype != x.dtype:
            raise IRError(f"{graph.name}: node {x!r} does not follow from the op table")
        known[id(x)] = x
    for x in graph.outputs:
        if "j" in x.axes:
            raise IRError(f"{graph.name}: output {x!r} still varies over j")
    return graph
