"""Integer expressions as sums of multiples of atoms, so that i - j on a tile is exact and i - i is 0.

Interval arithmetic happens in int64 like the expressions themselves, so what may overflow must be known: a value that nothing
bounds (a scalar, a table's entry) is taken to lie within 2**28 wherever it takes part in arithmetic, and the bound that
is made of it holds only where that is so. Compared directly, as in i - j < window, it may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attnc.ir.graph import Node, const, node, topological
from attnc.ir.ops import LONGEST
from attnc.passes.fold import op
from attnc.passes.ranges import Range, Ranges

MODEST = 2**28  # what unbounded values in arithmetic are assumed to lie within
SAFE = 2**60  # sums of a few such numbers do not overflow
Form = dict[Node | None, int]  # atom -> factor; None: the constant


def is_uniform(x: Node) -> bool:
    """Whether x is one value per tile: free of i, j and of feature vectors."""
    return not (x.axes - {"b", "h"}) and is_positional(x)


def is_positional(x: Node) -> bool:
    """Whether indices, tables and scalars alone decide x: it reads no q, k, v, and no sum over the keys."""
    return not any(y.op in ("role", "reduce", "attend", "softmax", "lse", "dot", "project") for y in topological([x]))


class Magnitudes(Ranges):
    """Static ranges of integers: of every call, under the assumption above."""

    def __init__(self) -> None:
        super().__init__({}, {}, {}, const(0))

    def _rule(self, x: Node) -> Range:
        if x.op in ("index", "extent"):
            return Range(0, LONGEST)
        if x.op == "value" and not x.axes:
            return Range(-LONGEST, LONGEST)
        if x.dtype == "int" and self.is_leaf(x) and self._unknown(x):
            return Range(-MODEST, MODEST)
        return super()._rule(x)

    def is_leaf(self, x: Node) -> bool:
        """Whether x's value, however large, is what the expression itself computes: it is no arithmetic of the analysis."""
        return is_uniform(x) or x.op in ("gather", "index", "cast")

    def unbounded(self, x: Node) -> bool:
        """Whether nothing is known of a leaf; one of the work item is computed as the expression says, and may have wrapped."""
        return self._unknown(x) or not self._fits(x)

    @staticmethod
    def _unknown(x: Node) -> bool:
        if x.op in ("gather", "cast"):
            return x.op == "gather" or x.operands[0].dtype == "float"
        return is_uniform(x) and any(y.op in ("scalar", "gather", "cast") for y in topological([x]))

    def _fits(self, x: Node) -> bool:
        low, high = self.range(x)
        return low >= -SAFE and high <= SAFE

    def guesses(self, x: Node) -> list[Node] | None:
        """The unbounded values that the arithmetic of x is made of; None where x may overflow nevertheless."""
        found: dict[Node, None] = {}
        for y in self._arithmetic(x):
            if not self._fits(y):
                return None
            if self.is_leaf(y) and self.unbounded(y):
                found[y] = None
        return list(found)

    def _arithmetic(self, x: Node) -> Iterator[Node]:
        yield x
        if self.is_leaf(x):
            return
        operands = x.operands[1:] if x.op == "where" else x.operands
        if x.op == "floordiv" and is_uniform(x.operands[1]):
            operands = x.operands[:1]  # a quotient is no larger than what was divided
        if x.op == "and" and any(y.op == "const" and y["value"] >= 0 for y in operands):
            return  # no larger than the constant
        for y in operands:
            if y.dtype == "int":
                yield from self._arithmetic(y)


def affine(x: Node, atom: Magnitudes) -> Form:
    """x as a sum of integer multiples of atoms."""
    if is_uniform(x) and atom.unbounded(x):
        return {x: 1}
    if x.op == "const":
        return plus({}, {None: 1}, int(x["value"]))
    if x.op in ("add", "sub"):
        left, right = (affine(y, atom) for y in x.operands)
        return plus(left, right, 1 if x.op == "add" else -1)
    if x.op == "neg":
        return plus({}, affine(x.operands[0], atom), -1)
    if x.op == "mul":
        for a, b in (x.operands, x.operands[::-1]):
            if b.op == "const":
                return plus({}, affine(a, atom), int(b["value"]))
    return {x: 1}


def plus(a: Mapping[Node | None, int], b: Mapping[Node | None, int], factor: int = 1) -> Form:
    """a + factor * b."""
    total = dict(a)
    for x, n in b.items():
        total[x] = total.get(x, 0) + factor * n
    return {x: n for x, n in total.items() if n}


def total(form: Mapping[Node | None, int]) -> Node:
    """The sum as a graph: what is added first, then what is subtracted, the constant last."""
    result: Node | None = None
    atoms = [(x, n) for x, n in form.items() if x is not None]
    for x, n in sorted(atoms, key=lambda item: item[1] < 0):
        term = x if abs(n) == 1 else op("mul", x, const(abs(n)))
        if result is None:
            result = term if n > 0 else op("neg", term)
        else:
            result = op("add" if n > 0 else "sub", result, term)
    constant = form.get(None, 0)
    if result is None:
        return const(constant)
    if constant:
        result = op("add" if constant > 0 else "sub", result, const(abs(constant)))
    return result


def index(name: str) -> Node:
    """The leaf of an index."""
    return node("index", name=name)
