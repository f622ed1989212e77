"""Which reduction over the keys runs in which sweep, and what each sweep accumulates.

A reduction joins the sweep of the unfinished reductions in its body where `separate` frees the body of them; otherwise it waits
for them and costs one more sweep. What a sweep accumulates are sums of exp(e)*k, and maxima and minima.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.ir.graph import Graph, Node, topological
from attnc.ir.text import BRIEF, expression
from attnc.passes.expand import feature_axes, is_reduction
from attnc.passes.separate import Inseparable, Term, factors, product, separate


@dataclass(frozen=True, slots=True)
class Accumulator:
    """One running value of a sweep: sum over j of exp(e)*k (with e None: of k), or max/min over j of k."""

    name: str
    how: str
    e: Node | None
    k: Node | None
    skip_zero: bool = False  # a product of attend: a weight that is exactly zero contributes nothing

    @property
    def features(self) -> frozenset[str]:
        """Feature axes of the accumulated value."""
        return feature_axes(self.k) if self.k is not None else frozenset()


@dataclass(frozen=True, slots=True)
class Piece:
    """One term of a separated reduction: exp(d) * u * accumulator."""

    accumulator: Accumulator
    d: Node | None
    u: Node | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Sweeps in order, how every reduction is put together from them, and why any of them had to wait."""

    graph: Graph
    sweeps: tuple[tuple[Accumulator, ...], ...]
    pieces: dict[Node, tuple[Piece, ...]]
    reasons: tuple[str, ...] = field(default=())


def plan_sweeps(graph: Graph) -> Plan:
    """Assign every reduction over j to the earliest sweep that algebra allows."""
    reductions = [x for x in topological(graph.outputs) if is_reduction(x)]
    level: dict[Node, int] = {}
    pieces: dict[Node, tuple[Piece, ...]] = {}
    sweeps: list[dict[tuple[object, ...], Accumulator]] = []
    reasons: list[str] = []
    for x in reductions:
        inside = [y for y in topological(x.operands) if y in level]
        first = max((level[y] for y in inside), default=0)
        unknown = frozenset(y for y in inside if level[y] == first)
        try:
            terms = _terms(x, unknown)
        except Inseparable as failure:
            where = f" ({x.loc})" if x.loc is not None else ""
            reasons.append(
                f"sweep {first + 1}: {expression(x, budget=BRIEF)}{where} waits for sweep {first}: {failure}"
            )
            first += 1
            terms = _terms(x, frozenset())
        level[x] = first
        while len(sweeps) <= first:
            sweeps.append({})
        pieces[x] = tuple(Piece(_accumulator(x, t, sweeps, first), t.d, t.u) for t in terms)
    return Plan(graph, tuple(tuple(s.values()) for s in sweeps), pieces, tuple(reasons))


def _terms(x: Node, unknown: frozenset[Node]) -> list[Term]:
    if x.op == "attend":
        weights, values = (separate(y, unknown) for y in x.operands)
        if len(values) != 1 or values[0].e is not None or values[0].d is not None:
            values = [Term(k=x.operands[1])]
            if any(y in unknown for y in topological([x.operands[1]])):
                raise Inseparable("NONHOM", x.operands[1])
        v = values[0]
        return [_outside(Term(t.e, product(t.k, v.k), t.d, product(t.u, v.u))) for t in weights]
    if x["how"] == "sum" and x.dtype == "float":
        return [_outside(t) for t in separate(x.operands[0], unknown)]
    if any(y in unknown for y in topological(x.operands)):
        raise Inseparable("MONO" if x["how"] != "sum" else "NONHOM", x.operands[0])
    return [Term(k=x.operands[0])]


def _outside(t: Term) -> Term:
    """Row factors leave the sum, sum_j w_j q = (sum_j w_j) q: feature vectors, and finished sums with their exponents."""
    inside: Node | None = None
    for factor in factors(t.k) if t.k is not None else []:
        if "j" not in factor.axes and (feature_axes(factor) or any(map(is_reduction, topological([factor])))):
            t = Term(t.e, t.k, t.d, product(t.u, factor))
        else:
            inside = product(inside, factor)
    return Term(t.e, inside, t.d, t.u)


def _accumulator(x: Node, t: Term, sweeps: list[dict[tuple[object, ...], Accumulator]], number: int) -> Accumulator:
    """The accumulator of a term in its sweep, named as in the papers: l for sums of weights, acc for sums of vectors."""
    how = "sum" if x.op == "attend" else str(x["how"])
    features = t.k is not None and bool(feature_axes(t.k))
    key = (how, t.e, t.k, x.op == "attend" and features)
    sweep = sweeps[number]
    if key not in sweep:
        letter = how if how != "sum" else "acc" if features else "l"
        count = sum(a.name.rstrip("0123456789") == letter for s in sweeps for a in s.values()) + 1
        name = letter if count == 1 else f"{letter}{count}"
        sweep[key] = Accumulator(name, how, t.e, t.k, x.op == "attend" and features)
    return sweep[key]
