"""Sums that something is divided by keep their range by their own support: sum of exp(s) r is sum of exp(s + log|r|) sign(r).

The running maximum of s alone may belong to a key of which r is 0 (or 1e-30): the sum would underflow to 0 and the quotient be
0/0. What is divided by such a sum shares its weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc.ir.graph import Node, topological
from attnc.passes.expand import feature_axes, is_reduction
from attnc.passes.signs import nonnegative
from attnc.passes.term import Term, addition, factors, op, product


def divided(roots: Iterable[Node]) -> frozenset[Node]:
    """The sums over the keys whose size decides a quotient, a logarithm or a power."""
    found: set[Node] = set()
    for x in topological(roots):
        if x.op in ("div", "log", "log2", "pow", "rsqrt") and not feature_axes(x.operands[-1]):
            stack = [x.operands[1] if x.op == "div" else x.operands[0]]
            while stack:
                y = stack.pop()
                if is_reduction(y):
                    found.add(y)
                elif "j" not in y.axes and not _bounded(y):
                    stack += y.operands
    return frozenset(found)


def _bounded(x: Node) -> bool:
    """Whether x cannot come near 0 with the sums in it: max(z, 1), 1 + z."""
    return x.op in ("maximum", "add") and any(y.op == "const" and y["value"] > 0 for y in x.operands)


def own_support(t: Term, own: frozenset[tuple[Node | None, Node | None]]) -> Term:
    """The term with the factor of a pair (e, k) of `own` in its exponent."""
    if t.e is None or t.k is None:
        return t
    pair: Node | None = None
    rest: Node | None = None
    for factor in factors(t.k):
        if feature_axes(factor):
            rest = product(rest, factor)
        else:
            pair = product(pair, factor)
    if pair is None or "j" not in pair.axes or (t.e, pair) not in own:
        return t
    e: Node | None = t.e
    signs: Node | None = None
    for factor in factors(pair):
        if "j" not in factor.axes:
            signs = product(signs, factor)
            continue
        e = addition(e, op("log", factor if nonnegative(factor) else op("abs", factor)))
        if not nonnegative(factor):
            signs = product(signs, op("sign", factor))
    return replace(t, e=e, k=product(signs, rest))
