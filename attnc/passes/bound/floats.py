"""Interval rules of the float ops. Where an op rounds, its ends move outward by more than float32 can err."""

from __future__ import annotations

import math
from collections.abc import Callable

from attnc.ir.graph import Node, const, node
from attnc.passes.bound.box import FALSE, Box, Interval, Rule, both, either
from attnc.passes.bound.integers import absolute, choice, ends_of, extremes, gather, sign, size_of
from attnc.passes.fold import op

SLACK = const(2.0**-16)
LEAST_NORMAL = 2.0**-126
INF, MINUS, NIL, UNIT = const(math.inf), const(-math.inf), const(0.0), const(1.0)


def outward(low: Node, high: Node) -> tuple[Node, Node]:
    """The ends moved by a small share of their size; infinities and zeros stay."""

    def slack(x: Node) -> Node:
        return op("where", op("lt", op("abs", x), INF), op("mul", op("abs", x), SLACK), NIL)

    return op("sub", low, slack(low)), op("add", high, slack(high))


def _made(low: Node, high: Node, nan: Node, finite: bool = False) -> Interval:
    """Ends that may have come out as NaN (inf - inf) say nothing."""
    if not finite:
        low, high = op("where", op("ne", low, low), MINUS, low), op("where", op("ne", high, high), INF, high)
    return Interval(*outward(low, high), nan, finite)


def _infinite(a: Interval) -> Node:
    return FALSE if a.finite else either(op("eq", a.low, MINUS), op("eq", a.high, INF))


def _holds_zero(a: Interval) -> Node:
    return both(op("le", a.low, NIL), op("le", NIL, a.high))


def _two(rule: Callable[[Interval, Interval], Interval]) -> Rule:
    def applied(box: Box, x: Node) -> Interval | None:
        a, b = (box.interval(y) for y in x.operands)
        return None if a is None or b is None else rule(a, b)

    return applied


def _one(rule: Callable[[Interval], Interval]) -> Rule:
    def applied(box: Box, x: Node) -> Interval | None:
        a = box.interval(x.operands[0])
        return None if a is None else rule(a)

    return applied


def _add(a: Interval, b: Interval) -> Interval:
    finite = a.finite and b.finite
    nan = either(a.nan, b.nan)
    if not finite:
        nan = either(
            nan,
            either(
                both(op("eq", a.high, INF), op("eq", b.low, MINUS)), both(op("eq", a.low, MINUS), op("eq", b.high, INF))
            ),
        )
    return _made(op("add", a.low, b.low), op("add", a.high, b.high), nan, finite)


def _neg(a: Interval) -> Interval:
    return Interval(op("neg", a.high), op("neg", a.low), a.nan, a.finite)


def _mul(a: Interval, b: Interval) -> Interval:
    finite = a.finite and b.finite
    nan = either(a.nan, b.nan)
    if not finite:
        nan = either(nan, either(both(_infinite(a), _holds_zero(b)), both(_infinite(b), _holds_zero(a))))
    return _corners("mul", a, b, nan, finite)


def _corners(name: str, a: Interval, b: Interval, nan: Node, finite: bool = False) -> Interval:
    return _made(*ends_of(name, a, b), nan, finite)


def _div(a: Interval, b: Interval) -> Interval:
    zero = _holds_zero(b)
    nan = either(either(a.nan, b.nan), either(zero, both(_infinite(a), _infinite(b))))
    found = _corners("div", a, b, nan)
    return Interval(op("where", zero, MINUS, found.low), op("where", zero, INF, found.high), nan, False)


def _floordiv(a: Interval, b: Interval) -> Interval:
    found = _div(a, b)
    nan = either(found.nan, _infinite(a))  # numpy: floor_divide(inf, x) is NaN
    return Interval(op("floor", found.low), op("floor", found.high), nan, False)


def _mod(a: Interval, b: Interval) -> Interval:
    nan = either(either(a.nan, b.nan), either(_infinite(a), _holds_zero(b)))
    return _made(op("minimum", b.low, NIL), op("maximum", b.high, NIL), nan)


