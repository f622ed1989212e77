"""Which reduction over the keys runs in which sweep, and what each sweep accumulates.

A reduction joins the sweep of the unfinished reductions in its body where `separate` frees the body of them; otherwise it waits
for them and costs one more sweep. What a sweep accumulates are sums of exp(e)*k, and maxima and minima.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnc.ir.graph import Graph, Node, topological
from attnc.ir.text import BRIEF, expression
from attnc.passes.expand import feature_axes, is_reduction
from attnc.passes.monotone import extreme
from attnc.passes.powers import centred, counted, same_for_all, weighted
from attnc.passes.separate import products, separate
from attnc.passes.support import divided, own_support
from attnc.passes.term import ONE, Inseparable, Power, Term, outside, plain, reads


@dataclass(frozen=True, slots=True)
class Moment:
    """What makes an accumulator a sum of exp(e) * weight * (x - centre)**n, n = len(below).

    below: the sums with the powers from 0 to n - 1. first: that of exp(e) * weight * x, which by below[0] is the mean, the centre;
    None: the centre is the running maximum of e.
    """

    x: Node
    weight: Node | None
    below: tuple[Accumulator, ...]
    first: Accumulator | None


@dataclass(frozen=True, slots=True)
class Accumulator:
    """One running value of a sweep: sum over j of exp(e)*k (with e None: of k), or max/min over j of k.

    top: the reduction, of the same sweep, that k compares with: what was summed is dropped when it moves.
    """

    name: str
    how: str
    e: Node | None
    k: Node | None
    skip_zero: bool = False  # a product of attend: a weight that is exactly zero contributes nothing
    moment: Moment | None = None
    top: Node | None = None

    @property
    def features(self) -> frozenset[str]:
        """Feature axes of the accumulated value."""
        return feature_axes(self.k) if self.k is not None else frozenset()


@dataclass(frozen=True, slots=True)
class Piece:
    """One term of a separated reduction: exp(d) * u * accumulator; None stands for the number of keys, the sum of 1.

    power: of a moment, the accumulator is the last of those for sums of exp(e) * weight * (x + row)**n.
    """

    accumulator: Accumulator | None
    d: Node | None
    u: Node | None
    power: Power | None = None


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
    costly: frozenset[Node] = frozenset()
    while True:
        plan = _Planner(graph, costly).run()
        more = too_wide(plan.pieces) - costly
        if not more:
            return plan
        costly |= more


class _Planner:
    """costly: reductions that do not join a sweep, since what they would accumulate there costs more than a further sweep."""

    def __init__(self, graph: Graph, costly: frozenset[Node] = frozenset()) -> None:
        self.graph, self.divided, self.costly = graph, divided(graph.outputs), costly
        self.level: dict[Node, int] = {}
        self.terms: dict[Node, list[Term]] = {}
        self.forms: dict[Node, Node] = {}
        self.reasons: list[str] = []

    def run(self) -> Plan:
        for x in topological(self.graph.outputs):
            if is_reduction(x):
                self._place(x)
        sums = _Sums(max(self.level.values(), default=-1) + 1)
        own = [self._own(n) for n in range(len(sums.sweeps))]
        pieces = {}
        for x, terms in self.terms.items():
            n = self.level[x]
            pieces[x] = tuple(sums.piece(x, own_support(t, own[n]), n) for t in terms)
        found = tuple(tuple(s.values()) for s in sums.sweeps)
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
            if x in self.costly:
                raise Inseparable("COST", x.operands[0])
            self._hold(x, _terms(x, unknown), first)
        except Inseparable as failure:
            where = f" ({x.loc})" if x.loc is not None else ""
            waits = f"sweep {first + 1}: {expression(x, budget=BRIEF)}{where} waits for sweep {first}: {failure}"
            self.reasons.append(waits)
            self._hold(x, _terms(x, frozenset()), first + 1)

    def _hold(self, x: Node, terms: list[Term], number: int) -> None:
        rows = [y for t in terms for y in (t.d, t.u, *_of_row(t)) if y is not None]
        self._held(rows, number)
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


def _of_row(t: Term) -> tuple[Node | None, ...]:
    return (t.about.row, t.about.only) if isinstance(t.about, Power) else ()


def _terms(x: Node, unknown: frozenset[Node]) -> list[Term]:
    terms = [same_for_all(outside(t)) for t in _separated(x, unknown)]
    for t in terms:
        if isinstance(t.about, Power) and (x.op == "attend" or not centred(t)):
            plain(t)
    return terms


def _separated(x: Node, unknown: frozenset[Node]) -> list[Term]:
    body = x.operands[0]
    if x.op == "attend":
        weights, values = (separate(y, unknown) for y in x.operands)
        if any(t.e is not None or t.d is not None for t in values):
            v = x.operands[1]
            if reads(v, unknown):
                raise Inseparable("NONHOM", v)
            values = [Term(k=v)]
        return products(x, weights, values)
    if x["how"] == "sum" and x.dtype == "float":
        return separate(body, unknown)
    if x["how"] == "sum" and (found := counted(body, unknown, separate)) is not None:
        return found
    if reads(body, unknown):
        raise Inseparable("MONO" if x["how"] != "sum" else "NONHOM", body)
    return [Term(k=body)]


class _Sums:
    """The accumulators of all sweeps, named as in the papers: l for sums of weights, acc for sums of vectors."""

    def __init__(self, count: int) -> None:
        self.sweeps: list[dict[tuple[object, ...], Accumulator]] = [{} for _ in range(count)]

    def piece(self, x: Node, t: Term, number: int) -> Piece:
        """A term of a reduction, accumulated in its sweep."""
        if isinstance(t.about, Power):
            return Piece(self._moment(t, t.about, number), t.d, t.u, t.about)
        if t.e is None and t.k is None:
            return Piece(None, t.d, t.u)
        how = "sum" if x.op == "attend" else str(x["how"])
        skip = x.op == "attend" and t.k is not None and bool(feature_axes(t.k))
        top = t.about.extreme if t.about is not None else None
        return Piece(self._found(number, how, t.e, t.k, skip, None, top), t.d, t.u)

    def _moment(self, t: Term, about: Power, number: int) -> Accumulator:
        """The sums of the powers about the centre, up to the term's own."""
        weight = t.k if t.e is not None or t.k is not None else ONE
        below = [self._found(number, "sum", t.e, weight)]
        k = weighted(t.k, about.x)
        first = self._found(number, "sum", t.e, k) if about.power > 1 else None
        for _ in range(about.power):
            moment = Moment(about.x, t.k, tuple(below), first)
            below.append(self._found(number, "sum", t.e, t.k if t.e is not None else k, False, moment))
        return below[-1]

    def _found(
        self,
        number: int,
        how: str,
        e: Node | None,
        k: Node | None,
        skip: bool = False,
        moment: Moment | None = None,
        top: Node | None = None,
    ) -> Accumulator:
        sweep, key = self.sweeps[number], (how, e, k, skip, moment, top)
        if key not in sweep:
            letter = how if how != "sum" else "acc" if k is not None and feature_axes(k) else "dev" if moment else "l"
            count = sum(a.name.rstrip("0123456789") == letter for s in self.sweeps for a in s.values()) + 1
            name = letter if count == 1 else f"{letter}{count}"
            sweep[key] = Accumulator(name, how, e, k, skip, moment, top)
        return sweep[key]


def too_wide(pieces: Mapping[Node, tuple[Piece, ...]]) -> frozenset[Node]:
    """Reductions with several accumulators of vectors that cost more than the scores of a further sweep, in which each needs one.

    A vector for each row costs a pair as many multiply-adds as a score of vectors. Numbers for each row cost nothing beside that.
    """
    vectors = {
        x: {p.accumulator for p in found if p.accumulator and p.accumulator.features} for x, found in pieces.items()
    }
    anyway = {a for found in vectors.values() if len(found) == 1 for a in found}
    several = {x: found - anyway for x, found in vectors.items() if len(found) > 1 and found - anyway}
    added = len({a for found in several.values() for a in found}) - len(several)
    scores = {y for y in topological(several) if _is_score(y)}
    return frozenset(several) if added > len(scores) else frozenset()


def _is_score(x: Node) -> bool:
    return {"i", "j"} <= x.axes and (x.op == "dot" or (x.op == "reduce" and x["axis"] != "j"))
