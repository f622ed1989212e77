"""How both backends spell operations and constants: the emitted functions have the ops' names and NumPy's meaning."""

from __future__ import annotations

from attnc.ir.graph import Node

_UNARY = "exp exp2 log log2 log1p tanh sigmoid erf sqrt rsqrt sin cos floor weight neg abs sign"
_BINARY = "add sub mul div pow floordiv mod minimum maximum lt le eq ne xor shl shr"
RULES: dict[str, str] = {
    **{name: f"{name}({{0}})" for name in _UNARY.split()},
    **{name: f"{name}({{0}}, {{1}})" for name in _BINARY.split()},
    "and": "and_({0}, {1})", "or": "or_({0}, {1})", "not": "not_({0})", "where": "where({0}, {1}, {2})",
}  # fmt: skip


def literal(x: Node) -> str:
    """A constant as Python source."""
    value = x["value"]
    if x.dtype != "float":
        return str(value) if value != -(2**63) else "INT_MIN"
    return {"inf": "INF", "-inf": "-INF", "nan": "NAN"}.get(repr(value), repr(value))
