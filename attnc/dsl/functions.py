"""The functions of the language. All take traced values or numbers and return traced values."""

from __future__ import annotations

import math
from typing import Any

from attnc.dsl.expr import Expr, binary, contract, make, power, unary
from attnc.dsl.lift import check_features, check_score, convert, feature_axes, lift, names, needs, promoted
from attnc.dsl.opaque import brief, here
from attnc.errors import AxisError, KindError
from attnc.ir.graph import Node, const, node

inf = math.inf
pi = math.pi


def _float(op: str, x: Any) -> Expr:
    return unary(op, x, kinds=("float",))


def exp(x: Any) -> Expr:
    """e to the power x."""
    return _float("exp", x)


def exp2(x: Any) -> Expr:
    """2 to the power x."""
    return _float("exp2", x)


def log(x: Any) -> Expr:
    """Natural logarithm; NaN below 0, -inf at 0."""
    return _float("log", x)


def log2(x: Any) -> Expr:
    """Logarithm to base 2."""
    return _float("log2", x)


def log1p(x: Any) -> Expr:
    """log(1 + x), exact near 0."""
    return _float("log1p", x)


def tanh(x: Any) -> Expr:
    """Hyperbolic tangent."""
    return _float("tanh", x)


def sigmoid(x: Any) -> Expr:
    """1 / (1 + exp(-x))."""
    return _float("sigmoid", x)


def erf(x: Any) -> Expr:
    """Error function."""
    return _float("erf", x)


def sqrt(x: Any) -> Expr:
    """Square root."""
    return _float("sqrt", x)


def rsqrt(x: Any) -> Expr:
    """1 / sqrt(x)."""
    return _float("rsqrt", x)


def sin(x: Any) -> Expr:
    """Sine of x in radians."""
    return _float("sin", x)


def cos(x: Any) -> Expr:
    """Cosine of x in radians."""
    return _float("cos", x)


def floor(x: Any) -> Expr:
    """Largest whole number not above x, as a float (an integer stays as it is)."""
    return Expr(lift(x)) if lift(x).dtype == "int" else _float("floor", x)


def abs(x: Any) -> Expr:
    """Absolute value."""
    return unary("abs", x)


def sign(x: Any) -> Expr:
    """-1, 0 or 1; NaN stays NaN."""
    return unary("sign", x)


def pow(x: Any, y: Any) -> Expr:
    """x ** y."""
    return power(x, y)


def minimum(x: Any, y: Any) -> Expr:
    """The smaller of two; NaN if either is (as numpy.minimum)."""
    return binary("minimum", x, y)


def maximum(x: Any, y: Any) -> Expr:
    """The larger of two; NaN if either is (as numpy.maximum)."""
    return binary("maximum", x, y)


def clip(x: Any, low: Any = None, high: Any = None) -> Expr:
    """x limited to [low, high]; None leaves a side open."""
    result = Expr(lift(x))
    if low is not None:
        result = maximum(result, low)
    return result if high is None else minimum(result, high)


def relu(x: Any) -> Expr:
    """max(x, 0); NaN stays NaN."""
    return maximum(x, 0)


def silu(x: Any) -> Expr:
    """x * sigmoid(x)."""
    return Expr(lift(x)) * sigmoid(x)


def gelu(x: Any, approximate: str = "none") -> Expr:
    """Gaussian error linear unit, exact, or with approximate='tanh' (Hendrycks & Gimpel, arXiv 1606.08415)."""
    y = Expr(lift(x))
    if approximate == "tanh":
        return 0.5 * y * (1 + tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)))
    if approximate != "none":
        raise KindError(
            f"gelu(approximate={approximate!r})", where=here(), cause="unknown form", cure="'none' or 'tanh'"
        )
    return 0.5 * y * (1 + erf(y * math.sqrt(0.5)))


def softplus(x: Any) -> Expr:
    """log(1 + exp(x)) without overflow."""
    return maximum(x, 0) + log1p(exp(-abs(x)))


def where(condition: Any, x: Any, y: Any) -> Expr:
    """x where the condition holds, else y; the side not taken cannot spoil the result."""
    c, a, b = lift(condition), lift(x), lift(y)
    if c.dtype != "bool":
        error = KindError(
            "the condition of at.where is no mask",
            where=here(),
            cause=f"{brief(c)} is {c.dtype}",
            cure="compare it, for instance x != 0",
        )
        needs("bool", c, error)
    kind = promoted(a, b)
    check_features("where", [c, a, b])
    return make("where", c, convert(a, kind), convert(b, kind))


