"""Exponents in base 2: exp(e) = 2**(e log2 e), where the factor log2 e joins what the score is multiplied with anyway."""

from __future__ import annotations

import math

from attnc.interp import MASKED
from attnc.ir.graph import Node, const, node
from attnc.passes.canonicalise import is_const
from attnc.passes.fold import op

LOG2E, LN2 = math.log2(math.e), math.log(2.0)
MINUS = const(-math.inf)
MASKED2 = 1.44269 * MASKED  # nearer to 0 than MASKED log2(e) by more than a product in float32 is rounded


def base2(e: Node) -> tuple[Node, float]:
    """e log2(e) without the test that hides scores of at most MASKED, and the greatest value that is hidden."""
    if e.op == "where" and is_const(e.operands[2], -math.inf):
        mask, inner, _ = e.operands
        scaled, masked = base2(inner)
        return op("where", mask, scaled, MINUS), masked
    if (
        e.op == "where"
        and is_const(e.operands[1], -math.inf)
        and e.operands[0] == node("le", e.operands[2], const(MASKED))
    ):
        return _scaled(e.operands[2]), MASKED2
    return _scaled(e), -math.inf


def _scaled(x: Node) -> Node:
    return _absorbed(x) or op("mul", x, const(LOG2E))


def _absorbed(x: Node) -> Node | None:
    """x log2(e), where that takes no further work for each pair; else None."""
    if "j" not in x.axes:
        return op("mul", x, const(LOG2E))
    if x.op in ("add", "sub", "where"):
        parts = [_absorbed(y) for y in x.operands[x.op == "where" :]]
        if any(y is None for y in parts):
            return None
        return op(x.op, *x.operands[: x.op == "where"], *(y for y in parts if y is not None))
    if x.op == "neg":
        inner = _absorbed(x.operands[0])
        return inner and op("neg", inner)
    if x.op == "mul":
        for n, y in enumerate(x.operands):
            if (scaled := _absorbed(y)) is not None:
                return op("mul", *(scaled if m == n else z for m, z in enumerate(x.operands)))
    return None
