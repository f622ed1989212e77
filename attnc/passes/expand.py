"""Composite ops become reductions: softmax and lse as the sums they are, so that the planner sees only sums."""

from __future__ import annotations

from dataclasses import replace

from attnc.interp import MASKED
from attnc.ir.graph import Graph, Node, const, node, rewrite
from attnc.ir.ops import INDEX_AXES


def exponent(x: Node) -> Node:
    """The masked scores of a softmax or lse node: -inf where the pair is not attended to."""
    scores = x.operands[0]
    low = node("le", scores, const(MASKED))
    live = node("where", low, const(float("-inf")), scores)
    return node("where", x.operands[1], live, const(float("-inf")), loc=x.loc) if x["masked"] else live


def total(x: Node) -> Node:
    """The denominator of a softmax or lse node, sink included."""
    e = node("exp", exponent(x), loc=x.loc)
    if "j" not in e.axes:  # the mask or the scores do not read the key: every key counts
        e = node("where", node("eq", node("index", name="j"), node("index", name="j")), e, const(0.0))
    result = node("reduce", e, how="sum", axis="j", loc=x.loc)
    return node("add", result, node("exp", x.operands[-1])) if x["sink"] else result


def _expand(x: Node) -> Node:
    if x.op == "lse":
        return node("log", total(x), loc=x.loc)
    if x.op == "softmax":
        denominator = total(x)
        empty = node("eq", denominator, const(0.0))
        inverse = node("where", empty, const(0.0), node("div", const(1.0), denominator), loc=x.loc)
        return node("mul", node("exp", exponent(x), loc=x.loc), inverse, loc=x.loc)
    return x


def expand(graph: Graph) -> Graph:
    """softmax(s) -> exp(s) * (1 / sum(exp(s)), 0 for an empty row); lse(s) -> log(sum(exp(s)))."""
    return replace(graph, outputs=rewrite(graph.outputs, _expand))


def is_reduction(x: Node) -> bool:
    """Whether x sums, or takes the maximum or minimum, over the keys."""
    return x.op == "attend" or (x.op == "reduce" and x["axis"] == "j")


def feature_axes(x: Node) -> frozenset[str]:
    """The axes of x that are not b, h, i, j."""
    return x.axes - frozenset(INDEX_AXES)
