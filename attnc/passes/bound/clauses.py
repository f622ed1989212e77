"""A mask as an or of ands of literals, so that what one literal says of i, j and i - j sharpens the others.

Comparisons of integers are `form rel 0` over atoms. A choice, an absolute value, a minimum or maximum of both i and j inside
one is taken apart: |x| <= c is x <= c and -x <= c; where(c, a, b) <= t is c and a <= t, or not c and b <= t.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from attnc.ir.graph import Node, substitute, topological
from attnc.passes.bound.affine import Form, Magnitudes, affine, is_uniform, plus
from attnc.passes.fold import op

MOST = 48  # clauses of a mask


@dataclass(frozen=True, slots=True)
class Linear:
    """sum of n * atom, rel 0, with rel one of le, eq, ne. `sides`: what was compared, whose arithmetic must not overflow."""

    terms: tuple[tuple[Node | None, int], ...]
    rel: str
    sides: tuple[Node, Node]

    @property
    def form(self) -> Form:
        """The terms as a dictionary."""
        return dict(self.terms)

    @property
    def atoms(self) -> dict[Node, int]:
        """The terms that vary in a tile."""
        return {x: n for x, n in self.terms if x is not None and not is_uniform(x)}


@dataclass(frozen=True, slots=True)
class Truth:
    """A mask that is no comparison of integers, or its opposite."""

    x: Node
    positive: bool


Literal = Linear | Truth
Clause = tuple[Literal, ...]


class TooMany(Exception):
    """The mask has more than MOST clauses."""


def clauses(x: Node, positive: bool, magnitudes: Magnitudes) -> list[Clause]:
    """The clauses of x, or of not x. Raises TooMany."""
    return _pruned(_Normal(magnitudes).mask(x, positive))


class _Normal:
    def __init__(self, magnitudes: Magnitudes) -> None:
        self.magnitudes = magnitudes

    def mask(self, x: Node, positive: bool) -> list[Clause]:
        if x.op == "const":
            return [()] if x["value"] == positive else []
        if is_uniform(x) and x.op not in ("and", "or", "not"):
            return [(Truth(x, positive),)]
        if x.op == "not":
            return self.mask(x.operands[0], not positive)
        if x.op in ("and", "or"):
            parts = [self.mask(y, positive) for y in x.operands]
            return _all(parts) if (x.op == "and") == positive else _any(parts)
        if x.op in ("xor", "eq", "ne") and x.operands[0].dtype == "bool":
            a, b = x.operands
            same = (x.op == "eq") == positive
            ways = [(True, same), (False, not same)]
            return _any([_all([self.mask(a, p), self.mask(b, q)]) for p, q in ways])
        if x.op == "where":
            c, a, b = x.operands
            return _any([_all([self.mask(c, p), self.mask(y, positive)]) for p, y in ((True, a), (False, b))])
        if x.op in ("lt", "le", "eq", "ne") and x.operands[0].dtype == "int":
            return self.comparison(x, positive)
        return [(Truth(x, positive),)]

    def comparison(self, x: Node, positive: bool) -> list[Clause]:
        a, b = x.operands
        rel = x.op
        if not positive:  # a < b is b <= a turned round
            rel = {"eq": "ne", "ne": "eq", "lt": "le", "le": "lt"}[rel]
            a, b = (b, a) if rel in ("lt", "le") else (a, b)
        form = plus(affine(a, self.magnitudes), affine(b, self.magnitudes), -1)
        if rel == "lt":
            form, rel = plus(form, {None: 1}), "le"
        return self.linear(form, rel, (a, b))

    def linear(self, form: Form, rel: str, sides: tuple[Node, Node]) -> list[Clause]:
        """form rel 0, its choices taken apart."""
        atoms = [x for x in form if x is not None and not is_uniform(x)]
        for w in topological(atoms):
            if w.op == "where" and w.dtype == "int" and not is_uniform(w):
                c, *branches = w.operands
                ways = zip((True, False), branches, strict=True)
                return _any([_all([self.mask(c, p), self.linear(self.put(form, w, y), rel, sides)]) for p, y in ways])
        for x in atoms:
            if rel == "le" and (x.op == "abs" or (x.op in ("minimum", "maximum") and {"i", "j"} <= x.axes)):
                values = [x.operands[0], op("neg", x.operands[0])] if x.op == "abs" else x.operands
                parts = [self.linear(self.put(form, x, y), rel, sides) for y in values]
                return _all(parts) if (x.op != "minimum") == (form[x] > 0) else _any(parts)
        if not any(x is not None for x in form):
            value = form.get(None, 0)
            holds = {"le": value <= 0, "eq": value == 0, "ne": value != 0}[rel]
            return [()] if holds else []
        return [(Linear(tuple(form.items()), rel, sides),)]

    def put(self, form: Form, old: Node, new: Node) -> Form:
        """The form with another node in the place of one."""
        result: Form = {}
        for x, n in form.items():
            value = {x: 1} if x is None or is_uniform(x) else affine(substitute([x], {old: new})[0], self.magnitudes)
            result = plus(result, value, n)
        return result


def _any(parts: Iterable[list[Clause]]) -> list[Clause]:
    return _limited(dict.fromkeys(c for part in parts for c in part))


def _all(parts: Iterable[list[Clause]]) -> list[Clause]:
    result: list[Clause] = [()]
    for part in parts:
        joined = (tuple(dict.fromkeys((*a, *b))) for a, b in product(result, part))
        result = _limited(dict.fromkeys(c for c in joined if not _contradicts(c)))
    return result


def _limited(found: Iterable[Clause]) -> list[Clause]:
    result = list(found)
    if len(result) > MOST:
        result = _pruned(result)
    if len(result) > MOST:
        raise TooMany
    return result


def _contradicts(clause: Clause) -> bool:
    """Whether two literals exclude each other."""
    truths = {(x.x, x.positive) for x in clause if isinstance(x, Truth)}
    if any((x, not p) in truths for x, p in truths):
        return True
    linear = [x for x in clause if isinstance(x, Linear)]
    return any(_excludes(a, b) for n, a in enumerate(linear) for b in linear[:n])


def _excludes(a: Linear, b: Linear) -> bool:
    if {a.rel, b.rel} == {"eq", "ne"}:
        return a.form == b.form or not plus(a.form, b.form)
    if "ne" in (a.rel, b.rel):
        return False
    for p in (1, -1) if a.rel == "eq" else (1,):
        for q in (1, -1) if b.rel == "eq" else (1,):
            together = plus(plus({}, a.form, p), b.form, q)
            if all(x is None for x in together) and together.get(None, 0) > 0:
                return True
    return False


def _pruned(found: Iterable[Clause]) -> list[Clause]:
    """Without clauses that ask for more than another one."""
    kept: list[tuple[frozenset[Literal], Clause]] = []
    for clause in sorted(dict.fromkeys(found), key=len):
        literals = frozenset(clause)
        if not any(other <= literals for other, _ in kept):
            kept.append((literals, clause))
    return [clause for _, clause in kept]
