"""Exact algebra that frees a reduction's body of unfinished reductions: body = sum of few exp(e + d) * k * u.

e, k are known when the sweep starts (they may vary over j); d, u are row values that contain reductions which the same sweep
still computes. Then sum_j body = sum_t exp(d_t) u_t * (sum_j exp(e_t) k_t): the unfinished reductions leave the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnc.ir.graph import Node, const, node, topological
from attnc.ir.text import BRIEF, expression
from attnc.passes.canonicalise import is_const, simplify
from attnc.passes.expand import feature_axes

MAX_TERMS = 4
Unknown = frozenset[Node]


class Inseparable(Exception):
    """Why a reduction needs a further sweep: a code (CANCEL, CROSS, MONO, NONHOM, RANK, THRESHOLD) and the node that causes it."""

    def __init__(self, code: str, cause: Node) -> None:
        self.code, self.cause = code, cause
        super().__init__(f"{code}, {expression(cause, budget=BRIEF)}")


@dataclass(frozen=True, slots=True)
class Term:
    """exp(e + d) * k * u; None stands for an absent exponent or a factor of 1."""

    e: Node | None = None
    k: Node | None = None
    d: Node | None = None
    u: Node | None = None


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
    return op("mul", x, y)


def addition(x: Node | None, y: Node | None) -> Node | None:
    """x+y with None for 0."""
    if x is None or y is None:
        return x if y is None else y
    return op("add", x, y)


def _reciprocal(x: Node | None) -> Node | None:
    return None if x is None else op("div", const(1.0), x)


def _negative(x: Node | None) -> Node | None:
    return None if x is None else op("neg", x)


def reads(x: Node, unknown: Unknown) -> bool:
    """Whether x depends on an unfinished reduction."""
    return any(y in unknown for y in topological([x]))


def separate(x: Node, unknown: Unknown) -> list[Term]:
    """The terms of x. Raises Inseparable."""
    if not reads(x, unknown):
        return [_known(x)]
    if "j" not in x.axes:
        return [Term(d=x.operands[0])] if x.op == "exp" else [Term(u=x)]
    rule = _RULES.get(x.op)
    if rule is None:
        raise Inseparable("NONHOM", x)
    terms = _collect(rule(x, unknown))
    if len(terms) > MAX_TERMS:
        raise Inseparable("RANK", x)
    return terms


def _known(x: Node) -> Term:
    """A known factor, its exponentials gathered in e; where(c, exp(a), 0) masks the exponent."""
    if x.op == "exp" and not feature_axes(x):  # a power of a feature vector has no one maximum per row
        return Term(e=x.operands[0])
    if x.op == "mul":
        a, b = map(_known, x.operands)
        return Term(e=addition(a.e, b.e), k=product(a.k, b.k))
    if x.op == "div":
        a = _known(x.operands[0])
        return Term(e=a.e, k=op("div", a.k or const(1.0), x.operands[1])) if a.e is not None else Term(k=x)
    if x.op == "neg":
        a = _known(x.operands[0])
        return Term(e=a.e, k=op("neg", a.k or const(1.0))) if a.e is not None else Term(k=x)
    if x.op == "where":
        condition, yes, no = x.operands
        if is_const(no, 0.0) and (inner := _known(yes)).e is not None:
            return Term(e=node("where", condition, inner.e, const(float("-inf"))), k=inner.k)
        if is_const(yes, 0.0) and (inner := _known(no)).e is not None:
            return Term(e=node("where", condition, const(float("-inf")), inner.e), k=inner.k)
    return Term(k=x)


def _collect(terms: list[Term]) -> list[Term]:
    """Add the row factors of terms with equal key factors."""
    merged: dict[tuple[Node | None, Node | None, Node | None], Term] = {}
    for t in terms:
        key = (t.e, t.k, t.d)
        if key in merged:
            u = op("add", merged[key].u or const(1.0), t.u or const(1.0))
            merged[key] = Term(t.e, t.k, t.d, u)
        else:
            merged[key] = t
    return list(merged.values())


def _sum(x: Node, unknown: Unknown) -> list[Term]:
    left, right = (separate(y, unknown) for y in x.operands)
    if x.op == "sub":
        right = [Term(t.e, op("neg", t.k or const(1.0)), t.d, t.u) for t in right]
    return [*left, *right]


def _product(x: Node, unknown: Unknown) -> list[Term]:
    left, right = (separate(y, unknown) for y in x.operands)
    if len(left) > 1 and len(right) > 1:  # (s - mean) * (s - mean) is no sum of moments: those cancel
        raise Inseparable("CANCEL", x)
    return [
        Term(addition(a.e, b.e), product(a.k, b.k), addition(a.d, b.d), product(a.u, b.u)) for a in left for b in right
    ]


def _quotient(x: Node, unknown: Unknown) -> list[Term]:
    above, below = (separate(y, unknown) for y in x.operands)
    if len(below) != 1:
        raise Inseparable("NONHOM", x.operands[1])
    b = below[0]
    inverse = Term(_negative(b.e), _reciprocal(b.k), _negative(b.d), _reciprocal(b.u))
    return [
        Term(addition(a.e, inverse.e), product(a.k, inverse.k), addition(a.d, inverse.d), product(a.u, inverse.u))
        for a in above
    ]


def _negation(x: Node, unknown: Unknown) -> list[Term]:
    return [Term(t.e, op("neg", t.k or const(1.0)), t.d, t.u) for t in separate(x.operands[0], unknown)]


def _absolute(x: Node, unknown: Unknown) -> list[Term]:
    terms = separate(x.operands[0], unknown)
    if len(terms) != 1:
        raise Inseparable("NONHOM", x)
    t = terms[0]
    return [Term(t.e, t.k and op("abs", t.k), t.d, t.u and op("abs", t.u))]


def _exponential(x: Node, unknown: Unknown) -> list[Term]:
    e: Node | None = None
    d: Node | None = None
    for t in separate(x.operands[0], unknown):
        part = expanded(t)
        mixed = "j" in part.axes and reads(part, unknown)
        if mixed:
            raise Inseparable("CROSS", part)
        if reads(part, unknown):
            d = addition(d, part)
        else:
            e = addition(e, part)
    return [Term(e=e, d=d)]


def expanded(t: Term) -> Node:
    """The term as one node."""
    scale = product(t.k, t.u)
    total = addition(t.e, t.d)
    if total is None:
        return scale if scale is not None else const(1.0)
    power = op("exp", total)
    return power if scale is None else op("mul", power, scale)


def _select(x: Node, unknown: Unknown) -> list[Term]:
    condition, a, b = x.operands
    if reads(condition, unknown) and "j" in condition.axes:
        raise Inseparable("THRESHOLD", condition)
    minus = const(float("-inf"))
    result = []
    for branch, holds in ((a, True), (b, False)):
        if is_const(branch, 0.0):
            continue
        for t in separate(branch, unknown):
            zero, none = const(0.0), minus

            def pick(value: Node, other: Node, holds: bool = holds) -> Node:
                return op("where", condition, value, other) if holds else op("where", condition, other, value)

            if reads(condition, unknown):  # a row condition: it selects the row factor
                result.append(Term(t.e, t.k, t.d and pick(t.d, zero), pick(t.u or const(1.0), zero)))
            elif t.e is not None:
                result.append(Term(pick(t.e, none), t.k, t.d, t.u))
            else:
                result.append(Term(None, pick(t.k or const(1.0), zero), t.d, t.u))
    return result or [Term(k=const(0.0))]


_RULES: dict[str, Callable[[Node, Unknown], list[Term]]] = {
    "add": _sum, "sub": _sum, "mul": _product, "div": _quotient, "neg": _negation, "abs": _absolute, "exp": _exponential,
    "where": _select,
}  # fmt: skip
