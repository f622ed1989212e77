"""Linear time: sums over the keys whose terms are products of what the query alone and what the key alone decides.

(phi_i . psi_j) v_j summed over j is phi_i . (sum_j psi_j v_j^T): the sum of outer products is the same for every query that sees these
keys (Katharopoulos, Vyas, Pappas, Fleuret, arXiv 2006.16236). A factor exp(e) may stand before it where e is a query's part plus a key's,
as in a decay by the distance. A causal mask makes the sum one that grows from query to query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce

from attnc.ir.graph import Node, const, node
from attnc.ir.text import BRIEF, expression
from attnc.passes.bound import END
from attnc.passes.bound.affine import Form, Magnitudes, affine, is_positional, plus, total
from attnc.passes.canonicalise import is_const
from attnc.passes.finite import is_finite, is_fixed
from attnc.passes.fold import op
from attnc.passes.plan_sweeps import Accumulator, Plan
from attnc.passes.term import MAX_TERMS, addition, apart, conjuncts, product

I, J = node("index", name="i"), node("index", name="j")


class Irreducible(Exception):
    """Why a variant takes quadratic time: a code and the node that causes it.

    CROSS an exponent that is no sum of a query's and a key's part. EXTREME a maximum or minimum over the keys. INTEGER a sum of whole
    numbers. MASK a mask that is not j <= f(i) with f rising, or not the same for all terms. MOVING a sum about a mean, or of what stands
    where a maximum is reached. NAN a factor that may be NaN, where a mask covers only another: 0 · NaN is NaN. NONHOM a function of
    a product of q and k. RANK products of such products, or too many terms. SWEEPS several sweeps. VECTOR features that vary over
    query and key.
    """

    def __init__(self, code: str, cause: Node) -> None:
        self.code, self.cause = code, cause
        super().__init__(f"{code}, {expression(cause, budget=BRIEF)}")


@dataclass(frozen=True, slots=True)
class Sided:
    """Masks of a term: of the query, of the key, and of both together."""

    rows: tuple[Node, ...] = ()
    keys: tuple[Node, ...] = ()
    pairs: frozenset[Node] = frozenset()

    def missing(self, other: Sided) -> bool:
        """Whether some of these are not among the other's."""
        return not (self.pairs <= other.pairs and {*self.rows, *self.keys} <= {*other.rows, *other.keys})

    def joined(self, other: Sided) -> Sided:
        """The masks of a product."""
        rows, keys = ((*dict.fromkeys((*a, *b)),) for a, b in ((self.rows, other.rows), (self.keys, other.keys)))
        return Sided(rows, keys, self.pairs | other.pairs)


EVERYWHERE = Sided()


@dataclass(frozen=True, slots=True)
class Exponent:
    """e = row + key + both: of the query, of the key, and of positions alone, `both` being a sum f(i) + g(j) in some other writing."""

    row: Node | None = None
    key: Node | None = None
    both: Node | None = None
    masks: Sided = EVERYWHERE

    @property
    def bare(self) -> list[Node]:
        """What may be NaN."""
        return _bare(self.row, self.key, self.both)


@dataclass(frozen=True, slots=True)
class Product:
    """row * key * dot(rows, keys), under masks; None stands for 1."""

    row: Node | None = None
    key: Node | None = None
    rows: Node | None = None
    keys: Node | None = None
    axis: str | None = None
    masks: Sided = EVERYWHERE

    @property
    def bare(self) -> list[Node]:
        """What may be NaN."""
        return _bare(self.row, self.key, self.rows, self.keys)


@dataclass(frozen=True, slots=True)
class Linear:
    """last: the last key that query i sees, rising with i. exponents: of the sums that have one. sums: each accumulator's terms, and
    the feature vector of the key that they weigh."""

    last: Node
    exponents: dict[Node, Exponent]
    sums: dict[Accumulator, tuple[tuple[Product, ...], Node | None]]


def reassociate(plan: Plan) -> Linear:
    """The linear form of a plan. Raises Irreducible."""
    if len(plan.sweeps) != 1:
        raise Irreducible("SWEEPS", plan.graph.outputs[0])
    exponents: dict[Node, Exponent] = {}
    sums: dict[Accumulator, tuple[tuple[Product, ...], Node | None]] = {}
    for a in plan.sweeps[0]:
        if a.moment is not None:
            raise Irreducible("MOVING", a.moment.x)
        if a.top is not None:
            raise Irreducible("MOVING", a.top)
        if a.how != "sum" or (a.k is not None and a.k.dtype != "float"):
            assert a.k is not None
            raise Irreducible("EXTREME" if a.how != "sum" else "INTEGER", a.k)
        pair, vector = apart(a.k) if a.k is not None else (None, None)
        if vector is not None and "i" in vector.axes:
            raise Irreducible("VECTOR", vector)
        if a.e is not None and a.e not in exponents:
            exponents[a.e] = _exponent(a.e)
        sums[a] = tuple(_terms(pair)) if pair is not None else (Product(),), vector
        _cover(a, exponents[a.e] if a.e is not None else Exponent(), sums[a][0])
    return Linear(_last(exponents, sums), exponents, sums)


