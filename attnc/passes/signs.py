"""What is proved to be no negative number (it may be NaN): where powers, logarithms and maxima may go factor by factor."""

from __future__ import annotations

from attnc.ir.graph import Node, topological

_ALWAYS = {"exp", "exp2", "sigmoid", "abs", "sqrt", "rsqrt", "weight"}
_ALL = {"add", "minimum", "div", "pow"}  # no negative result where no operand is negative
_SAME = {"log1p", "tanh", "erf", "floor", "sign", "cast"}


def nonnegative(x: Node) -> bool:
    """Whether x is proved to be at least 0 wherever it is no NaN."""
    known: dict[Node, bool] = {}
    for y in topological([x]):
        known[y] = _rule(y, known)
    return known[x]


def _rule(x: Node, known: dict[Node, bool]) -> bool:
    below = [known[y] for y in x.operands]
    match x.op:
        case "const":
            return bool(x["value"] >= 0)
        case "extent" | "index":
            return True
        case "mul" | "dot":
            return all(below) or x.operands[0] == x.operands[1]
        case "maximum":
            return any(below)
        case "where":
            return below[1] and below[2]
        case "reduce":
            return below[0] and x["how"] != "max"  # the maximum over no keys is -inf
        case "attend":
            return all(below)
        case op if op in _ALL:
            return all(below)
        case op if op in _SAME:
            return below[0] or x.operands[0].dtype == "bool"
    return x.op in _ALWAYS or x.op == "softmax"
