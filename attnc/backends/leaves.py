"""How both backends spell operations and constants: the emitted functions have the ops' names and NumPy's meaning."""

from __future__ import annotations

from attnc.errors import UnsupportedError
from attnc.ir.graph import Node

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

_UNARY = "exp exp2 log log2 log1p tanh sigmoid erf sqrt rsqrt sin cos floor neg abs sign"
_BINARY = "add sub mul div pow floordiv mod minimum maximum lt le eq ne xor shl shr"
RULES: dict[str, str] = {
    **{name: f"{name}({{0}})" for name in _UNARY.split()},
    **{name: f"{name}({{0}}, {{1}})" for name in _BINARY.split()},
    "and": "and_({0}, {1})", "or": "or_({0}, {1})", "not": "not_({0})", "where": "where({0}, {1}, {2})",
    "weight": "weight({0}, {1}, {2})",
}  # fmt: skip


def literal(x: Node) -> str:
    """A constant as Python source."""
    return number(x["value"]) if x.dtype == "float" or x["value"] == INT_MIN else str(x["value"])


def number(value: float | int) -> str:
    """A number as Python source; kernels have names for those that Python cannot write, and for the ends of int64."""
    return {"inf": "INF", "-inf": "-INF", "nan": "NAN", str(INT_MIN): "INT_MIN", str(INT_MAX): "INT_MAX"}.get(
        repr(value), repr(value)
    )


def vector_axes(x: Node) -> tuple[str, ...]:
    """The feature axes of a gather, at most one. UnsupportedError: a matrix that is no operand of a projection."""
    axes: tuple[str, ...] = x["features"]
    if len(axes) > 1:
        raise UnsupportedError(
            f"{x['name']} as a matrix outside of @",
            where=x.loc,
            cause=f"it keeps the axes {axes}",
            cure="contract it with x @ W, or index it",
        )
    return axes
