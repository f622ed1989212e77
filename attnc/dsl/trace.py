"""Run a variant once on traced values: function -> Graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from attnc.dsl.expr import Expr
from attnc.dsl.lift import NeedsKind, convert, lift, names, needs
from attnc.dsl.opaque import brief, here
from attnc.dsl.place import recursion
from attnc.dsl.signature import Operand, Signature
from attnc.dsl.source import returned
from attnc.errors import AxisError, KindError, OutputError, TraceError
from attnc.ir.graph import Graph, Node, node
from attnc.ir.ops import INDEX_AXES, Kind
from attnc.ir.verify import verify


class Table(Expr):
    """An operand array inside a variant: indexed with integer expressions; axes left unindexed are feature axes."""

    __slots__ = ("_kind", "_operand")

    def __init__(self, operand: Operand, kind: Kind) -> None:
        object.__setattr__(self, "_operand", operand)
        object.__setattr__(self, "_kind", kind)

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The operand used whole: all its axes are features."""
        return self._gather([])

    def __getitem__(self, index: Any) -> Expr:
        indices = list(index) if isinstance(index, tuple) else [index]
        while indices and _is_whole(indices[-1]):  # W[h, :, :] is W[h]
            indices.pop()
        name, axes = self._operand.name, self._operand.axes
        if any(x is None or x is Ellipsis or isinstance(x, slice) for x in indices):
            raise AxisError(
                f"a slice of {name}",
                where=here(),
                cause="an index picks one entry for the current pair; there are no rows to slice",
                cure=f"index the leading axes with integers, {name}[{axes[0]}]; axes left out at the end are features",
            )
        if len(indices) > len(axes):
            raise AxisError(
                f"{name} indexed with {len(indices)} indices",
                where=here(),
                cause=f"it is declared {self._operand.declared}",
                cure="one index per axis",
            )
        nodes = []
        for x in indices:
            lifted = lift(x)
            if lifted.dtype == "float":
                error = KindError(
                    f"a float index into {name}",
                    where=here(),
                    cause=f"{brief(lifted)} is a float",
                    cure="index with integers: i - j, i // block, an operand annotated int, an array of integers",
                )
                needs("int", lifted, error)
            nodes.append(convert(lifted, "int"))
        return Expr(self._gather(nodes))

    def _gather(self, indices: list[Node]) -> Node:
        name, axes = self._operand.name, self._operand.axes
        features = axes[len(indices) :]
        wrong = [axis for axis in features if axis in INDEX_AXES or axis == "g"]
        if wrong:
            raise AxisError(
                f"{name} needs an index for axis {wrong[0]!r}",
                where=here(),
                cause=f"it is declared {self._operand.declared}; axes left unindexed are features",
                cure=f"{name}[{', '.join('h // at.group' if a == 'g' else a for a in axes)}]",
            )
        return node("gather", *indices, name=name, dims=axes, features=features, kind=self._kind, loc=here())

    def _shown(self) -> str:
        return f"the operand {self._operand.name}"

    def __bool__(self) -> NoReturn:
        name = self._operand.name
        raise TraceError(
            f"the operand {name} has no truth value",
            where=here(),
            cause="while the formula is traced an operand has no values",
            cure=f"for an optional operand ask: if {name} is not None",
        )

    def __repr__(self) -> str:
        return f"<operand {self._operand.name}[{', '.join(self._operand.axes)}]>"


def _is_whole(index: Any) -> bool:
    return index is Ellipsis or (isinstance(index, slice) and index == slice(None))


def trace(
    function: Callable[..., Any],
    signature: Signature,
    *,
    kinds: Mapping[str, Kind],
    constants: Mapping[str, Any],
    absent: frozenset[str],
) -> Graph:
    """Trace a variant for given kinds of its tensor operands, values of its constants, and operands left at None.

    Tensor operands not in `kinds` are guessed: float, int where they index a table, bool where they mask.
    """
    guessed: dict[str, Kind] = {}
    for _ in range(len(signature.operands) + 1):
        try:
            return _trace(function, signature, {**guessed, **kinds}, constants, absent)
        except NeedsKind as need:
            if need.name in kinds or need.name in guessed:
                raise need.error from None
            guessed[need.name] = need.kind
    raise AssertionError("tracing did not settle")


def _trace(
    function: Callable[..., Any],
    signature: Signature,
    kinds: Mapping[str, Kind],
    constants: Mapping[str, Any],
    absent: frozenset[str],
) -> Graph:
    positional = [
        Expr(node("role", name=role)) if role in "qkv" else Expr(node("index", name=role)) for role in signature.roles
    ]
    keywords: dict[str, Any] = {}
    for name, operand in signature.operands.items():
        if name in absent:
            keywords[name] = None
        elif operand.role == "const":
            keywords[name] = constants[name]
        elif operand.role == "scalar":
            keywords[name] = Expr(node("scalar", name=name, kind=operand.kind))
        else:
            keywords[name] = Table(operand, operand.kind or kinds.get(name, "float"))
    try:
        result = function(*positional, **keywords)
    except RecursionError as error:
        raise TraceError(
            "recursion in the variant",
            where=recursion(error),
            cause="the function calls itself without end: a traced value cannot stop a recursion",
            cure="use a Python loop over a constant operand, n: at.Const[int], which unrolls",
        ) from None
    return verify(_graph(function, result))


def _graph(function: Callable[..., Any], result: Any) -> Graph:
    name = getattr(function, "__name__", "attention")
    outputs = result if isinstance(result, tuple) else (result,)
    if not outputs:
        raise OutputError(
            f"{name} returns nothing", where=returned(function), cause="an empty tuple", cure="return weights @ v"
        )
    nodes = [_output(function, name, x) for x in outputs]
    return Graph(tuple(nodes), name=name, doc=(function.__doc__ or "").strip(), tuple_output=isinstance(result, tuple))


def _output(function: Callable[..., Any], name: str, x: Any) -> Node:
    if not isinstance(x, Expr):
        raise OutputError(
            f"{name} returns {'nothing' if x is None else f'a {type(x).__name__}'}",
            where=returned(function),
            cause=f"{x!r} is no traced value" if x is not None else "the function ends without `return`",
            cure="return weights @ v, or several outputs as a tuple: return a @ v, b",
        )
    message, cure = "", ""
    if "j" in x.axes:
        message = "a value that varies over the keys"
        cure = "reduce it over j: weights @ v, or at.sum(x, over='j'); to look at weights, call variant.weights(Q, K)"
    elif "i" not in x.axes:
        message, cure = "a value without a query axis", "an output is one value or one vector per query"
    elif len(x.axes - set(INDEX_AXES)) > 1:
        message, cure = "a matrix per query", "an output has one feature axis at most: contract the others"
    if message:
        raise OutputError(
            f"{name} returns {message}",
            where=x.node.loc or returned(function),
            cause=f"{brief(x.node)} has the axes [{names(x.axes)}]",
            cure=cure,
        )
    return convert(x.node, "float") if x.node.dtype == "bool" else x.node
