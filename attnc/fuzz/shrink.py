"""Make a failing graph smaller: outputs dropped, nodes replaced by their operands, while it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from attnc.ir.graph import Graph, IRError, Node, const, substitute
from attnc.ir.verify import verify

MOST_TRIALS = 400


def shrink(graph: Graph, fails: Callable[[Graph], bool], trials: int = MOST_TRIALS) -> Graph:
    """A smaller graph for which `fails` still holds."""
    improved = True
    while improved:
        improved = False
        for candidate in _candidates(graph):
            trials -= 1
            if trials < 0:
                return graph
            if len(candidate.nodes()) < len(graph.nodes()) and fails(candidate):
                graph, improved = candidate, True
                break
    return graph


def _candidates(graph: Graph) -> Iterator[Graph]:
    if len(graph.outputs) > 1:
        for output in graph.outputs:
            yield replace(graph, outputs=(output,))
    for x in reversed(graph.nodes()):
        for y in _replacements(x):
            try:
                smaller = verify(replace(graph, outputs=substitute(graph.outputs, {x: y})))
            except IRError:
                continue
            if _traceable(smaller):
                yield smaller


def _traceable(graph: Graph) -> bool:
    """Whether the language allows it: outputs per query, reductions over axes that are there."""
    reductions = (x for x in graph.nodes() if x.op == "reduce")
    return all("i" in x.axes for x in graph.outputs) and all(x["axis"] in x.operands[0].axes for x in reductions)


def _replacements(x: Node) -> Iterator[Node]:
    """What could stand for x: its operands of the same kind, then a constant; axes may get lost, never j or features of a product."""
    yield from (y for y in x.operands if y.dtype == x.dtype and y.axes <= x.axes)
    if x.operands and not x.axes:
        yield const({"bool": True, "int": 1, "float": 0.5}[x.dtype], x.dtype)
