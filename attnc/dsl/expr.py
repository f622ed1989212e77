"""Traced values: what the parameters of a variant are while its body runs once."""

from __future__ import annotations

import math
from typing import Any

from attnc.dsl.lift import SIGNS, check_features, check_score, convert, feature_axes, lift, names, needs, promoted
from attnc.dsl.opaque import Opaque, brief, captured_array, here, refuse_function
from attnc.errors import AxisError, KindError
from attnc.ir.graph import Node, const, node
from attnc.ir.ops import Kind

_UFUNCS = {  # of a NumPy scalar on the left: np.float32(2) * x
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "floor_divide": "floordiv", "remainder": "mod",
    "less": "lt", "less_equal": "le", "equal": "eq", "not_equal": "ne", "bitwise_and": "and", "bitwise_or": "or",
    "bitwise_xor": "xor", "left_shift": "shl", "right_shift": "shr", "power": "pow",
}  # fmt: skip
_SWAPPED = {"greater": "lt", "greater_equal": "le"}


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
        return f"<traced {self.node.dtype}[{names(self.axes)}] {brief(self.node)}>"

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
        arrays = [x for x in inputs if hasattr(x, "ndim") and not isinstance(x, Opaque) and x.ndim > 0]
        if arrays:
            raise captured_array(arrays[0])
        name = ufunc.__name__
        if method != "__call__" or kwargs or len(inputs) != 2 or isinstance(inputs[0], Expr):
            raise refuse_function("numpy", name)
        if name in _SWAPPED:
            return binary(_SWAPPED[name], inputs[1], inputs[0])
        if name == "matmul":
            return matmul(*inputs)
        if name not in _UFUNCS:
            raise refuse_function("numpy", name)
        op = _UFUNCS[name]
        if op in ("and", "or", "xor"):
            return bitwise(op, *inputs)
        return power(*inputs) if op == "pow" else binary(op, *inputs, float_only=op == "div")


def make(op: str, *operands: Node, **attrs: Any) -> Expr:
    """A node at the user's line, as a traced value."""
    where = here()
    for x in operands:
        if op != "project" and x.op == "gather" and len(set(x["features"])) < len(x["features"]):
            raise AxisError(
                f"a square matrix outside of x @ {x['name']}",
                where=where,
                cause=f"{x['name']} has the axis {x['features'][0]!r} twice: which one is meant is not defined",
                cure=f"write x @ {x['name']}, or name its axes apart: at.Tensor['d', 'r']",
            )
    return Expr(node(op, *operands, loc=where, **attrs))


def unary(op: str, x: Any, *, kinds: tuple[Kind, ...] = ("int", "float")) -> Expr:
    """An elementwise operation of one value; a bool counts as an integer in arithmetic."""
    operand = lift(x)
    if op == "not":
        if operand.dtype == "float":
            cure = "~ negates masks and integers; for a float write -x, or compare it first"
            error = KindError("~ of a float", where=here(), cause=f"{brief(operand)} is a float", cure=cure)
            needs("bool", operand, error)
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
        bad = a if a.dtype == "float" else b
        cure = "shift integers, or multiply by a power of two"
        error = KindError(f"{SIGNS[op]} of a float", where=here(), cause=f"{brief(bad)} is a float", cure=cure)
        needs("int", bad, error)
    check_features(op, [a, b])
    return make(op, convert(a, kind), convert(b, kind))


def bitwise(op: str, x: Any, y: Any) -> Expr:
    """& | ^ of masks, or of integers."""
    a, b = lift(x), lift(y)
    if "float" in (a.dtype, b.dtype):
        bad, other = (a, b) if a.dtype == "float" else (b, a)
        error = KindError(
            f"{SIGNS[op]} of a float",
            where=here(),
            cause=f"{brief(bad)} is a float",
            cure="& | ^ combine masks or integers: compare the float first, with brackets, (x > 0) & (i < n)",
        )
        needs("int" if other.dtype == "int" else "bool", bad, error)
    kind: Kind = "bool" if a.dtype == b.dtype == "bool" else "int"
    check_features(op, [a, b])
    return make(op, convert(a, kind), convert(b, kind))


