"""Plan -> tile program: every sweep's sums, maxima and products, its running exponents, and what is stored in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from attnc.errors import UnsupportedError
from attnc.ir.graph import Node, const, node, rewrite, substitute
from attnc.passes.base2 import LN2, LOG2E, base2
from attnc.passes.expand import feature_axes
from attnc.passes.fold import fold_node, op
from attnc.passes.plan_sweeps import Accumulator, Plan
from attnc.passes.reassociate import Irreducible, reassociate
from attnc.passes.stabilise import ROW_AXES, Stabiliser, value
from attnc.passes.term import apart, product
from attnc.tile import centred
from attnc.tile.attained import Attained, compared
from attnc.tile.classes import classify, needs
from attnc.tile.features import Names, Scope, sides
from attnc.tile.past import Past
from attnc.tile.program import (
    DotAcc,
    Keys,
    Map,
    Program,
    Reduce,
    RowMap,
    SetRow,
    State,
    Statement,
    Step,
    Store,
    reads,
)
from attnc.tile.reassociated import past

PAIR = ("b", "h", "i", "j")
MINUS = const(-math.inf)
ZERO = const(0.0)
INT64 = {"max": -(2**63), "min": 2**63 - 1, "sum": 0}
COMBINE = {"sum": "add", "max": "maximum", "min": "minimum"}
FLOAT = {"max": -math.inf, "min": math.inf, "sum": 0.0}


def lower(plan: Plan) -> Program:
    """The tile program of a plan. UnsupportedError names what no sweep can hold."""
    return _Lowering(plan).run()


class _Lowering:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.stabiliser, self.names = plan, Stabiliser(plan), Names()
        self.steps: list[Step] = []
        self.known: dict[Node, Node] = {}
        self.compared = compared(plan.graph)

    def run(self) -> Program:
        for number, sweep in enumerate(self.plan.sweeps):
            self.steps += self._sweep(number, sweep)
        stores: list[Step] = []
        for index, output in enumerate(self.plan.graph.outputs):
            rows: list[Statement] = []
            scope = Scope(self.names, rows, self.known)
            graph = scope.lower(self.stabiliser.row(output))
            if graph.dtype != "float":
                graph = op_cast(graph)
            features = sorted(feature_axes(graph))
            self.steps += rows  # type: ignore[arg-type]
            stores.append(Store(index, features[0] if features else None, graph))
        return Program(self.plan.graph.name, _alive((*self.steps, *stores)), self.plan.reasons, *self._linear())

    def _linear(self) -> tuple[Past | None, str]:
        """What the sweep takes from keys that all queries of a tile see; or why it must visit them."""
        try:
            linear = reassociate(self.plan)
        except Irreducible as failure:
            return None, str(failure)
        states = {a.e: _running(name) for a, name in self.stabiliser.exponents.items() if a.e is not None}
        return past(linear, states, self.names, self.known), ""

    def _sweep(self, number: int, sweep: tuple[Accumulator, ...]) -> list[Step]:
        rows: list[Statement] = []
        scope = Scope(self.names, rows, self.known)
        classes = classify(sweep)
        exponents = {a.e: self.stabiliser.exponents[a] for a in sweep if a.e is not None}
        partial = self._body(scope.inside(), sweep, exponents, {})
        full: tuple[Statement, ...] = ()
        if classes.decided:
            full = self._body(scope.inside(), sweep, exponents, dict.fromkeys(classes.decided, const(True)))
            if classes.certain.op == "const" and classes.certain["value"]:
                partial = ()
        elif not any(map(needs, sweep)):
            full, partial = partial, ()
        certain = classes.certain if full else const(False)
        states = [State(_running(name), -math.inf, "float") for name in exponents.values()]
        tops = [a for a in sweep if self._is_top(a, exponents)]
        states += [replace(_state(a), name=_base2(a)) if a in tops else _state(a) for a in sweep]
        undecided = any(c not in classes.decided for a in sweep for c in needs(a))
        c = classes
        tiles = (c.cut_i, c.cut_j, c.run, c.hull, c.implied)
        keys = Keys(number, tuple(states), c.possible, certain, full, partial, undecided, *tiles)
        shifts: list[Step] = []
        units = {name: const(1.0 if name in self.stabiliser.natural else LN2) for name in exponents.values()}
        for name, unit in units.items():
            shifts += [
                RowMap(name, op("mul", shift(row(_running(name))), unit)),
                RowMap(f"{name}_2", shift(row(_running(name)))),
            ]
        shifts += [RowMap(a.name, op("mul", row(_base2(a)), units[exponents[a.k]])) for a in tops if a.k is not None]
        return [*rows, keys, *shifts]  # type: ignore[list-item]

    def _body(
        self,
        scope: Scope,
        sweep: tuple[Accumulator, ...],
        exponents: dict[Node, str],
        true: dict[Node, Node],
    ) -> tuple[Statement, ...]:
        """One body: scores, then running maxima, then weights and sums, then products."""
        assert scope.keys is not None
        first: list[Statement] = scope.keys
        maxima: list[Statement] = []
        sums: list[Statement] = []
        products: list[Statement] = []
        running = {
            e: self._exponent(scope, self._prepare(scope, e, true), name, maxima) for e, name in exponents.items()
        }
        based = centred.bases(sweep)
        self._moments(scope, sweep, running, true, sums)
        attained = Attained(scope.local_names, sweep, sums)
        for a in sweep:
            if a.moment is not None or a in based:
                continue
            known = running.get(a.e) if a.e is not None else None
            w, scale = (known.weights, known.scale) if known is not None else (None, None)
            if a in attained.extremes:
                assert a.k is not None
                attained.begin(a, self._prepare(scope, a.k, true))
            elif a.k is not None and self._is_top(a, exponents):
                self._top(scope, a, running[a.k], sums)
            elif a.features:
                products.append(self._product(scope, a, w, scale, true, sums, attained))
            else:
                self._scalar(scope, a, w, scale, true, sums, attained)
        attained.end()
        return (*first, *maxima, *sums, *products)

    def _moments(
        self,
        scope: Scope,
        sweep: tuple[Accumulator, ...],
        running: Mapping[Node, Running],
        true: dict[Node, Node],
        out: list[Statement],
    ) -> None:
        """Sums about centres, and those that these are moved by."""
        terms: dict[Accumulator, Node] = {}
        deviations: dict[Accumulator, Node] = {}
        steps: dict[Accumulator, str] = {}
        for a in (*centred.bases(sweep), *(a for a in sweep if a.moment is not None)):
            factor = a.k if a.moment is None else a.moment.weight
            k = self._prepare(scope, factor, true) if factor is not None else None
            e = running[a.e] if a.e is not None else None
            w = e.weights if e is not None else None
            terms[a] = product(w, k) or const(1.0)
            if a.moment is None:
                continue
            x = a.moment.x
            if a.moment.first is not None:
                deviations[a] = self._prepare(scope, x, true)
                continue
            assert e is not None and a.e is not None
            deviations[a] = centred.relative(x, a.e, e.pair, row(e.rho), lambda y: self._prepare(scope, y, true))
            steps[a] = e.step
        scales = {a: running[a.e].scale if a.e is not None else None for a in terms}
        centred.emit(sweep, terms, deviations, scales, steps, scope.local_names.fresh, out)

    def _prepare(self, scope: Scope, x: Node, true: dict[Node, Node]) -> Node:
        """x as an elementwise graph over pair tiles, columns and hoisted rows."""
        x = scope.lower(self._known(x, true))
        if feature_axes(x):
            raise UnsupportedError(
                "a feature vector where a number per pair is needed",
                where=x.loc,
                cause=f"{x!r} varies over {sorted(feature_axes(x))}",
                cure="reduce it over its feature axis first",
            )
        return scope.hoist(x)

    def _known(self, x: Node, true: dict[Node, Node]) -> Node:
        """x with finished reductions as values of accumulators, and with the masks that this body knows to be true."""
        (known,) = substitute([self.stabiliser.pair(x)], true)
        return rewrite([known], fold_node)[0]

    def _exponent(self, scope: Scope, e: Node, name: str, out: list[Statement]) -> Running:
        """Running maximum in base 2, shift and rescaling factor of the sums over exp(e).

        Where sums of e itself are asked for, the maximum is that of e, and what is taken to base 2 is the difference: it is exact.
        """
        fresh, state = scope.local_names.fresh, _running(name)
        plain = name in self.stabiliser.natural
        e, masked = (e, -math.inf) if plain else base2(e)
        tile, top, new, old = fresh("E"), fresh("t"), fresh("n"), row(state)
        pair = value(tile, PAIR)
        out.append(Map(tile, e))
        out.append(Reduce(top, "max", pair, drop_nan=True))
        greatest = row(top)
        if masked > -math.inf:
            greatest = node("where", node("le", greatest, const(masked)), MINUS, greatest)
        out.append(RowMap(new, op("maximum", old, greatest)))
        rho, alpha, weight = fresh("rho"), fresh("alpha"), fresh("P")
        out.append(RowMap(rho, shift(row(new))))
        # a weight, not exp2: it never underflows to 0, which would make NaN of an infinity that is already summed
        if not plain:
            out.append(RowMap(alpha, node("weight", old, row(rho), MINUS)))
            out.append(SetRow(state, row(new)))
            out.append(Map(weight, node("weight", pair, row(rho), const(masked))))
            return Running(value(weight, PAIR), alpha, pair, masked, rho)
        power, step = fresh("D"), fresh("d")
        out.append(RowMap(alpha, node("weight", _power(old, row(rho)), ZERO, MINUS)))
        out.append(RowMap(step, op("sub", shift(old), row(rho))))
        out.append(SetRow(state, row(new)))
        out.append(Map(power, _power(pair, row(rho))))
        out.append(Map(weight, node("weight", value(power, PAIR), ZERO, MINUS)))
        return Running(value(weight, PAIR), alpha, pair, masked, rho, step)

    def _is_top(self, a: Accumulator, exponents: Mapping[Node, str]) -> bool:
        """Whether it is the maximum of the exponent of a sum of the sweep; not where it is compared with what it is of."""
        return a.how == "max" and a.k in exponents and a.k not in self.compared

    def _top(self, scope: Scope, a: Accumulator, e: Running, out: list[Statement]) -> None:
        """The maximum of an exponent, NaN kept: of the same numbers as its running maximum, so that their difference is exact."""
        part, masked = scope.local_names.fresh("t"), e.masked
        out.append(Reduce(part, "max", e.pair))
        greatest = row(part)
        if masked > -math.inf:
            greatest = node("where", node("le", greatest, const(masked)), MINUS, greatest)
        out.append(SetRow(_base2(a), node("maximum", row(_base2(a)), greatest)))

    def _scalar(
        self,
        scope: Scope,
        a: Accumulator,
        w: Node | None,
        scale: str | None,
        true: dict[Node, Node],
        out: list[Statement],
        attained: Attained,
    ) -> None:
        k = attained.known(a, self._prepare(scope, a.k, true)) if a.k is not None else None
        term = k if w is None else w if k is None else node("mul", w, k)
        assert term is not None
        part = scope.local_names.fresh("t")
        kind = term.dtype
        out.append(Reduce(part, a.how, term))
        old = row(a.name, kind)
        kept = node("mul", row(scale), old) if scale is not None else attained.kept(a, old)
        out.append(SetRow(a.name, node(COMBINE[a.how], kept, row(part, kind))))

    def _product(
        self,
        scope: Scope,
        a: Accumulator,
        w: Node | None,
        scale: str | None,
        true: dict[Node, Node],
        out: list[Statement],
        attained: Attained,
    ) -> Statement:
        assert a.k is not None
        (feature,) = a.features
        if a.how != "sum":
            raise UnsupportedError(
                f"the {a.how} over the keys of feature vectors",
                where=a.k.loc,
                cause=f"{a.k!r} keeps {feature!r}",
                cure="sum them, or reduce a number per pair",
            )
        pair, vector = apart(a.k)
        if vector is None or "i" in vector.axes:
            raise UnsupportedError(
                "a sum over the keys of features that vary over the query too",
                where=a.k.loc,
                cause=f"{a.k!r} is no product of a weight [i j] and values [j {feature}]",
                cure="keep the weights and the values apart: weights @ v",
            )
        factor = attained.known(a, self._prepare(scope, pair, true)) if pair is not None else None
        term = w if factor is None else factor if w is None else node("mul", w, factor)
        if term is None:
            term = const(1.0)
        if term.op != "value" or sides(term) != "ij":
            name = scope.local_names.fresh("P")
            out.append(Map(name, term))
            term = value(name, PAIR)
        values = scope.features(scope.lower(self._known(vector, true)))
        return DotAcc(
            a.name, term["name"], values["name"], feature, scale or attained.same(a), a.skip_zero, a.top is not None
        )


@dataclass(frozen=True, slots=True)
class Running:
    """The weights exp(e - shift) of an exponent, the factor of the sums so far, e in base 2 and what of it is masked, the row that
    is its shift, and where that is asked for, the one that is the shift before less that.
    """

    weights: Node
    scale: str
    pair: Node
    masked: float
    rho: str
    step: str = ""


def _alive(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Without row expressions that nothing reads."""
    kept: list[Step] = []
    read: set[str] = set()
    for step in reversed(steps):
        if isinstance(step, RowMap) and step.name not in read:
            continue
        inner = (*step.full, *step.partial) if isinstance(step, Keys) else (step,)
        read = read.union(*map(reads, inner))
        kept.append(step)
    return tuple(reversed(kept))


def _running(exponent: str) -> str:
    return "m" + exponent.removeprefix("shift")


def _base2(a: Accumulator) -> str:
    return f"{a.name}_2"


def _state(a: Accumulator) -> State:
    kind = "float" if a.k is None or a.e is not None else a.k.dtype
    features = sorted(a.features)
    initial = INT64[a.how] if kind == "int" else FLOAT[a.how]
    about = a.moment and tuple([y.name for y in (a.moment.below[0], a.moment.first) if y is not None])
    return State(a.name, initial, kind, features[0] if features else None, about or ())


def row(name: str, kind: str = "float") -> Node:
    """The leaf of a row."""
    return value(name, ROW_AXES, kind)


def _power(e: Node, m: Node) -> Node:
    """e - m in base 2."""
    return op("mul", op("sub", e, m), const(LOG2E))


def shift(m: Node) -> Node:
    """What exponents are taken relative to: the maximum, or 0 while nothing came."""
    return node("where", node("eq", m, MINUS), ZERO, m)


def op_cast(x: Node) -> Node:
    """x as a float."""
    return node("cast", x, kind="float")