def _pow(a: Interval, b: Interval) -> Interval:
    """x**y of a positive x is monotone in both; of others a small whole power is known."""
    n = b.low["value"] if b.low == b.high and b.low.op == "const" else None
    if n is not None and 0 <= n <= 8 and float(n).is_integer():
        if n % 2:
            return _made(op("pow", a.low, b.low), op("pow", a.high, b.low), a.nan)
        size = size_of(a)
        return _made(op("pow", size.low, b.low), op("pow", size.high, b.low), a.nan if n else FALSE)
    positive = op("lt", NIL, a.low)
    safe = Interval(op("where", positive, a.low, UNIT), op("where", positive, a.high, UNIT), a.nan, a.finite)
    nan = either(either(a.nan, b.nan), op("not", positive))
    found = _corners("pow", safe, b, nan)
    return Interval(op("where", positive, found.low, MINUS), op("where", positive, found.high, INF), nan, False)


def _rising(name: str, limited: bool) -> Rule:
    return _one(lambda a: _made(op(name, a.low), op(name, a.high), a.nan, limited and a.finite))


def _weight(box: Box, x: Node) -> Interval | None:
    """0, or a power of at least the least normal number."""
    power = _rising("exp2", False)(box, node("exp2", node("sub", *x.operands[:2])))
    return power and Interval(NIL, op("maximum", power.high, const(LEAST_NORMAL)), power.nan)


def _logarithm(name: str, pole: float) -> Rule:
    """Defined above the pole, -inf at it, NaN below."""

    def rule(a: Interval) -> Interval:
        low, high = (
            op("where", op("lt", const(pole), e), op(name, op("maximum", e, const(pole))), MINUS)
            for e in (a.low, a.high)
        )
        return _made(low, high, either(a.nan, op("lt", a.low, const(pole))))

    return _one(rule)


def _sqrt(a: Interval) -> Interval:
    low, high = (op("sqrt", op("maximum", e, NIL)) for e in (a.low, a.high))
    return _made(low, high, either(a.nan, op("lt", a.low, NIL)))


def _rsqrt(a: Interval) -> Interval:
    """Falling; 1 / -0.0 is -inf."""
    positive = op("lt", NIL, a.low)
    low = op("where", positive, op("rsqrt", op("where", positive, a.high, UNIT)), MINUS)
    high = op("where", positive, op("rsqrt", op("where", positive, a.low, UNIT)), INF)
    return _made(low, high, either(a.nan, op("lt", a.low, NIL)))


def _wave(a: Interval) -> Interval:
    return _made(const(-1.0), UNIT, either(a.nan, _infinite(a)))


def _floor(a: Interval) -> Interval:
    return Interval(op("floor", a.low), op("floor", a.high), a.nan, a.finite)


def _cast(box: Box, x: Node) -> Interval | None:
    (y,) = x.operands
    a = box.root(y) if y.dtype == "int" else box.interval(y)
    if a is None:
        return None
    return Interval(node("cast", a.low, kind="float"), node("cast", a.high, kind="float"))


RULES: dict[str, Rule] = {
    "add": _two(_add), "sub": _two(lambda a, b: _add(a, _neg(b))), "mul": _two(_mul), "div": _two(_div), "pow": _two(_pow),
    "floordiv": _two(_floordiv), "mod": _two(_mod), "minimum": extremes("minimum"), "maximum": extremes("maximum"),
    "neg": _one(_neg), "abs": absolute, "sign": sign, "floor": _one(_floor), "where": choice, "cast": _cast, "gather": gather,
    "exp": _rising("exp", False), "exp2": _rising("exp2", False), "weight": _weight,
    "tanh": _rising("tanh", True), "sigmoid": _rising("sigmoid", True), "erf": _rising("erf", True),
    "log": _logarithm("log", 0.0), "log2": _logarithm("log2", 0.0), "log1p": _logarithm("log1p", -1.0),
    "sqrt": _one(_sqrt), "rsqrt": _one(_rsqrt), "sin": _one(_wave), "cos": _one(_wave),
}  # fmt: skip
