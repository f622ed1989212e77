"""Terms exp(e + d) * k * u, and what can be done to one of them or to a list."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnc.ir.graph import Node, const, node, topological
from attnc.ir.text import BRIEF, expression
from attnc.passes.canonicalise import is_const, simplify
from attnc.passes.expand import feature_axes, is_reduction

MAX_TERMS = 4
Unknown = frozenset[Node]
ZERO, ONE, MINUS = const(0.0), const(1.0), const(float("-inf"))
NEGATIVE = node("neg", ONE)  # the factor of what is subtracted


class Inseparable(Exception):
    """Why a reduction needs a further sweep: a code and the node that causes it.

    CANCEL a product of sums, the logarithm of a key's factor times a row's. COST accumulators that cost more than a sweep. CROSS a
    product of known and unknown under exp. MONO an extreme of what is not monotone. NONHOM a function of a mixed value that
    respects no sum. RANK too many terms. SIGN a factor that may be negative. THRESHOLD a condition that compares keys with an
    unknown.
    """

    def __init__(self, code: str, cause: Node) -> None:
        self.code, self.cause = code, cause
        super().__init__(f"{code}, {expression(cause, budget=BRIEF)}")


@dataclass(frozen=True, slots=True)
class Power:
    """A factor (x + row)**power, x known: its powers of x and of row would cancel. only: a condition of the row, else the sum is 0."""

    x: Node
    row: Node
    power: int
    only: Node | None = None


@dataclass(frozen=True, slots=True)
class Top:
    """The term counts where the running maximum or minimum `extreme` is reached: k is where(y == extreme, k, 0)."""

    extreme: Node


@dataclass(frozen=True, slots=True)
class Term:
    """exp(e + d) * k * u; None stands for an absent exponent or a factor of 1. about: what else the keys' part depends on."""

    e: Node | None = None
    k: Node | None = None
    d: Node | None = None
    u: Node | None = None
    about: Power | Top | None = None


def factors(x: Node) -> list[Node]:
    """a * b * c as a list."""
    return [y for operand in x.operands for y in factors(operand)] if x.op == "mul" else [x]


def op(name: str, *operands: Node) -> Node:
    """An elementwise node, simplified."""
    return simplify(node(name, *operands))


def product(x: Node | None, y: Node | None) -> Node | None:
    """x*y with None for 1."""
    if x is None or y is None:
        return x if y is None else y
    return op("neg", y) if x == NEGATIVE else op("neg", x) if y == NEGATIVE else op("mul", x, y)


def apart(x: Node) -> tuple[Node | None, Node | None]:
    """A product as (pair factors, feature factors)."""
    if not feature_axes(x):
        return x, None
    if x.op == "mul":
        (p, f), (r, g) = map(apart, x.operands)
        return product(p, r), product(f, g)
    return None, x


def addition(x: Node | None, y: Node | None) -> Node | None:
    """x+y with None for 0."""
    if x is None or y is None:
        return x if y is None else y
    return op("add", x, y)


def expanded(t: Term) -> Node:
    """The term as one node."""
    plain(t)
    scale = product(t.k, t.u)
    total = addition(t.e, t.d)
    if total is None:
        return scale if scale is not None else ONE
    power = op("exp", total)
    return power if scale is None else op("mul", power, scale)


def plain(t: Term) -> Term:
    """t; Inseparable where it is about something."""
    if isinstance(t.about, Power):
        raise Inseparable("CANCEL", op("add", t.about.x, t.about.row))
    if t.about is not None:
        raise Inseparable("THRESHOLD", t.about.extreme)
    return t


def reads(x: Node, unknown: Unknown) -> bool:
    """Whether x depends on an unfinished reduction."""
    return any(y in unknown for y in topological([x]))


def mixed(x: Node, unknown: Unknown) -> bool:
    """Whether x varies over the keys and depends on an unfinished reduction."""
    return "j" in x.axes and reads(x, unknown)


def conjuncts(x: Node) -> list[Node]:
    """a & b & c as a list."""
    return [y for operand in x.operands for y in conjuncts(operand)] if x.op == "and" and x.dtype == "bool" else [x]


def parted(terms: list[Term], unknown: Unknown) -> tuple[Node, Node] | None:
    """Terms as known + row value; None where one is mixed."""
    known: Node | None = None
    row: Node | None = None
    for t in terms:
        part = expanded(t)
        if mixed(part, unknown):
            return None
        if reads(part, unknown):
            row = addition(row, part)
        else:
            known = addition(known, part)
    return known or ZERO, row or ZERO


def times(a: Term, b: Term) -> Term:
    if a.about is not None:
        a, b = b, a
    plain(a)
    return Term(addition(a.e, b.e), product(a.k, b.k), addition(a.d, b.d), product(a.u, b.u), b.about)


def moved(t: Term) -> Term:
    """Masks among the factors of k join e, so that the range of a sum is that of its own support. Added: 0 NaN is NaN."""
    if t.e is None or t.k is None:
        return t
    e: Node = t.e
    rest: Node | None = None
    for factor in factors(t.k):
        mask = _mask(factor)
        if mask is not None and not _masked_by(e, mask):
            e = op("add", e, node("where", mask, ZERO, MINUS))
        if mask is None or factor.op == "where":  # which hides a NaN where it is 0
            rest = product(rest, factor)
    return replace(t, e=e, k=rest)


def _masked_by(e: Node, mask: Node) -> bool:
    return e.op == "where" and any(is_const(e.operands[n], -math.inf) and c == mask for n, c in _sides(e.operands[0]))


