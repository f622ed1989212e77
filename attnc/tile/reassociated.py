"""The linear form of a sweep, as `attnc.passes.reassociate` finds it, in statements of the tile program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from attnc.ir.graph import Node, const, node, rebuild, substitute
from attnc.passes.base2 import base2
from attnc.passes.bound import corner
from attnc.passes.fold import op
from attnc.passes.plan_sweeps import Accumulator
from attnc.passes.reassociate import Exponent, I, J, Linear, Product
from attnc.passes.stabilise import ROW_AXES, value
from attnc.passes.term import addition, conjunction, product
from attnc.tile.features import Names, Scope
from attnc.tile.past import I0, SEEN, WAS, Column, Outer, Past, Power, Share
from attnc.tile.program import FeatureReduce, Load, RowMap, Statement

MINUS, ZERO, ONE = const(-math.inf), const(0.0), const(1.0)
KEY = ("b", "h", "j")


def past(linear: Linear, states: Mapping[Node, str], names: Names, known: Mapping[Node, Node]) -> Past:
    """states: the running maximum of each exponent. names, known: those of the rows before the sweep."""
    return _Lowering(linear, states, names, known).run()


class _Lowering:
    def __init__(self, linear: Linear, states: Mapping[Node, str], names: Names, known: Mapping[Node, Node]) -> None:
        self.linear, self.states = linear, states
        self.rows: list[Statement] = []
        self.scope = Scope(names, self.rows, dict(known)).inside()
        self.numbers = {e: n for n, e in enumerate(linear.exponents)}
        self.weights = {e: self.scope.local_names.fresh("W") for e in linear.exponents}
        self.made: dict[Node, Load | Column] = {}
        self.outers: dict[tuple[object, ...], Outer] = {}

    def run(self) -> Past:
        powers = tuple(self._power(e, x) for e, x in self.linear.exponents.items())
        shares = tuple(self._share(a) for a in self.linear.sums)
        (last,) = substitute([self.linear.last], {I: corner(I0)})
        loads = cast("list[Load | FeatureReduce]", self.scope.keys)
        rows = cast("list[Load | FeatureReduce | RowMap]", self.rows)
        made, outers = tuple(self.made.values()), tuple(self.outers.values())
        return Past(last, tuple(loads), powers, made, outers, tuple(rows), shares)

    def _power(self, e: Node, x: Exponent) -> Power:
        """Exponents of keys relative to the key `seen`, and what each row has for that key."""
        at_seen = None if x.both is None else substitute([x.both], {J: corner(SEEN)})[0]
        near, moved = (None if x.both is None else gap(x.both, place, corner(SEEN)) for place in (J, corner(WAS)))
        parts = [base2(part) if part is not None else (None, -math.inf) for part in (x.key, near)]
        keys = addition(*(part for part, _ in parts)) or ZERO
        rows = addition(*(part and base2(part)[0] for part in (x.row, at_seen))) or ZERO
        fresh, masked = self.scope.local_names.fresh, parts[0][1]
        lowered = self.scope.lower(_masked(keys, x.masks.keys, MINUS))
        own = lowered, masked, fresh("power"), self.weights[e], base2(moved)[0] if moved is not None else ZERO
        return Power(self.states[e], *own, self._row(_masked(rows, x.masks.rows, MINUS)))

    def _share(self, a: Accumulator) -> Share:
        terms, vector = self.linear.sums[a]
        (out,) = a.features or (None,)
        return Share(
            a.name,
            out,
            tuple((self._query(t), self._outer(a, t, vector, out)) for t in terms),
            self.numbers[a.e] if a.e is not None else None,
        )

    def _query(self, t: Product) -> str:
        """The rows of a term: features, or a number."""
        row = self.scope.lower(t.row) if t.row is not None else None
        if t.rows is None:
            return self._row(_masked(row or ONE, t.masks.rows, ZERO))
        features = _masked(_times(row, self.scope.lower(t.rows)), t.masks.rows, ZERO)
        return str(self.scope.features(features)["name"])

    def _row(self, x: Node) -> str:
        """The name of a row."""
        x = self.scope.lower(x)
        if x.op == "value" and x.axes == frozenset(ROW_AXES):
            return str(x["name"])
        found = next((s for s in self.rows if isinstance(s, RowMap) and s.graph == x), None)
        if found is None:
            found = RowMap(self.scope.names.fresh("r"), x)
            self.rows.append(found)
        return found.name

    def _outer(self, a: Accumulator, t: Product, vector: Node | None, out: str | None) -> Outer:
        masks = t.masks.keys
        weight = value(self.weights[a.e], KEY) if a.e is not None else None
        if a.e is not None:
            masks = (*masks, *(c for c in self.linear.exponents[a.e].masks.keys if c not in masks))
        number = product(weight, self.scope.lower(t.key) if t.key is not None else None)
        graph = _times(number, self.scope.lower(t.keys)) if t.keys is not None else number or ONE
        keys = self._made(_masked(graph, masks, ZERO), t.axis)
        values = None
        if vector is not None:
            values = self._made(_masked(self.scope.lower(vector), masks, ZERO), out)
        power = self.numbers[a.e] if a.e is not None else None
        key = keys, t.axis, values, power
        if key not in self.outers:
            name = self.scope.local_names.fresh("H" if values is not None else "z")
            self.outers[key] = Outer(name, keys, t.axis, values, out if values is not None else None, power)
        return self.outers[key]

    def _made(self, x: Node, feature: str | None) -> str:
        """The name of features of the keys, or of a column."""
        axes = KEY if feature is None else (*KEY, feature)
        if x.op == "value" and x.axes == frozenset(axes):
            return str(x["name"])
        if x not in self.made:
            if feature is None:
                self.made[x] = Column(self.scope.local_names.fresh("c"), x)
            else:
                self.made[x] = Load(self.scope.local_names.fresh("y"), "j", feature, x)
        return self.made[x].name


def gap(x: Node, place: Node, other: Node) -> Node | None:
    """x at key `place` less x at key `other`, where x is f(i) + g(j): f cancels, and integers are subtracted as such. None for 0."""
    if "j" not in x.axes:
        return None
    parts = [gap(y, place, other) for y in x.operands]
    match x.op:
        case "add":
            return addition(*parts)
        case "sub":
            return addition(parts[0], parts[1] and op("neg", parts[1]))
        case "neg":
            return parts[0] and op("neg", parts[0])
        case "cast" if x.operands[0].dtype == "int":
            return parts[0] and rebuild(x, [parts[0]])
        case "mul" | "div" if not {"i", "j"} & frozenset.intersection(*(y.axes for y in x.operands)):
            return rebuild(x, [part or y for part, y in zip(parts, x.operands, strict=True)])
    return op("sub", *(substitute([x], {J: key})[0] for key in (place, other)))


def _times(number: Node | None, features: Node) -> Node:
    return features if number is None else op("mul", features, number)


def _masked(x: Node, masks: tuple[Node, ...], otherwise: Node) -> Node:
    """x where all masks hold: what they hide may be NaN."""
    return node("where", conjunction(list(masks)), x, otherwise) if masks else x