def dot(x: Any, y: Any) -> Expr:
    """Sum over the one feature axis that both have of x * y: the score of a pair, dot(q, k)."""
    a, b = lift(x), lift(y)
    common = feature_axes(a) & feature_axes(b)
    if len(common) != 1:
        raise AxisError(
            "dot of values without exactly one common feature axis",
            where=here(),
            cause=f"left [{names(feature_axes(a))}], right [{names(feature_axes(b))}]",
            cure="q and k share the axis d, v has e; project with a matrix operand first: at.dot(q @ W, k)",
        )
    return contract(a, b, next(iter(common)))


def _reduce(how: str, x: Any, over: Any) -> Expr:
    operand = lift(x)
    if not isinstance(over, str):
        other = "" if how == "sum" else f"; the {how}imum of two values is at.{how}imum(x, y)"
        raise AxisError(
            f"at.{how} without over=",
            where=here(),
            cause="axes have names, not numbers" if over is None else f"{over!r} is no axis name",
            cure=f"at.{how}(x, over='j') runs over the keys, over='d' over the features of q and k{other}",
        )
    if over not in operand.axes:
        raise AxisError(
            f"at.{how} over an axis that is absent",
            where=here(),
            cause=f"{brief(operand)} varies over [{names(operand.axes)}], not over {over!r}",
            cure="reduce over one of its axes, 'j' or a feature axis",
        )
    if over in ("b", "h", "i"):
        raise AxisError(
            f"at.{how} over {over!r}",
            where=here(),
            cause="a variant says what one query of one head computes; reductions run over the keys j or a feature axis",
            cure="reduce over 'j' or a feature axis; what a key gets from all queries is variant.column_sums(Q, K)",
        )
    if operand.dtype == "bool":
        operand = convert(operand, "int")
    return make("reduce", operand, how=how, axis=over)


def sum(x: Any, over: str | None = None) -> Expr:
    """Sum over the named axis, 'j' (all keys) or a feature axis; a mask counts."""
    return _reduce("sum", x, over)


def max(x: Any, over: str | None = None) -> Expr:
    """Maximum over the named axis; -inf over no keys."""
    return _reduce("max", x, over)


def min(x: Any, over: str | None = None) -> Expr:
    """Minimum over the named axis; inf over no keys."""
    return _reduce("min", x, over)


def size(x: Any) -> Expr:
    """The extent of x's feature axis: size(q) is the head dim (int)."""
    axes = feature_axes(lift(x))
    if len(axes) != 1:
        raise AxisError(
            "size of a value without one feature axis",
            where=here(),
            cause=f"its feature axes are [{names(axes)}]",
            cure="at.size(q), at.size(k) or at.size(v); the lengths are at.q_len and at.kv_len",
        )
    return make("extent", name=next(iter(axes)))


def _mask(mask: Any) -> Node:
    m = lift(mask)
    if m.dtype != "bool":
        error = KindError(
            "where= is no mask",
            where=here(),
            cause=f"{brief(m)} is {m.dtype}",
            cure="compare it, for instance table[j] != 0; an additive mask is added to the scores",
        )
        needs("bool", m, error)
    return m


def softmax(s: Any, *, where: Any = None, sink: Any = None) -> Expr:
    """Weights exp(s) / sum over j of exp(s), over the keys where the mask holds; rows without any are 0.

    `sink`: a logit, free of j, that joins the denominator only (arXiv 2309.17453; 0 gives softmax-off-by-one).
    """
    parts = {"scores": convert(lift(s), "float")}
    if where is not None:
        parts["mask"] = _mask(where)
    if sink is not None:
        parts["sink"] = convert(lift(sink), "float")
    for what, x in parts.items():
        check_score(what, x)
        if feature_axes(x):
            raise AxisError(
                "softmax of feature vectors",
                where=here(),
                cause=f"the {what}, {brief(x)}, have the feature axis [{names(feature_axes(x))}]; a pair has one score",
                cure="reduce it first: at.dot(q, k), or at.sum(x, over=...)",
            )
    if "sink" in parts and "j" in parts["sink"].axes:
        raise AxisError(
            "a sink that varies over j",
            where=here(),
            cause=f"{brief(parts['sink'])} differs from key to key; the sink is one logit per row",
            cure="index it by h, b or i only",
        )
    if not any("j" in x.axes for x in parts.values()):
        raise AxisError(
            "softmax of something without j",
            where=here(),
            cause=f"the scores vary over [{names(parts['scores'].axes)}]: every key would get the same weight",
            cure="scores compare a query with a key: at.dot(q, k)",
        )
    return make("softmax", *parts.values(), masked=where is not None, sink=sink is not None)


def extent(name: str) -> Expr:
    """An extent of the call: q_len, kv_len or group."""
    return Expr(node("extent", name=name))


def number(value: bool | int | float) -> Expr:
    """A constant as a traced value."""
    return Expr(const(value))
