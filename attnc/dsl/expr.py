"""Traced values: what the parameters of a variant are while its body runs once."""

from __future__ import annotations

from typing import Any

from attnc.dsl.opaque import Opaque, captured_array, here, refuse_numpy
from attnc.errors import AxisError, KindError, TraceError
from attnc.ir.graph import Node, const, node
from attnc.ir.ops import INDEX_AXES, Kind


def feature_axes(x: Node) -> frozenset[str]:
    """The axes of x that are features (not b, h, i, j)."""
    return x.axes - set(INDEX_AXES)


class Expr(Opaque):
    """A traced value. Supports Python's arithmetic, comparison and bit operators; `@` contracts (see `attnc.dot`)."""

    __slots__ = ()

    def __init__(self, node: Node) -> None:
        object.__setattr__(self, "node", node)

    @property
    def axes(self) -> frozenset[str]:
        """The named axes this value varies over."""
        return self.node.axes

    def __repr__(self) -> str:
        return f"<traced {self.node.dtype}[{' '.join(sorted(self.axes))}] {self.node!r}>"

    # -- arithmetic
    def __add__(self, other: Any) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Any) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return binary("div", self, other, float_only=True)

    def __rtruediv__(self, other: Any) -> Expr:
        return binary("div", other, self, float_only=True)

    def __floordiv__(self, other: Any) -> Expr:
        return binary("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Expr:
        return binary("floordiv", other, self)

    def __mod__(self, other: Any) -> Expr:
        return binary("mod", self, other)

    def __rmod__(self, other: Any) -> Expr:
        return binary("mod", other, self)

    def __pow__(self, other: Any) -> Expr:
        return power(self, other)

    def __rpow__(self, other: Any) -> Expr:
        return power(other, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __pos__(self) -> Expr:
        return self

    def __abs__(self) -> Expr:
        return unary("abs", self)

    # -- comparison
    def __lt__(self, other: Any) -> Expr:
        return binary("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return binary("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return binary("lt", other, self)

    def __ge__(self, other: Any) -> Expr:
        return binary("le", other, self)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return binary("eq", self, other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return binary("ne", self, other)

    __hash__ = object.__hash__

    # -- logic and bits
    def __and__(self, other: Any) -> Expr:
        return bitwise("and", self, other)

    def __rand__(self, other: Any) -> Expr:
        return bitwise("and", other, self)

    def __or__(self, other: Any) -> Expr:
        return bitwise("or", self, other)

    def __ror__(self, other: Any) -> Expr:
        return bitwise("or", other, self)

    def __xor__(self, other: Any) -> Expr:
        return bitwise("xor", self, other)

    def __rxor__(self, other: Any) -> Expr:
        return bitwise("xor", other, self)

    def __invert__(self) -> Expr:
        return unary("not", self)

    def __lshift__(self, other: Any) -> Expr:
        return binary("shl", self, other)

    def __rlshift__(self, other: Any) -> Expr:
        return binary("shl", other, self)

    def __rshift__(self, other: Any) -> Expr:
        return binary("shr", self, other)

    def __rrshift__(self, other: Any) -> Expr:
        return binary("shr", other, self)

    def __matmul__(self, other: Any) -> Expr:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Expr:
        return matmul(other, self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        operators = {
            "add": "add",
            "subtract": "sub",
            "multiply": "mul",
            "divide": "div",
            "less": "lt",
            "less_equal": "le",
        }
        import numpy as np

        captured = [x for x in inputs if isinstance(x, np.ndarray) and x.ndim > 0]
        if captured:
            raise captured_array(captured[0])
        numbers = [x.item() if isinstance(x, np.generic) else x for x in inputs]
        if method == "__call__" and ufunc.__name__ in operators and not kwargs:
            return binary(operators[ufunc.__name__], *numbers, float_only=ufunc.__name__ == "divide")
        raise refuse_numpy(ufunc.__name__)


def lift(x: Any, kind: Kind | None = None) -> Node:
    """The node of a traced value, an operand tensor used whole, or a Python or NumPy number."""
    if isinstance(x, Expr):
        return x.node
    whole = getattr(x, "__attnc_whole__", None)
    if whole is not None:
        result: Node = whole()
        return result
    if hasattr(x, "dtype") and getattr(x, "ndim", 1) == 0 and hasattr(x, "item"):
        x = x.item()
    if isinstance(x, (bool, int, float)):
        if isinstance(x, int) and kind == "float":
            x = float(x)
        return const(x)
    if hasattr(x, "__array__") or isinstance(x, (list, tuple)) or hasattr(x, "__dlpack__"):
        raise captured_array(x)
    raise TraceError(
        f"{type(x).__name__} inside a formula",
        where=here(),
        cause=f"{x!r} is neither a traced value nor a number",
        cure="use traced values, operands and Python numbers",
    )


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


def check_features(name: str, operands: list[Node]) -> None:
    """Elementwise operations may combine at most one set of feature axes."""
    named = {feature_axes(x) for x in operands if feature_axes(x)}
    if len(named) > 1:
        texts = " and ".join("[" + " ".join(sorted(axes)) + "]" for axes in sorted(named, key=sorted))
        raise AxisError(
            f"{name} of values with different feature axes",
            where=here(),
            cause=f"one varies over {texts}",
            cure="contract a feature axis first: at.dot(x, y) or at.sum(x, over=...)",
        )


def make(op: str, *operands: Node, **attrs: Any) -> Expr:
    """A node at the user's line, as a traced value."""
    return Expr(node(op, *operands, loc=here(), **attrs))


def unary(op: str, x: Any, *, kinds: tuple[Kind, ...] = ("int", "float")) -> Expr:
    """An elementwise operation of one value; a bool counts as an integer in arithmetic."""
    operand = lift(x)
    if op == "not":
        if operand.dtype == "float":
            raise KindError(
                "~ of a float", where=here(), cause=f"{operand!r} is a float", cure="~ negates masks and integers"
            )
        return make(op, operand)
    if operand.dtype not in kinds:
        operand = convert(operand, "int" if "int" in kinds and operand.dtype == "bool" else "float")
    return make(op, operand)


def binary(op: str, x: Any, y: Any, *, float_only: bool = False) -> Expr:
    """An elementwise operation of two values after promotion: bool < int < float."""
    a, b = lift(x), lift(y)
    kind = promoted(a, b)
    if float_only:
        kind = "float"
    elif kind == "bool" and op not in ("eq", "ne"):
        kind = "int"
    if op in ("shl", "shr") and kind == "float":
        raise KindError(
            f"{'<<' if op == 'shl' else '>>'} of a float",
            where=here(),
            cause=f"{a!r} and {b!r} must be integers",
            cure="use integers, or multiply by a power of two",
        )
    check_features(op, [a, b])
    return make(op, convert(a, kind), convert(b, kind))


def bitwise(op: str, x: Any, y: Any) -> Expr:
    """& | ^ of masks, or of integers."""
    a, b = lift(x), lift(y)
    if "float" in (a.dtype, b.dtype):
        bad = a if a.dtype == "float" else b
        raise KindError(
            f"{op} of a float",
            where=here(),
            cause=f"{bad!r} is a float",
            cure="& | ^ combine masks or integers; compare the float first, and mind Python's precedence: (i >= j) & (i < n)",
        )
    kind: Kind = "bool" if a.dtype == b.dtype == "bool" else "int"
    return make(op, convert(a, kind), convert(b, kind))


def power(x: Any, y: Any) -> Expr:
    """x ** y: small constant integer powers by multiplication, else floating point."""
    a, b = lift(x), lift(y)
    if (
        b.op == "const"
        and b["value"] == int(b["value"])
        and 0 <= b["value"] <= 8
        and (a.dtype != "int" or b.dtype == "int")
    ):
        base = convert(a, "int") if a.dtype == "bool" else a
        n = int(b["value"])
        if n == 0:
            return Expr(const(1, base.dtype))
        result: Expr | None = None
        square = Expr(base)
        while n:
            if n & 1:
                result = square if result is None else result * square
            n >>= 1
            square = square * square if n else square
        assert result is not None
        return result
    check_features("**", [a, b])
    return make("pow", convert(a, "float"), convert(b, "float"))


def contract(x: Node, y: Node, axis: str) -> Expr:
    """Sum over a feature axis of the product."""
    return make("dot", convert(x, "float"), convert(y, "float"), axis=axis)


def matmul(x: Any, y: Any) -> Expr:
    """`x @ W` contracts x's feature axis with the first axis of a matrix operand; `w @ v` contracts the keys j."""
    a, b = lift(x), lift(y)
    columns: tuple[str, ...] = b["features"] if b.op == "gather" else ()
    mine = feature_axes(a)
    if mine and columns:
        first = columns[0]
        if first not in mine:
            raise AxisError(
                "@ of axes that differ",
                where=here(),
                cause=f"the left side has the feature axis [{' '.join(sorted(mine))}], the matrix {b['name']} starts with {first!r}",
                cure=f"declare the matrix as at.Tensor[{sorted(mine)[0]!r}, ...]",
            )
        if len(columns) == 1:
            return contract(a, b, first)
        if len(columns) != 2:
            raise AxisError(
                "@ with more than two feature axes",
                where=here(),
                cause=f"{b['name']} has the axes {columns}",
                cure="index its leading axes first",
            )
        return make("project", convert(a, "float"), convert(b, "float"), contract=first, result=columns[1])
    if mine:
        common = mine & feature_axes(b)
        if len(common) == 1:
            return contract(a, b, next(iter(common)))
        raise AxisError(
            "@ of values without a common axis",
            where=here(),
            cause=f"left [{' '.join(sorted(a.axes))}], right [{' '.join(sorted(b.axes))}]",
            cure="weights @ v contracts j; x @ W contracts a feature axis that both have",
        )
    if "j" not in a.axes and "j" not in b.axes:
        raise AxisError(
            "@ without keys to sum over",
            where=here(),
            cause=f"neither side varies over j: left [{' '.join(sorted(a.axes))}], right [{' '.join(sorted(b.axes))}]",
            cure="the weights must depend on the key: w @ v sums over j",
        )
    if "i" in feature_axes(b) or not feature_axes(b):
        raise AxisError(
            "@ needs values on the right",
            where=here(),
            cause=f"the right side [{' '.join(sorted(b.axes))}] has no feature axis",
            cure="write w @ v; for a sum of scalars over the keys use at.sum(w * x, over='j')",
        )
    return make("attend", convert(a, "float"), convert(b, "float"))
