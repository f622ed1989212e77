"""Factors (x + row)**n of a body, x known and row unfinished: squares of deviations, and logarithms of shares, e - lse.

Their terms by powers of x would cancel. Sums of exp(e) * k * (x - c)**n about a centre c near the keys' x do not, and any c will do:
(x + row)**n is a polynomial of x - c with coefficients of c + row, which are known at the end (parallel axes).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from attnc.ir.graph import Node, const, node
from attnc.passes.canonicalise import is_const
from attnc.passes.expand import feature_axes
from attnc.passes.signs import nonnegative
from attnc.passes.term import (
    MINUS,
    ZERO,
    Inseparable,
    Power,
    Term,
    Top,
    Unknown,
    addition,
    conjunction,
    conjuncts,
    expanded,
    factors,
    mixed,
    op,
    plain,
    product,
    reads,
    settled,
    times,
)

MAX_POWER = 3  # one more accumulator than that: as many as terms
Separate = Callable[[Node, Unknown], list[Term]]


def repeated(x: Node, unknown: Unknown, separate: Separate) -> list[Term] | None:
    """The terms of x = rest * base**n where base is mixed and no single term; None where x is no such product."""
    found = factors(x)
    for base in dict.fromkeys(found):
        n = found.count(base)
        if n < 2 or not mixed(base, unknown):
            continue
        parts = affine(separate(base, unknown))
        if parts is None:
            continue
        if n > MAX_POWER:
            raise Inseparable("RANK", x)
        inner, row, d, u = parts
        power = Term(about=Power(inner, row, n))
        for _ in range(n):
            power = times(power, Term(d=d, u=u))
        others = [y for y in found if y != base]
        rest: Node | None = None
        for y in others:
            rest = product(rest, y)
        return [times(t, power) for t in separate(rest, unknown)] if rest is not None else [power]
    return None


def affine(terms: list[Term]) -> tuple[Node, Node, Node | None, Node | None] | None:
    """Terms as (x + row) exp(d) u: x, row, d and u; None where they are one plain term, or no such thing."""
    varying = [t for t in terms if varies(t)]
    if not varying or (len(terms) == 1 and terms[0].about is None):
        return None
    first, x, row = varying[0], None, None
    for t in terms:
        if t.about is not None and not (isinstance(t.about, Power) and t.about.power == 1 and t.e is t.k is None):
            return None
        if t not in varying:
            rest = _over(t, first)
            if rest is None:
                return None
            row = addition(row, rest)
        elif (t.d, t.u) != (first.d, first.u):
            return None
        elif isinstance(t.about, Power):
            x, row = addition(x, t.about.x), addition(row, t.about.row)
        else:
            x = addition(x, expanded(Term(e=t.e, k=t.k)))
    assert x is not None
    return None if feature_axes(x) else (x, row or ZERO, first.d, first.u)


def varies(t: Term) -> bool:
    """Whether what is known of a term varies over the keys."""
    return t.about is not None or any(y is not None and "j" in y.axes for y in (t.e, t.k))


def _over(t: Term, first: Term) -> Node | None:
    """A row term without the row factors of another; None where it has not got them."""
    left = factors(t.u) if t.u is not None else []
    for y in factors(first.u) if first.u is not None else []:
        if y not in left:
            return None
        left.remove(y)
    if first.d is not None and t.d != first.d:
        return None
    u: Node | None = None
    for y in left:
        u = product(u, y)
    return expanded(Term(k=t.k, e=t.e, d=None if first.d is not None else t.d, u=u))


def shifted(left: list[Term], right: list[Term]) -> list[Term] | None:
    """The product of exp(e) and x + row where x is e itself, but for masks: weights with their exponents, p (s - lse)."""
    for weights, sums in ((left, right), (right, left)):
        if len(weights) == 1 and len(sums) > 1 and weights[0].e is not None and weights[0].about is None:
            parts = affine(sums) if weights[0].k is None or "j" not in weights[0].k.axes else None
            if parts is not None and core(parts[0]) == core(weights[0].e):
                x, row, d, u = parts
                return [times(weights[0], Term(d=d, u=u, about=Power(x, row, 1)))]
    return None


def core(x: Node) -> Node:
    """x without its masks."""
    while x.op == "where":
        inner = [y for y in x.operands[1:] if y.op != "const"]
        if len(inner) != 1:
            return x
        x = inner[0]
    return x


def apart(x: Node, left: list[Term], right: list[Term]) -> None:
    """Raises where keys that attain an extreme meet another factor of keys: 0 NaN is NaN, but the sum forgets keys of before."""
    for some, others in ((left, right), (right, left)):
        if any(isinstance(t.about, Top) for t in some) and any(varies(t) for t in others):
            raise Inseparable("THRESHOLD", x)


def vanishing(x: Node, unknown: Unknown, separate: Separate) -> list[Term] | None:
    """The terms of where(p == 0, 0, p log p): no condition at all in a share p = exp(e) u, since p log p vanishes as p does."""
    condition, yes, no = x.operands
    held = {"eq": (no, yes), "ne": (yes, no), "lt": (yes, no)}.get(condition.op)
    if held is None or not is_const(held[1], 0.0):
        return None
    zero, p = condition.operands if condition.op == "lt" else condition.operands[::-1]
    body = _factors(held[0])
    rest = list(body)
    for y in _factors(p):
        if y not in rest:
            return None
        rest.remove(y)
    logs = [y for y in rest if y.op in ("log", "log2") and y.operands[0] == p]
    if not is_const(zero, 0.0) or len(logs) != 1 or any(mixed(y, unknown) for y in rest if y not in logs):
        return None
    share, terms = separate(p, unknown), separate(held[0], unknown)
    if len(share) != 1 or share[0].k is not None or share[0].e is None or any(t.e != share[0].e for t in terms):
        return None
    return [_where_some(t, share[0], condition.op == "lt") for t in terms]


def _factors(x: Node) -> list[Node]:
    while x.op == "neg":
        x = x.operands[0]
    return [z for y in x.operands for z in _factors(y)] if x.op == "mul" else [x]


def _where_some(t: Term, share: Term, above: bool) -> Term:
    """A term in x log x of a share, 0 where the share is; above: and where it is NaN."""
    t, e, only = same_for_all(t), share.e, None
    assert e is not None and isinstance(t.about, Power)
    for part, nothing in ((share.u, ZERO), (share.d, MINUS)):
        if part is not None:
            some = op("lt", nothing, part) if above else op("ne", part, nothing)
            only = some if only is None else op("and", only, some)
    live = op("ne", e, MINUS)
    about = replace(t.about, x=op("where", live, t.about.x, ZERO), only=only)
    return replace(t, k=t.k and op("where", live, t.k, ZERO), about=about)


def reached(x: Node, unknown: Unknown, separate: Separate) -> list[Term] | None:
    """The terms of where(s == max_j s, a, 0); None where the condition is another.

    The running maximum is at least every s so far, so that what was summed below it is dropped when it rises.
    """
    condition, yes, no = x.operands
    parts = conjuncts(condition)
    compared = [c for c in parts if reads(c, unknown)]
    known = [c for c in parts if c not in compared]
    if len(compared) != 1 or not is_const(no, 0.0):
        return None
    extreme = _extreme(compared[0], known, unknown)
    if extreme is None:
        return None
    at = conjunction([*known, node("eq", extreme.operands[0], extreme)])
    terms = [plain(t) for t in separate(yes, unknown)]
    if any(t.e is not None or (t.k is not None and feature_axes(t.k)) for t in terms):
        return None
    if not all(t.u is None or settled(t.u) for t in terms) or any(t.d is not None for t in terms):
        return None
    return [Term(None, op("where", at, t.k or const(1.0), ZERO), None, t.u, Top(extreme)) for t in terms]


def counted(x: Node, unknown: Unknown, separate: Separate) -> list[Term] | None:
    """The terms of a mask s == max_j s as a whole number, 1 where it holds."""
    (mask,) = x.operands if x.op == "cast" else (x,)
    if mask.dtype != "bool" or not mixed(mask, unknown):
        return None
    found = reached(node("where", mask, const(1.0), ZERO), unknown, separate)
    return found and [
        replace(t, k=node("where", t.k.operands[0], const(1), const(0))) for t in found if t.k is not None
    ]


def _extreme(c: Node, known: list[Node], unknown: Unknown) -> Node | None:
    """max_j s of a comparison s == max_j s, where it runs over the same keys; else None."""
    if c.op != "eq":
        return None
    for y, top in (c.operands, c.operands[::-1]):
        if top in unknown and top.op == "reduce" and top["how"] in ("max", "min"):
            body = top.operands[0]
            if reads(body, unknown) or feature_axes(body):
                continue
            if body == y:
                return top
            nothing = -math.inf if top["how"] == "max" else math.inf
            if body.op == "where" and is_const(body.operands[2], nothing) and body.operands[1] == y:
                return top if set(conjuncts(body.operands[0])) <= set(known) else None
    return None


def same_for_all(t: Term) -> Term:
    """A power with what is the same for all keys of its factor outside of the sum."""
    if isinstance(t.about, Power) and t.k is not None and "j" not in t.k.axes:
        return replace(t, k=None, u=product(t.u, t.k))
    return t


def centred(t: Term) -> bool:
    """Whether a sweep can keep a term's sum about a centre: the running maximum of e, or the mean of x with weights exp(e) k."""
    about = t.about
    assert isinstance(about, Power)
    if any(y is not None and feature_axes(y) for y in (t.e, t.k, about.x, about.row)):
        return False
    if about.power == 1:
        return t.e is not None and t.k is None and core(about.x) == core(t.e)
    return t.k is None or nonnegative(t.k)


def weighted(k: Node | None, x: Node) -> Node:
    """k * x; where both have one mask, so has the product."""
    if k is None or is_const(k, 1.0):
        return x
    if k.op == x.op == "where" and k.operands[0] == x.operands[0]:
        c, (a, b), (y, z) = k.operands[0], k.operands[1:], x.operands[1:]
        if is_const(b, 0.0) and is_const(z, 0.0):
            return op("where", c, weighted(a, y), ZERO)
        if is_const(a, 0.0) and is_const(y, 0.0):
            return op("where", c, ZERO, weighted(b, z))
    return op("mul", k, x)
