"""From what a variant writes to nodes: numbers and traced values, kinds, and what must fit before a node is made."""

from __future__ import annotations

from typing import Any, NoReturn

from attnc.dsl.opaque import Opaque, brief, captured_array, here
from attnc.errors import AttncError, AxisError, GradientError, KindError, TraceError
from attnc.ir.graph import Node, const, node, topological
from attnc.ir.ops import INDEX_AXES, Kind

SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**", "lt": "<", "le": "<=",
    "eq": "==", "ne": "!=", "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
    "minimum": "at.minimum", "maximum": "at.maximum", "where": "at.where",
}  # fmt: skip


class NeedsKind(Exception):
    """While tracing: the tensor operand `name` must have another kind. `error` is for when its kind was no guess."""

    def __init__(self, name: str, kind: Kind, error: AttncError) -> None:
        self.name, self.kind, self.error = name, kind, error


def needs(kind: Kind, x: Node, error: AttncError) -> NoReturn:
    """Raise `error`, or NeedsKind where x comes from a tensor operand whose kind may have been guessed as float."""
    guess = next((n for n in topological([x]) if n.op == "gather" and n["kind"] == "float"), None)
    if guess is not None and (kind == "int" or guess == x):
        raise NeedsKind(guess["name"], kind, error)
    raise error


def names(axes: frozenset[str]) -> str:
    """Axes in a message: `b h i j d`."""
    return " ".join([a for a in INDEX_AXES if a in axes] + sorted(axes - set(INDEX_AXES)))


def feature_axes(x: Node) -> frozenset[str]:
    """The axes of x that are features (not b, h, i, j)."""
    return x.axes - set(INDEX_AXES)


def lift(x: Any) -> Node:
    """The node of a traced value (an operand tensor used whole is one), or of a Python or NumPy number."""
    if isinstance(x, Opaque):
        return x.node
    if getattr(x, "requires_grad", False):
        raise GradientError(
            "a tensor that requires gradients inside the variant",
            where=here(),
            cause="its value would be baked into the kernel, and no gradient would reach it",
            cure="make it an operand and pass tensor.detach() at the call",
        )
    if hasattr(x, "dtype") and getattr(x, "ndim", 1) == 0 and hasattr(x, "item"):
        x = x.item()
    if isinstance(x, int) and not -(2**63) <= x < 2**63:
        raise KindError(f"the integer {x}", where=here(), cause="integers are 64 bits wide", cure="use a float")
    if isinstance(x, (bool, int, float)):
        return const(x)
    if hasattr(x, "__array__") or hasattr(x, "__dlpack__") or isinstance(x, (list, tuple)):
        raise captured_array(x)
    if x is None:
        cause, cure = (
            "an optional operand that was not passed is None",
            "ask first: if bias is not None: s = s + bias[j]",
        )
    else:
        cause, cure = f"{x!r} is neither a traced value nor a number", "use traced values, operands and Python numbers"
    raise TraceError(f"{type(x).__name__} inside a formula", where=here(), cause=cause, cure=cure)


def convert(x: Node, kind: Kind) -> Node:
    """x as another kind; constants convert at once."""
    if x.dtype == kind:
        return x
    if x.op == "const":
        return const(x["value"], kind)
    return node("cast", x, kind=kind, loc=x.loc)


_ORDER: dict[Kind, int] = {"bool": 0, "int": 1, "float": 2}


def promoted(x: Node, y: Node) -> Kind:
    """The kind that holds both: bool < int < float."""
    return max(x.dtype, y.dtype, key=_ORDER.__getitem__)


def check_features(op: str, operands: list[Node]) -> None:
    """Elementwise operations may combine at most one set of feature axes."""
    named = {feature_axes(x) for x in operands if feature_axes(x)}
    if len(named) > 1:
        texts = " and ".join(f"[{names(axes)}]" for axes in sorted(named, key=sorted))
        raise AxisError(
            f"{SIGNS.get(op, op)} of values with different feature axes",
            where=here(),
            cause=f"they have the feature axes {texts}: {', '.join(brief(x) for x in operands if feature_axes(x))}",
            cure="contract first: at.dot(x, y), at.sum(x, over=...), or x @ W with a matrix operand",
        )


def check_score(what: str, score: Node) -> None:
    """Scores, masks and weights say how much of a value is taken: they must not depend on that same value."""
    found: dict[Node, Node | None] = {}  # nodes that read v at the same key -> the first node that the user wrote
    for x in topological([score]):
        if x.op == "role" and x["name"] == "v":
            found[x] = None
        elif "j" in x.axes and (below := next((o for o in x.operands if o in found), None)) is not None:
            found[x] = found[below] or x
    if score in found:
        first = found[score]
        raise AxisError(
            f"v inside the {what}",
            where=first.loc if first is not None and first.loc is not None else here(),
            cause=f"{brief(first or score)} reads the value that the {what} are to weigh: scores compare q with k, values come after",
            cure="use k in the score, and put functions of v to the right of @: w @ (v * gate)",
        )