def _bare(*parts: Node | None) -> list[Node]:
    return [x for x in parts if x is not None and not is_finite(x) and not is_fixed(x)]


def _cover(a: Accumulator, e: Exponent, terms: tuple[Product, ...]) -> None:
    """Masks must cover all factors of a sum: exp(e), the weight, and the values that no weight of 0 hides."""
    for t in terms:
        _both_covered(a.k or t.keys or END, e, t)
        if a.features and not a.skip_zero and e.masks.joined(t.masks) != EVERYWHERE:
            assert a.k is not None
            raise Irreducible("NAN", a.k)


def _both_covered(x: Node, a: Exponent | Product, b: Exponent | Product, outer: Sided = EVERYWHERE) -> None:
    """Raises Irreducible where a mask of one factor leaves the other uncovered; outer: those around both."""
    for one, other in ((a, b), (b, a)):
        if one.bare and other.masks.missing(one.masks.joined(outer)):
            raise Irreducible("NAN", x)


def _last(exponents: dict[Node, Exponent], sums: dict[Accumulator, tuple[tuple[Product, ...], Node | None]]) -> Node:
    """The last key that a query sees: by masks that are the same for all terms."""
    found: set[frozenset[Node]] = set()
    for a, (terms, _) in sums.items():
        outer = exponents[a.e].masks.pairs if a.e is not None else frozenset()
        found |= {outer | t.masks.pairs for t in terms}
    masks = {c for pairs in found for c in pairs}
    if len(found) > 1:
        raise Irreducible("MASK", next(c for c in masks if any(c not in pairs for pairs in found)))
    lasts = sorted((limit(c) for c in masks), key=lambda x: x.key)
    return reduce(partial(op, "minimum"), lasts, END)


def limit(c: Node) -> Node:
    """f of a mask j <= f(i), f rising: on positions alone, in exact integers."""
    positive = c.op != "not"
    compared = c if positive else c.operands[0]
    if compared.op not in ("le", "lt") or compared.operands[0].dtype != "int" or not is_positional(compared):
        raise Irreducible("MASK", c)
    atom = Magnitudes()
    low, high = (affine(x, atom) for x in (compared.operands if positive else compared.operands[::-1]))
    strict = (compared.op == "lt") == positive
    form = plus(plus(low, high, -1), {None: 1}, int(strict))
    pair = {x: n for x, n in form.items() if x is not None and x.axes & {"i", "j"}}
    if pair.pop(J, 0) != 1 or not all(n < 0 and _rises(x) for x, n in pair.items()):
        raise Irreducible("MASK", c)
    rest: Form = {x: n for x, n in form.items() if x != J}
    return total(plus({}, rest, -1))


def _rises(x: Node) -> bool:
    """Whether an integer rises with i, or stays, and does not read j."""
    if x == I or not x.axes & {"i", "j"}:
        return True
    match x.op:
        case "add" | "minimum" | "maximum":
            return all(map(_rises, x.operands))
        case "sub":
            return _rises(x.operands[0]) and not x.operands[1].axes & {"i", "j"}
        case "mul" | "floordiv" if x.operands[1].op == "const" and x.operands[1]["value"] > 0:
            return _rises(x.operands[0])
    return False


def _sided(conditions: list[Node]) -> Sided:
    pairs = frozenset(c for c in conditions if {"i", "j"} <= c.axes)
    keys = tuple(c for c in conditions if "j" in c.axes and c not in pairs)
    return Sided(tuple(c for c in conditions if "j" not in c.axes), keys, pairs)


def _exponent(e: Node, outer: Sided = EVERYWHERE) -> Exponent:
    """Raises Irreducible where e is no sum of a query's and a key's part."""
    if "i" not in e.axes:
        return Exponent(key=e)
    if e.op == "where" and is_const(e.operands[2], float("-inf")):
        masks = _sided(conjuncts(e.operands[0]))
        inner = _exponent(e.operands[1], outer.joined(masks))
        return replace(inner, masks=inner.masks.joined(masks))
    if "j" not in e.axes:
        return Exponent(row=e)
    if is_positional(e) and additive(e):
        return Exponent(both=e)
    if e.op in ("add", "sub"):
        left, right = (_exponent(x, outer) for x in e.operands)
        if e.op == "add":
            return _sum(e, left, right, outer)
        if right.masks == EVERYWHERE:  # else inf, not -inf
            return _sum(e, left, _each(right, lambda part: op("neg", part)), outer)
    if e.op == "mul":
        for x, c in (e.operands, e.operands[::-1]):
            if not c.axes & {"i", "j"} and (inner := _exponent(x, outer)).masks == EVERYWHERE:
                return _each(inner, partial(op, "mul", c))
    raise Irreducible("CROSS", e)


