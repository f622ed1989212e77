"""Interval arithmetic on the numbers of one call: between which values a node lies, over a box of (b, h, i, j).

Extents and scalars are known; of arrays only the shapes are. Sound for int64: what may overflow is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

from attnc.interp import MASKED
from attnc.ir.graph import Node, walk

Number = int | float | bool


class Range(NamedTuple):
    """Lowest and highest value; a mask is 0 (false) or 1 (true)."""

    low: Number
    high: Number


ANY_BOOL = Range(0, 1)
ANY_INT = Range(-(2**63), 2**63 - 1)
ANY_FLOAT = Range(-math.inf, math.inf)
UNMASKED = Range(-1e18, 1e18)  # what is made of q and k: any number that is no mask
_ANY = {"bool": ANY_BOOL, "int": ANY_INT, "float": ANY_FLOAT}


class Ranges:
    """The ranges of nodes over `box`, {"i": (first, last), ...}.

    under: the gather that is being judged; its values count as ordinary numbers. Other float arrays that vary over j
    may be additive masks, so that their values may be -inf.
    """

    def __init__(
        self,
        box: Mapping[str, tuple[int, int]],
        extents: Mapping[str, int],
        scalars: Mapping[str, Number],
        under: Node,
    ) -> None:
        self.box, self.extents, self.scalars, self.under = box, extents, scalars, under
        self._known: dict[Node, Range] = {}

    def range(self, root: Node) -> Range:
        """Between which values `root` lies."""
        if root not in self._known:
            for x in walk(root):
                if x not in self._known:
                    self._known[x] = self._checked(x, self._rule(x))
        return self._known[root]

    def live(self, score: Node) -> tuple[bool, bool]:
        """Whether a score is surely, and possibly, not masked."""
        low, high = self.range(score)
        return low > MASKED, high > MASKED

    def nonzero(self, x: Node) -> tuple[bool, bool]:
        """Whether a factor is surely, and possibly, not 0. Numbers made of q and k are taken to differ from 0."""
        if x.op == "where":
            sure, maybe = self.range(x.operands[0])
            branches = [self.nonzero(y) for y, taken in zip(x.operands[1:], (maybe, not sure), strict=True) if taken]
            return all(b[0] for b in branches), any(b[1] for b in branches)
        if x.op in ("mul", "neg", "abs"):
            factors = [self.nonzero(y) for y in x.operands]
            return all(f[0] for f in factors), all(f[1] for f in factors)
        if x.op in ("exp", "exp2", "sigmoid", "softmax"):
            surely, possibly = self.live(x.operands[0])
            if x.op == "softmax" and x["masked"]:
                low, high = self.range(x.operands[1])
                return surely and low == 1, possibly and high == 1
            return surely, possibly
        low, high = self.range(x)
        made_of_roles = any(y.op == "role" for y in walk(x))
        return low > 0 or high < 0 or made_of_roles, not low == high == 0

    def _checked(self, x: Node, found: Range) -> Range:
        if x.dtype == "int" and not (ANY_INT.low <= found.low and found.high <= ANY_INT.high):
            return ANY_INT
        return ANY_FLOAT if math.isnan(found.low) or math.isnan(found.high) else found

    def _rule(self, x: Node) -> Range:
        if x.op == "const":
            return Range(x["value"], x["value"])
        if x.op == "index":
            return Range(*self.box[x["name"]])
        if x.op in ("scalar", "extent"):
            value = (self.scalars if x.op == "scalar" else self.extents).get(x["name"])
            return _ANY[x.dtype] if value is None else Range(value, value)
        if x.op == "gather":
            mask = x.dtype != "float" or ("j" in x.axes and x != self.under)
            return _ANY[x.dtype] if mask else UNMASKED
        if x.op in ("role", "dot", "project", "reduce", "attend", "softmax", "lse"):
            return UNMASKED if x.dtype == "float" else ANY_INT
        operands = [self._known[y] for y in x.operands]
        rule = (_LOGIC if x.dtype == "bool" else _INTEGER if x.dtype == "int" else {}).get(x.op) or _RULES.get(x.op)
        if rule is not None:
            return rule(*operands)
        monotone = _MONOTONE.get(x.op)
        return ANY_FLOAT if monotone is None else _ends(monotone, *operands)


def _ends(f: Callable[..., Number], *operands: Range) -> Range:
    """The range of a function that is monotone in each operand: over all combinations of ends."""
    try:
        values = [f(*point) for point in product(*operands)]
    except (ValueError, OverflowError, ZeroDivisionError):
        return ANY_FLOAT
    return ANY_FLOAT if any(math.isnan(v) for v in values) else Range(min(values), max(values))


def _mul(a: Range, b: Range) -> Range:
    return _ends(lambda p, q: 0 if p == 0 or q == 0 else p * q, a, b)


def _div(a: Range, b: Range) -> Range:
    return ANY_FLOAT if b.low <= 0 <= b.high else _ends(lambda p, q: p / q, a, b)


def _abs(a: Range) -> Range:
    return Range(max(a.low, -a.high, 0), max(-a.low, a.high))


def _where(c: Range, a: Range, b: Range) -> Range:
    if c.low == 1:
        return a
    return b if c.high == 0 else Range(min(a.low, b.low), max(a.high, b.high))


def _less(a: Range, b: Range) -> Range:
    return Range(int(a.high < b.low), int(a.low < b.high))


def _less_equal(a: Range, b: Range) -> Range:
    return Range(int(a.high <= b.low), int(a.low <= b.high))


def _equal(a: Range, b: Range) -> Range:
    return Range(int(a.low == a.high == b.low == b.high), int(a.low <= b.high and b.low <= a.high))


def _not(a: Range) -> Range:
    return Range(1 - a.high, 1 - a.low)


def _xor(a: Range, b: Range) -> Range:
    return Range(a.low ^ b.low, a.low ^ b.low) if a.low == a.high and b.low == b.high else ANY_BOOL  # type: ignore[operator]


def _floordiv(a: Range, b: Range) -> Range:
    if b.low == b.high == 0:  # as the interpreter defines it
        return Range(0, 0)
    if b.low <= 0 <= b.high:
        most = max(abs(a.low), abs(a.high))
        return Range(-most, most)
    return _ends(lambda p, q: p // q, a, b)


def _mod(a: Range, b: Range) -> Range:
    if b.low == b.high == 0:
        return Range(0, 0)
    if b.low == b.high and a.low // b.low == a.high // b.low:
        return Range(a.low % b.low, a.high % b.low)
    return Range(min(b.low + 1, 0), max(b.high - 1, 0))


def _shift(a: Range, n: Range, left: bool) -> Range:
    if n.high < 0 or n.low > 63:  # as the interpreter defines it: every bit is shifted out
        return Range(0, 0) if left else Range(-int(a.low < 0), -int(a.high < 0))
    if n.low < 0 or n.high > 63:
        return ANY_INT
    return _ends(lambda p, k: int(p) << int(k) if left else int(p) >> int(k), a, n)


def _bits(op: str) -> Callable[[Range, Range], Range]:
    exact: dict[str, Callable[[int, int], int]] = {
        "and": lambda p, q: p & q, "or": lambda p, q: p | q, "xor": lambda p, q: p ^ q,
    }  # fmt: skip

    def rule(a: Range, b: Range) -> Range:
        if a.low == a.high and b.low == b.high:
            value = exact[op](int(a.low), int(b.low))
            return Range(value, value)
        if op == "and" and (a.low >= 0 or b.low >= 0):
            return Range(0, min(x.high for x in (a, b) if x.low >= 0))
        if a.low >= 0 and b.low >= 0:
            return Range(0, (1 << int(max(a.high, b.high)).bit_length()) - 1)
        return ANY_INT

    return rule


def _to_int(a: Range) -> Range:
    return Range(int(a.low), int(a.high)) if math.isfinite(a.low) and math.isfinite(a.high) else ANY_INT


_RULES: dict[str, Callable[..., Range]] = {
    "add": lambda a, b: Range(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: Range(a.low - b.high, a.high - b.low),
    "neg": lambda a: Range(-a.high, -a.low),
    "minimum": lambda a, b: Range(min(a.low, b.low), min(a.high, b.high)),
    "maximum": lambda a, b: Range(max(a.low, b.low), max(a.high, b.high)),
    "mul": _mul, "div": _div, "abs": _abs, "where": _where, "cast": lambda a: a,
    "sign": lambda a: Range((a.low > 0) - (a.low < 0), (a.high > 0) - (a.high < 0)),
    "sin": lambda a: Range(-1.0, 1.0), "cos": lambda a: Range(-1.0, 1.0),
}  # fmt: skip
_LOGIC: dict[str, Callable[..., Range]] = {
    "and": lambda a, b: Range(min(a.low, b.low), min(a.high, b.high)),
    "or": lambda a, b: Range(max(a.low, b.low), max(a.high, b.high)),
    "xor": _xor, "not": _not, "lt": _less, "le": _less_equal, "eq": _equal, "ne": lambda a, b: _not(_equal(a, b)),
    "cast": lambda a: Range(int(a.low > 0 or a.high < 0), int(not a.low == a.high == 0)),
}  # fmt: skip
_INTEGER: dict[str, Callable[..., Range]] = {
    "floordiv": _floordiv, "mod": _mod, "cast": _to_int, "not": lambda a: Range(-a.high - 1, -a.low - 1),
    "shl": lambda a, n: _shift(a, n, True), "shr": lambda a, n: _shift(a, n, False),
    "and": _bits("and"), "or": _bits("or"), "xor": _bits("xor"),
}  # fmt: skip
_MONOTONE: dict[str, Callable[..., Number]] = {
    "exp": math.exp, "exp2": math.exp2, "log": math.log, "log2": math.log2, "log1p": math.log1p, "tanh": math.tanh,
    "erf": math.erf, "sqrt": math.sqrt, "rsqrt": lambda x: 1 / math.sqrt(x), "floor": math.floor,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}  # fmt: skip