def power(x: Any, y: Any) -> Expr:
    """x ** y: constant whole powers by multiplication (an int stays one), else floating point."""
    a, b = lift(x), lift(y)
    base = convert(a, "int") if a.dtype == "bool" else a
    if b.op == "const" and base.op != "const" and math.isfinite(b["value"]) and b["value"] == int(b["value"]) >= 0:
        n, whole = int(b["value"]), base.dtype == "int" and b.dtype != "float"
        if whole or (base.dtype == "float" and n <= 8):
            return _repeated(base, n)
    check_features("pow", [a, b])
    return make("pow", convert(a, "float"), convert(b, "float"))


def _repeated(base: Node, n: int) -> Expr:
    result: Expr | None = None
    square = Expr(base)
    while n:
        if n & 1:
            result = square if result is None else result * square
        n >>= 1
        square = square * square if n else square
    return Expr(const(1, base.dtype)) if result is None else result


def _columns(x: Node) -> tuple[str, ...]:
    """The feature axes of an operand, in the order of its declaration; () where x is no operand."""
    while x.op == "cast":
        x = x.operands[0]
    return x["features"] if x.op == "gather" else ()


def contract(x: Node, y: Node, axis: str) -> Expr:
    """Sum over a feature axis of the product; a matrix operand on either side gives its other axis."""
    a, b = convert(x, "float"), convert(y, "float")
    for vector, matrix in ((a, b), (b, a)):
        other = [c for c in _columns(matrix) if c != axis]
        if len(other) == 1 and len(_columns(matrix)) == 2:
            _check_vector(vector, matrix)
            return make("project", vector, matrix, contract=axis, result=other[0])
    return make("dot", a, b, axis=axis)


def _check_vector(x: Node, matrix: Node) -> None:
    if len(feature_axes(x)) > 1:
        raise AxisError(
            "a product of two matrices",
            where=here(),
            cause=f"{brief(x)} has the feature axes [{names(feature_axes(x))}], {brief(matrix)} is a matrix",
            cure="multiply them before the call and pass the product, or write (q @ A) @ B",
        )


def matmul(x: Any, y: Any) -> Expr:
    """`x @ W` contracts x's feature axis with the first axis of a matrix operand; `w @ v` contracts the keys j."""
    a, b = lift(x), lift(y)
    mine, columns = feature_axes(a), _columns(b)
    if mine and columns:
        return _project(a, b, columns)
    if mine:
        common = mine & feature_axes(b)
        if len(common) == 1:
            return contract(a, b, next(iter(common)))
        raise AxisError(
            "@ of values without a common axis",
            where=here(),
            cause=f"left [{names(a.axes)}], right [{names(b.axes)}]",
            cure="weights @ v contracts j; x @ W contracts a feature axis that both have",
        )
    if "j" not in a.axes and "j" not in b.axes:
        raise AxisError(
            "@ without keys to sum over",
            where=here(),
            cause=f"neither side varies over j: left [{names(a.axes)}], right [{names(b.axes)}]",
            cure="the weights must depend on the key: w @ v sums over j",
        )
    if not feature_axes(b):
        raise AxisError(
            "@ needs values on the right",
            where=here(),
            cause=f"the right side [{names(b.axes)}] has no feature axis",
            cure="write w @ v; for a sum of numbers over the keys use at.sum(w * x, over='j')",
        )
    check_score("weights", a)
    return make("attend", convert(a, "float"), convert(b, "float"))


def _project(a: Node, b: Node, columns: tuple[str, ...]) -> Expr:
    mine, first, name = feature_axes(a), columns[0], brief(b)
    if first not in mine:
        raise AxisError(
            "@ of axes that differ",
            where=here(),
            cause=f"the left side has the feature axis [{names(mine)}], the matrix {name} starts with {first!r}",
            cure=f"declare the matrix as at.Tensor[{min(mine)!r}, ...]",
        )
    if len(columns) == 1:
        return contract(a, b, first)
    if len(columns) != 2:
        raise AxisError(
            "@ with more than two feature axes",
            where=here(),
            cause=f"{name} has the axes {columns}",
            cure="index its leading axes first: W[h]",
        )
    _check_vector(a, b)
    return make("project", convert(a, "float"), convert(b, "float"), contract=first, result=columns[1])