def _each(x: Exponent, rule: Callable[[Node], Node]) -> Exponent:
    row, key, both = (None if part is None else rule(part) for part in (x.row, x.key, x.both))
    return Exponent(row, key, both, x.masks)


def _sum(e: Node, x: Exponent, y: Exponent, outer: Sided) -> Exponent:
    _both_covered(e, x, y, outer)
    row, key, both = addition(x.row, y.row), addition(x.key, y.key), addition(x.both, y.both)
    return Exponent(row, key, both, x.masks.joined(y.masks))


def additive(x: Node) -> bool:
    """Whether x is f(i) + g(j) in exact arithmetic."""
    if not {"i", "j"} <= x.axes:
        return True
    if x.op in ("add", "sub", "neg") or (x.op == "cast" and x.dtype == "float" and x.operands[0].dtype != "bool"):
        return all(map(additive, x.operands))
    if x.op in ("mul", "div"):
        pairs = (x.operands, x.operands[::-1])[: 2 if x.op == "mul" else 1]
        return any(additive(a) and not c.axes & {"i", "j"} for a, c in pairs)
    return False


def _terms(x: Node) -> list[Product]:
    """A weight as a sum of products. Raises Irreducible."""
    found = _walk(x)
    if len(found) > MAX_TERMS:
        raise Irreducible("RANK", x)
    return found


def _walk(x: Node, outer: Sided = EVERYWHERE) -> list[Product]:
    """outer: masks around x."""
    if x.op == "where" and (is_const(x.operands[2], 0.0) or {"i", "j"} <= x.axes):
        c, a, b = x.operands
        found = _masked(a, c, outer)
        return found if is_const(b, 0.0) else [*found, *_masked(b, op("not", c), outer)]
    if "j" not in x.axes:
        return [Product(row=x)]
    if "i" not in x.axes:
        return [Product(key=x)]
    match x.op:
        case "mul":
            left, right = (_walk(y, outer) for y in x.operands)
            return [_times(x, a, b, outer) for a in left for b in right]
        case "add" | "sub":
            left, right = (_walk(y, outer) for y in x.operands)
            return [*left, *(map(_negated, right) if x.op == "sub" else right)]
        case "neg":
            return [_negated(t) for t in _walk(x.operands[0], outer)]
        case "div":
            (below,) = found if len(found := _walk(x.operands[1], outer)) == 1 else (None,)
            if below is None or below.axis is not None or below.masks != EVERYWHERE:
                raise Irreducible("NONHOM", x)
            return [_times(x, a, _inverse(below), outer) for a in _walk(x.operands[0], outer)]
        case "dot":
            return [_dot(x, x.operands, x["axis"])]
        case "reduce" if x["how"] == "sum" and x["axis"] != "j" and x.operands[0].op == "mul":
            return [_dot(x, x.operands[0].operands, x["axis"])]
    raise Irreducible("NONHOM", x)


def _masked(x: Node, c: Node, outer: Sided) -> list[Product]:
    masks = _sided(conjuncts(c))
    return [replace(t, masks=t.masks.joined(masks)) for t in _walk(x, outer.joined(masks))]


def _dot(x: Node, factors: tuple[Node, ...], axis: str) -> Product:
    for a, b in (factors, factors[::-1]):
        if "j" not in a.axes and "i" not in b.axes and axis in a.axes & b.axes:
            return Product(rows=a, keys=b, axis=axis)
    raise Irreducible("VECTOR", x)


def _times(x: Node, a: Product, b: Product, outer: Sided) -> Product:
    if a.axis is not None and b.axis is not None:
        raise Irreducible("RANK", x)
    _both_covered(x, a, b, outer)
    dot = a if a.axis is not None else b
    numbers = product(a.row, b.row), product(a.key, b.key)
    return Product(*numbers, dot.rows, dot.keys, dot.axis, a.masks.joined(b.masks))


def _negated(t: Product) -> Product:
    return replace(t, row=op("neg", t.row) if t.row is not None else const(-1.0))


def _inverse(t: Product) -> Product:
    row, key = (x and op("div", const(1.0), x) for x in (t.row, t.key))
    return Product(row, key)