def _sides(condition: Node) -> tuple[tuple[int, Node], tuple[int, Node]]:
    """The operands of a `where`, each with what holds where the other one is taken."""
    return (2, condition), (1, op("not", condition))


def _mask(x: Node) -> Node | None:
    """The mask without which x is 0."""
    if x.op == "cast" and x.operands[0].dtype == "bool":
        return x.operands[0]
    if x.op == "where" and not feature_axes(x.operands[0]):
        condition, yes, no = x.operands
        if is_const(no, 0.0):
            return condition
        if is_const(yes, 0.0):
            return op("not", condition)
    return None


def outside(t: Term) -> Term:
    """Row factors leave the sum, sum_j w_j q = (sum_j w_j) q: feature vectors, and finished sums with their exponents."""
    inside: Node | None = None
    for factor in factors(t.k) if t.k is not None else []:
        if "j" not in factor.axes and (feature_axes(factor) or any(map(is_reduction, topological([factor])))):
            t = replace(t, u=product(t.u, factor))
        else:
            inside = product(inside, factor)
    return replace(t, k=inside)


def negated(t: Term) -> Term:
    if t.about is not None:
        return replace(t, u=op("neg", t.u or ONE))
    return Term(t.e, op("neg", t.k or ONE), t.d, t.u)


def to_the_power(t: Term, y: Node) -> Term:
    """A term to a constant power: exponents times y, factors to the power."""

    def scaled(exponent: Node | None) -> Node | None:
        return exponent and op("mul", exponent, y)

    def raised(factor: Node | None) -> Node | None:
        if factor is None:
            return None
        return op("div", ONE, factor) if is_const(y, -1.0) else op("pow", factor, y)

    return Term(scaled(t.e), raised(t.k), scaled(t.d), raised(t.u))


def settled(u: Node) -> bool:
    """Whether a row value is proved finite where its reductions have no key: it may be multiplied with their sums, 0."""
    stack = [u]
    while stack:
        x = stack.pop()
        if x.op == "where" and is_const(x.operands[1], 0.0) and x.operands[0].op == "eq":
            zero, of = x.operands[0], x.operands[2]  # the reciprocal of a sum, or 0
            if is_const(zero.operands[1], 0.0) and of.op == "div" and of.operands[1] == zero.operands[0]:
                stack.append(of.operands[0])
                continue
        if x.op in _UNSETTLED or (x.op == "reduce" and x["how"] != "sum" and x.dtype == "float"):
            return False
        if x.op not in ("reduce", "attend"):
            stack += x.operands
    return True


_UNSETTLED = ("div", "log", "log2", "log1p", "pow", "rsqrt", "sqrt")


def where(condition: Node, t: Term, holds: bool, row: bool) -> Term:
    """The term where the condition is `holds`, else 0; also where it holds for no key of a row that is not settled."""

    def pick(value: Node, other: Node) -> Node:
        return op("where", condition, value, other) if holds else op("where", condition, other, value)

    if row:  # it selects the row factor
        return replace(t, d=t.d and pick(t.d, ZERO), u=pick(t.u or ONE, ZERO))
    t = outside(t)
    u, about = t.u, t.about
    if isinstance(about, Power):
        about = replace(about, x=pick(about.x, ZERO))
    if u is not None and (not settled(u) or any(map(is_reduction, topological([condition])))):
        some = node("reduce", pick(ONE, ZERO), how="max", axis="j") if "j" in condition.axes else pick(ONE, ZERO)
        u = op("where", op("lt", ZERO, some), u, ZERO)
    if t.e is not None:
        e = (
            t.e
            if about is not None and _masked_by(t.e, condition if holds else op("not", condition))
            else pick(t.e, MINUS)
        )
        return Term(e, t.k and _chosen(t.k, pick), t.d, u, about)
    return Term(None, pick(t.k or ONE, ZERO), t.d, u, about)


def _chosen(k: Node, pick: Callable[[Node, Node], Node]) -> Node:
    """A factor of exp(e) where it is picked, else 0: a weight of 0 would not hide an infinity, nor a NaN, of it."""
    pair: Node | None = None
    rest: Node | None = None
    for factor in factors(k):
        if feature_axes(factor) or factor.op == "const":
            rest = product(rest, factor)
        else:
            pair = product(pair, factor)
    result = product(pair and pick(pair, ZERO), rest)
    assert result is not None
    return result


def collect(terms: list[Term]) -> list[Term]:
    """Add the row factors of terms with equal key factors, then the key factors of terms with equal row factors."""
    rows: dict[tuple[object, ...], Term] = {}
    for t in terms:
        key: tuple[object, ...] = (t.e, t.k, t.d, t.about)
        if key in rows:
            t = replace(t, u=op("add", rows[key].u or ONE, t.u or ONE))
        rows[key] = t
    keys: dict[tuple[object, ...], Term] = {}
    for t in rows.values():
        key = (t.e, t.d, t.u, t.about)
        if key in keys and _features(keys[key].k) == _features(t.k):
            t = replace(t, k=op("add", keys[key].k or ONE, t.k or ONE))
        keys[key] = t
    return list(keys.values())


def _features(x: Node | None) -> frozenset[str]:
    return frozenset() if x is None else feature_axes(x)


def checked(x: Node, terms: list[Term]) -> list[Term]:
    terms = collect(terms)
    if len(terms) > MAX_TERMS:
        raise Inseparable("RANK", x)
    return terms


def conjunction(conditions: list[Node]) -> Node:
    result = conditions[0]
    for c in conditions[1:]:
        result = op("and", result, c)
    return result
