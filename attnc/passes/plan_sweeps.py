"""Which reduction over the keys runs in which sweep, and what each sweep accumulates.

A reduction joins the sweep of the unfinished reductions in its body where `separate` frees the body of them; otherwise it waits
for them and costs one more sweep. What a sweep accumulates are sums of exp(e)*k, and maxima and minima.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.ir.graph import Graph, Node, topological
from attnc.ir.text import BRIEF, expression
from attnc.passes.expand import feature_axes, is_reduction
from attnc.passes.monotone import extreme
from attnc.passes.separate import products, separate
from attnc.passes.support import divided, own_support
from attnc.passes.term import Inseparable, Term, outside, reads


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
    """One term of a separated reduction: exp(d) * u * accumulator; None stands for the number of keys, the sum of 1."""

    accumulator: Accumulator | None
    d: Node | None
    u: Node | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Sweeps in order, how every reduction is put together from them, and why any of them had to wait.

    pieces: of sums, maxima and minima that a sweep accumulates. forms: extremes as row values of other reductions.
    """

    graph: Graph
    sweeps: tuple[tuple[Accumulator, ...], ...]
    pieces: dict[Node, tuple[Piece, ...]]
    forms: dict[Node, Node]
    reasons: tuple[str, ...] = field(default=())


def plan_sweeps(graph: Graph) -> Plan:
    """Assign every reduction over j to the earliest sweep that algebra allows."""
    return _Planner(graph).run()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.divided = graph, divided(graph.outputs)
        self.level: dict[Node, int] = {}
        self.terms: dict[Node, list[Term]] = {}
        self.forms: dict[Node, Node] = {}
        self.reasons: list[str] = []

    def run(self) -> Plan:
        for x in topological(self.graph.outputs):
            if is_reduction(x):
                self._place(x)
        count = max(self.level.values(), default=-1) + 1
        sweeps: list[dict[tuple[object, ...], Accumulator]] = [{} for _ in range(count)]
        own = [self._own(n) for n in range(count)]
        pieces = {}
        for x, terms in self.terms.items():
            n = self.level[x]
            kept = [own_support(t, own[n]) for t in terms]
            pieces[x] = tuple(
                Piece(None if t.e is None and t.k is None else _accumulator(x, t, sweeps, n), t.d, t.u) for t in kept
            )
        found = tuple(tuple(s.values()) for s in sweeps)
        return Plan(self.graph, found, pieces, self.forms, tuple(self.reasons))

    def _own(self, number: int) -> frozenset[tuple[Node | None, Node | None]]:
        """The (e, k) of a sweep's sums that something is divided by, or whose logarithm is taken."""
        sums = [x for x in self.terms if self.level[x] == number and x in self.divided]
        return frozenset((t.e, t.k) for x in sums for t in self.terms[x])

    def _place(self, x: Node) -> None:
        inside = [y for y in topological(x.operands) if y in self.level]
        first = max((self.level[y] for y in inside), default=0)
        unknown = frozenset(y for y in inside if self.level[y] == first)
        try:
            if _is_extreme(x) and reads(x.operands[0], unknown):
                self._form(x, unknown, first)
                return
            self._hold(x, _terms(x, unknown), first)
        except Inseparable as failure:
            where = f" ({x.loc})" if x.loc is not None else ""
            waits = f"sweep {first + 1}: {expression(x, budget=BRIEF)}{where} waits for sweep {first}: {failure}"
            self.reasons.append(waits)
            self._hold(x, _terms(x, frozenset()), first + 1)

    def _hold(self, x: Node, terms: list[Term], number: int) -> None:
        self._held([y for t in terms for y in (t.d, t.u) if y is not None], number)
        self.level[x], self.terms[x] = number, terms

    def _held(self, rows: list[Node], number: int) -> None:
        """Reductions that the algebra brought in join the sweep: of known values."""
        for y in topological(rows):
            if is_reduction(y) and y not in self.level:
                self._hold(y, _terms(y, frozenset()), number)

    def _form(self, x: Node, unknown: frozenset[Node], number: int) -> None:
        """An extreme of a mixed value: the extremes of known values join the sweep."""
        form = extreme(x, unknown)
        self._held([form], number)
        self.forms[x], self.level[x] = form, number


def _is_extreme(x: Node) -> bool:
    return x.op == "reduce" and x["how"] != "sum" and x.dtype == "float"


def _terms(x: Node, unknown: frozenset[Node]) -> list[Term]:
    if x.op == "attend":
        weights, values = (separate(y, unknown) for y in x.operands)
        if any(t.e is not None or t.d is not None for t in values):
            v = x.operands[1]
            if reads(v, unknown):
                raise Inseparable("NONHOM", v)
            values = [Term(k=v)]
        return [outside(t) for t in products(x, weights, values)]
    if x["how"] == "sum" and x.dtype == "float":
        return [outside(t) for t in separate(x.operands[0], unknown)]
    if any(y in unknown for y in topological(x.operands)):
        raise Inseparable("MONO" if x["how"] != "sum" else "NONHOM", x.operands[0])
    return [Term(k=x.operands[0])]


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
