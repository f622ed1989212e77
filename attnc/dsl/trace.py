"""Run a variant once on traced values: function -> Graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attnc.dsl.expr import Expr, convert, lift
from attnc.dsl.opaque import here
from attnc.dsl.signature import Operand, Signature
from attnc.errors import AxisError, KindError, OutputError, TraceError
from attnc.ir.graph import Graph, Node, node, topological
from attnc.ir.ops import INDEX_AXES, Kind
from attnc.ir.verify import verify


class NeedsInteger(Exception):
    """Raised while tracing without inputs: operand `name`, whose kind was a guess, must be an integer."""

    def __init__(self, name: str) -> None:
        self.name = name


class Table:
    """An operand array inside a variant: indexed with integer expressions; axes left unindexed are feature axes."""

    __array_ufunc__ = None

    def __init__(self, operand: Operand, kind: Kind, guessed: bool) -> None:
        self._operand, self._kind, self._guessed = operand, kind, guessed

    def __getitem__(self, index: Any) -> Expr:
        indices = index if isinstance(index, tuple) else (index,)
        name, axes = self._operand.name, self._operand.axes
        if len(indices) > len(axes):
            raise AxisError(
                f"{name} indexed with {len(indices)} indices",
                where=here(),
                cause=f"it is declared at.Tensor[{', '.join(map(repr, axes))}]",
                cure="one index per axis",
            )
        nodes = []
        for x in indices:
            lifted = lift(x)
            if lifted.dtype == "float":
                guess = next((n for n in topological([lifted]) if n.op == "gather" and n["kind"] == "float"), None)
                if guess is not None:
                    raise NeedsInteger(guess["name"])
                raise KindError(
                    f"a float index into {name}",
                    where=here(),
                    cause=f"{lifted!r} is a float",
                    cure="index with integers: i - j, i // block, a scalar annotated int",
                )
            nodes.append(convert(lifted, "int"))
        return Expr(self._node(nodes))

    def _node(self, indices: list[Node]) -> Node:
        features = self._operand.axes[len(indices) :]
        wrong = [axis for axis in features if axis in INDEX_AXES or axis == "g"]
        if wrong:
            raise AxisError(
                f"{self._operand.name} needs an index for axis {wrong[0]!r}",
                where=here(),
                cause=f"it is declared at.Tensor[{', '.join(map(repr, self._operand.axes))}]",
                cure=f"{self._operand.name}[{', '.join(self._operand.axes)}]",
            )
        return node(
            "gather",
            *indices,
            name=self._operand.name,
            dims=self._operand.axes,
            features=features,
            kind=self._kind,
            loc=here(),
        )

    def __attnc_whole__(self) -> Node:
        return self._node([])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return getattr(Expr(self.__attnc_whole__()), name)

    def __repr__(self) -> str:
        return f"<operand {self._operand.name}[{', '.join(self._operand.axes)}]>"


def _forward(name: str) -> None:
    def method(self: Table, *args: Any) -> Any:
        return getattr(Expr(self.__attnc_whole__()), name)(*args)

    setattr(Table, name, method)


for _name in [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
    "matmul",
]:
    _forward(f"__{_name}__")
    _forward(f"__r{_name}__")
for _name in ["neg", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne", "bool"]:
    _forward(f"__{_name}__")


def trace(
    function: Callable[..., Any],
    signature: Signature,
    *,
    kinds: Mapping[str, Kind],
    constants: Mapping[str, Any],
    absent: frozenset[str],
) -> Graph:
    """Trace a variant for given kinds of its tensor operands, values of its constants, and operands left at None.

    Tensor operands not in `kinds` are guessed: float, or int where they index a table.
    """
    guessed: dict[str, Kind] = {}
    for _ in range(len(signature.operands) + 1):
        try:
            return _trace(function, signature, {**guessed, **kinds}, set(kinds), constants, absent)
        except NeedsInteger as need:
            if need.name in kinds or need.name in guessed:
                raise KindError(
                    f"{need.name} indexes a table but is no integer array",
                    where=here(),
                    cause=f"{need.name} was passed as {kinds.get(need.name, 'float')}",
                    cure="pass an integer array",
                ) from None
            guessed[need.name] = "int"
    raise AssertionError("tracing did not settle")


def _trace(
    function: Callable[..., Any],
    signature: Signature,
    kinds: Mapping[str, Kind],
    known: set[str],
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
            keywords[name] = Table(operand, operand.kind or kinds.get(name, "float"), name not in known)
    try:
        result = function(*positional, **keywords)
    except RecursionError as error:
        raise TraceError(
            "recursion in the variant",
            where=here(),
            cause="the function calls itself without end: a traced value cannot stop a recursion",
            cure="use a Python loop over an at.Const, which unrolls",
        ) from error
    return verify(_graph(function, result))


def _graph(function: Callable[..., Any], result: Any) -> Graph:
    name = getattr(function, "__name__", "attention")
    outputs = result if isinstance(result, tuple) else (result,)
    if not outputs:
        raise OutputError(f"{name} returns nothing", cause="an empty tuple", cure="return weights @ v")
    nodes = []
    for x in outputs:
        if not isinstance(x, Expr):
            raise OutputError(
                f"{name} returns {type(x).__name__}",
                where=_line(function),
                cause=f"{x!r} is no traced value" if x is not None else "the function ends without return",
                cure="return weights @ v, or a tuple of outputs",
            )
        if "j" in x.axes:
            raise OutputError(
                f"{name} returns a value that varies over the keys",
                where=x.node.loc or _line(function),
                cause=f"{x.node!r} has the axes [{' '.join(sorted(x.axes))}]",
                cure="reduce it over j: weights @ v, or at.sum(x, over='j')",
            )
        if "i" not in x.axes:
            raise OutputError(
                f"{name} returns a value without a query axis",
                where=x.node.loc or _line(function),
                cause=f"{x.node!r} has the axes [{' '.join(sorted(x.axes))}]",
                cure="an output is one value or one vector per query",
            )
        if len(x.axes - set(INDEX_AXES)) > 1:
            raise OutputError(
                f"{name} returns a matrix per query",
                where=x.node.loc,
                cause=f"axes {sorted(x.axes)}",
                cure="one feature axis at most",
            )
        nodes.append(convert(x.node, "float") if x.node.dtype == "bool" else x.node)
    return Graph(tuple(nodes), name=name, doc=(function.__doc__ or "").strip(), tuple_output=isinstance(result, tuple))


def _line(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
