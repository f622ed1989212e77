"""Sums S_n of w (x - c)**n, and what they are about another centre: a triangular matrix of binomials (Chan, Golub and LeVeque)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnc.ir.graph import Node, const
from attnc.passes.fold import op

ZERO = const(0.0)


def centre(first: Node, weight: Node) -> Node:
    """The mean, where it is finite: any centre is exact, but differences to an infinite one are not."""
    mean = op("div", first, weight)
    return op("where", finite(mean), mean, ZERO)


def about(sums: Sequence[Node], d: Node) -> Node:
    """The last of the sums, with x - c + d instead of x - c."""
    n, result = len(sums) - 1, sums[0]
    for t in range(1, n + 1):
        times = const(float(math.comb(n, t)))
        result = op("add", op("mul", sums[t], times), op("mul", d, result))
    return result


def moved(sums: Sequence[Node], d: Node) -> Node:
    """The same for a centre that runs with the sweep; what is infinite stays so, and what is nothing."""
    return op("where", op("eq", op("mul", d, sums[0]), ZERO), sums[-1], about(sums, d))


def total(sums: Sequence[Node], d: Node, row: Node) -> Node:
    """The sum of w (x + row)**n from the sums about c; d: c + row. Like the formula where x or row is infinite, or nothing came."""
    plain = about(sums, d)
    if len(sums) > 2:
        power = base = op("add", sums[1], row)
        for _ in range(len(sums) - 2):
            power = op("mul", power, base)
        plain = op("where", finite(sums[1]), plain, sums[-1])
        # an infinite row value: all x are finite where their sum is
        plain = op("where", finite(row), plain, power)
    return op("where", op("eq", sums[0], ZERO), sums[-1], plain)


def finite(x: Node) -> Node:
    """Whether x is neither infinite nor NaN."""
    return op("lt", op("abs", x), const(math.inf))


def together(x: Node) -> Node:
    """x, a sum of row values, without what cancels in it; logarithms are added last."""
    plus: list[Node] = []
    minus: list[Node] = []
    _parts(x, plus, minus)
    for y in list(plus):
        if y in minus:
            plus.remove(y)
            minus.remove(y)
    signed = [(y, 1) for y in plus] + [(y, -1) for y in minus]
    signed.sort(key=lambda s: (s[0].op == "log", -s[1]))
    result: Node | None = None
    for y, sign in signed:
        if result is None:
            result = y if sign > 0 else op("neg", y)
        else:
            result = op("add" if sign > 0 else "sub", result, y)
    return result or ZERO


def _parts(x: Node, plus: list[Node], minus: list[Node]) -> None:
    if x.op in ("add", "sub"):
        _parts(x.operands[0], plus, minus)
        _parts(x.operands[1], *((plus, minus) if x.op == "add" else (minus, plus)))
    elif x.op == "neg":
        _parts(x.operands[0], minus, plus)
    else:
        plus.append(x)
