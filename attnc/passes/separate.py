"""Exact algebra that frees a reduction's body of unfinished reductions: body = sum of few exp(e + d) * k * u.

e, k are known when the sweep starts (they may vary over j); d, u are row values that contain reductions which the same sweep
still computes. Then sum_j body = sum_t exp(d_t) u_t * (sum_j exp(e_t) k_t): the unfinished reductions leave the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attnc.ir.graph import Node, const, node, rebuild, substitute
from attnc.passes.canonicalise import is_const, simplify
from attnc.passes.expand import feature_axes
from attnc.passes.powers import apart, reached, repeated, shifted, vanishing
from attnc.passes.signs import nonnegative
from attnc.passes.term import (
    ONE,
    ZERO,
    Inseparable,
    Power,
    Term,
    Unknown,
    addition,
    checked,
    conjunction,
    conjuncts,
    expanded,
    mixed,
    moved,
    negated,
    op,
    parted,
    plain,
    product,
    reads,
    times,
    to_the_power,
    where,
)


def separate(x: Node, unknown: Unknown) -> list[Term]:
    """The terms of x. Raises Inseparable."""
    if not reads(x, unknown):
        return [_known(x)]
    if "j" not in x.axes:
        return [Term(d=x.operands[0])] if x.op == "exp" else [Term(u=x)]
    if x.op not in (*_LINEAR, "dot", "reduce") and (choice := _choice(x, unknown)) is not None:
        c, a, b = choice.operands
        yes, no = (substitute([x], {choice: branch})[0] for branch in (a, b))
        return checked(x, _select(node("where", c, simplify(yes), simplify(no)), unknown))
    rule = _RULES.get(x.op)
    if rule is None:
        raise Inseparable("NONHOM", x)
    return checked(x, rule(x, unknown))


def products(x: Node, left: list[Term], right: list[Term]) -> list[Term]:
    """The terms of a product. A sum times a sum is no sum of moments: those cancel."""
    if (found := shifted(left, right)) is not None:
        return checked(x, found)
    if len(left) > 1 and len(right) > 1:
        raise Inseparable("CANCEL", x)
    found = [moved(times(a, b)) for a in left for b in right]
    return checked(x, found)


def _choice(x: Node, unknown: Unknown) -> Node | None:
    """A `where` with a known condition and a mixed branch, from which x is sums and products away."""
    for y in x.operands:
        if not mixed(y, unknown):
            continue
        if y.op == "where" and not mixed(y.operands[0], unknown) and "j" in y.operands[0].axes:
            return y
        if y.op in _LINEAR and (found := _choice(y, unknown)) is not None:
            return found
    return None


def _known(x: Node) -> Term:
    """A known factor, its exponentials gathered in e; where(c, exp(a), 0) masks the exponent."""
    if x.op == "exp" and not feature_axes(x):  # a power of a feature vector has no one maximum per row
        return Term(e=x.operands[0])
    if x.op == "mul":
        a, b = map(_known, x.operands)
        return moved(Term(e=addition(a.e, b.e), k=product(a.k, b.k)))
    if x.op == "div":
        a = _known(x.operands[0])
        return Term(e=a.e, k=op("div", a.k or ONE, x.operands[1])) if a.e is not None else Term(k=x)
    if x.op == "neg":
        a = _known(x.operands[0])
        return Term(e=a.e, k=op("neg", a.k or ONE)) if a.e is not None else Term(k=x)
    if x.op == "where":
        condition, yes, no = x.operands
        if is_const(no, 0.0) and (inner := _known(yes)).e is not None:
            return where(condition, inner, True, False)
        if is_const(yes, 0.0) and (inner := _known(no)).e is not None:
            return where(condition, inner, False, False)
    return Term(k=x)


def _sum(x: Node, unknown: Unknown) -> list[Term]:
    left, right = (separate(y, unknown) for y in x.operands)
    return [*left, *(map(negated, right) if x.op == "sub" else right)]


def _negation(x: Node, unknown: Unknown) -> list[Term]:
    return [negated(t) for t in separate(x.operands[0], unknown)]


def _product(x: Node, unknown: Unknown) -> list[Term]:
    if (powers := repeated(x, unknown, separate)) is not None:
        return powers
    left, right = (separate(y, unknown) for y in x.operands)
    apart(x, left, right)
    return products(x, left, right)


def _one(x: Node, unknown: Unknown) -> Term:
    """The one term of x."""
    terms = separate(x, unknown)
    if len(terms) != 1:
        raise Inseparable("NONHOM", x)
    return plain(terms[0])


def _quotient(x: Node, unknown: Unknown) -> list[Term]:
    above = separate(x.operands[0], unknown)
    inverse = to_the_power(_one(x.operands[1], unknown), const(-1.0))
    apart(x, above, [inverse])
    return [times(a, inverse) for a in above]


def _power(x: Node, unknown: Unknown) -> list[Term]:
    base, y = x.operands
    if y.op != "const" or y["value"] == 0:
        raise Inseparable("NONHOM", x)
    t = _one(base, unknown)
    if y["value"] != int(y["value"]) and not all(f is None or nonnegative(f) for f in (t.k, t.u)):
        raise Inseparable("SIGN", base)
    return [to_the_power(t, y)]


def _root(x: Node, unknown: Unknown) -> list[Term]:
    return _power(node("pow", x.operands[0], const(0.5 if x.op == "sqrt" else -0.5)), unknown)


def _absolute(x: Node, unknown: Unknown) -> list[Term]:
    t = _one(x.operands[0], unknown)
    return [Term(t.e, t.k and op("abs", t.k), t.d, t.u and op("abs", t.u))]


def _sign(x: Node, unknown: Unknown) -> list[Term]:
    t = _one(x.operands[0], unknown)
    if t.e is not None or t.d is not None:
        raise Inseparable("NONHOM", x)
    return [Term(k=t.k and op("sign", t.k), u=t.u and op("sign", t.u))]


def _exponential(x: Node, unknown: Unknown) -> list[Term]:
    e: Node | None = None
    d: Node | None = None
    for t in separate(x.operands[0], unknown):
        part = expanded(t)
        if mixed(part, unknown):
            raise Inseparable("CROSS", part)
        if reads(part, unknown):
            d = addition(d, part)
        else:
            e = addition(e, part)
    return [Term(e=e, d=d)]


def _power_of_two(x: Node, unknown: Unknown) -> list[Term]:
    return _exponential(node("exp", op("mul", x.operands[0], const(0.6931471805599453))), unknown)


def _logarithm(x: Node, unknown: Unknown) -> list[Term]:
    """Of a key's and of a row's factor, as in e - lse, it is one: these cancel."""
    t = _one(x.operands[0], unknown)
    if not all(f is None or nonnegative(f) for f in (t.k, t.u)):
        raise Inseparable("SIGN", x.operands[0])
    known = addition(t.e, t.k and op("log", t.k))
    row = addition(t.d, t.u and op("log", t.u))
    if known is not None and row is not None:
        return [Term(about=Power(known, row, 1))]
    return [Term(k=known)] if known is not None else [Term(u=row)]


def _logarithm_of_two(x: Node, unknown: Unknown) -> list[Term]:
    unit = const(1 / math.log(2.0))
    return [times(t, Term(u=unit)) for t in _logarithm(x, unknown)]


def _extreme(x: Node, unknown: Unknown) -> list[Term]:
    """max(k1 u, k2 u) = max(k1, k2) u with u >= 0; max(k1 + u, k2 + u) = max(k1, k2) + u."""
    left, right = (separate(y, unknown) for y in x.operands)
    parts = [parted(terms, unknown) for terms in (left, right)]
    if parts[0] is not None and parts[1] is not None and parts[0][1] == parts[1][1]:
        return [Term(k=op(x.op, parts[0][0], parts[1][0])), Term(u=parts[0][1])]
    zeros = [terms == [Term(k=ZERO)] for terms in (left, right)]
    rows = {(t.d, t.u) for terms, zero in zip((left, right), zeros, strict=True) for t in terms if not zero}
    if len(left) > 1 or len(right) > 1 or len(rows) != 1:
        raise Inseparable("NONHOM", x)
    ((d, u),) = rows
    if u is not None and not nonnegative(u):
        raise Inseparable("SIGN", u)
    return [Term(k=op(x.op, *(expanded(Term(e=t.e, k=t.k)) for (t,) in (left, right))), d=d, u=u)]


def _select(x: Node, unknown: Unknown) -> list[Term]:
    condition, a, b = x.operands
    if mixed(condition, unknown):
        rows = [c for c in conjuncts(condition) if reads(c, unknown) and "j" not in c.axes]
        rest = [c for c in conjuncts(condition) if c not in rows]
        if any(reads(c, unknown) for c in rest):
            found = vanishing(x, unknown, separate) or (None if rows else reached(x, unknown, separate))
            if found is not None:
                return found
            if not rows:
                raise Inseparable("THRESHOLD", condition)
        outer, inner = conjunction(rest), conjunction(rows)
        return _select(node("where", outer, node("where", inner, a, b), b), unknown)
    result = []
    for branch, holds in ((a, True), (b, False)):
        if not is_const(branch, 0.0):
            result += [where(condition, t, holds, reads(condition, unknown)) for t in separate(branch, unknown)]
    return result or [Term(k=ZERO)]


def _cast(x: Node, unknown: Unknown) -> list[Term]:
    """Casts go down to what is known or a row value; a mixed mask is a choice."""
    (y,) = x.operands
    if x["kind"] != "float":
        raise Inseparable("NONHOM", x)
    if y.dtype == "bool":
        return _select(node("where", y, ONE, ZERO), unknown)
    if y.op not in ("add", "sub", "mul", "neg", "abs", "minimum", "maximum", "where"):
        raise Inseparable("NONHOM", y)
    parts = [o if o.dtype == "bool" else op("cast", o) if o.dtype == "float" else _float(o) for o in y.operands]
    return separate(rebuild(y, parts), unknown)


def _float(x: Node) -> Node:
    return const(float(x["value"])) if x.op == "const" else node("cast", x, kind="float", loc=x.loc)


def _contraction(x: Node, unknown: Unknown) -> list[Term]:
    left, right = ([plain(t) for t in separate(y, unknown)] for y in x.operands)
    return _over(x, products(x, left, right))


def _feature_sum(x: Node, unknown: Unknown) -> list[Term]:
    if x["how"] != "sum" or x["axis"] == "j":
        raise Inseparable("NONHOM", x)
    return _over(x, [plain(t) for t in separate(x.operands[0], unknown)])


def _over(x: Node, terms: list[Term]) -> list[Term]:
    """Each term summed over a feature axis, which its known part or its row part may have, not both."""
    axis, result = x["axis"], []
    for t in terms:
        e, k, d, u = t.e, t.k, t.d, t.u
        if k is not None and "j" not in k.axes and axis in k.axes:
            k, u = None, product(u, k)
        both = [part is not None and axis in part.axes for part in (k, u)]
        if any(part is not None and axis in part.axes for part in (e, d)) or all(both):
            raise Inseparable("RANK", x)  # as many terms as features
        if not any(both):
            u = product(u, node("cast", node("extent", name=axis), kind="float")) if axis in ("d", "e") else None
            if u is None:
                raise Inseparable("NONHOM", x)
        else:
            k, u = (
                _summed(part, axis) if part is not None and has else part
                for part, has in zip((k, u), both, strict=True)
            )
        result.append(Term(e, k, d, u))
    return result


def _summed(x: Node, axis: str) -> Node:
    return node("dot", *x.operands, axis=axis) if _is_product(x, axis) else node("reduce", x, how="sum", axis=axis)


def _is_product(x: Node, axis: str) -> bool:
    return x.op == "mul" and all(axis in y.axes for y in x.operands)


_LINEAR = ("add", "sub", "mul", "neg", "where", "div")
_RULES: dict[str, Callable[[Node, Unknown], list[Term]]] = {
    "add": _sum, "sub": _sum, "mul": _product, "div": _quotient, "neg": _negation, "abs": _absolute, "sign": _sign, "exp": _exponential,
    "exp2": _power_of_two, "pow": _power, "sqrt": _root, "rsqrt": _root, "log": _logarithm, "log2": _logarithm_of_two, "maximum": _extreme,
    "minimum": _extreme, "where": _select, "cast": _cast, "dot": _contraction, "reduce": _feature_sum,
}  # fmt: skip
