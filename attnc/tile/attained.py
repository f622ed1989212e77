"""Lowering of sums over the keys at which a maximum or minimum of the sweep is attained: they are dropped where it moves."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.ir.graph import Graph, Node, const, node, substitute, topological
from attnc.passes.monotone import COMBINE
from attnc.passes.plan_sweeps import Accumulator
from attnc.passes.stabilise import ROW_AXES, value
from attnc.tile.features import Names
from attnc.tile.program import Reduce, RowMap, SetRow, Statement


def compared(graph: Graph) -> frozenset[Node]:
    """Values with whose extremes over the keys something is compared: these must be the same numbers."""
    comparisons = [x for x in topological(graph.outputs) if x.op in ("eq", "ne", "lt", "le")]
    extremes = [
        y for x in comparisons for y in x.operands if y.op == "reduce" and y["axis"] == "j" and y["how"] != "sum"
    ]
    return frozenset(y.operands[0] for y in extremes)


class Attained:
    """Of one body: the extreme with this tile comes first, then what is summed where it is attained, then the extreme is set."""

    def __init__(self, names: Names, sweep: Iterable[Accumulator], out: list[Statement]) -> None:
        self.names, self.out = names, out
        tops = {a.top for a in sweep if a.top is not None}
        self.extremes = {a: top for top in tops for a in sweep if (a.how, a.k) == (top["how"], top.operands[0])}
        self.of = {top: a for a, top in self.extremes.items()}
        self.new: dict[Node, Node] = {}
        self.same_as: dict[Node, str] = {}

    def begin(self, a: Accumulator, k: Node) -> None:
        """The extreme with this tile."""
        part, new = self.names.fresh("t"), self.names.fresh("n")
        self.out.append(Reduce(part, a.how, k))
        self.out.append(RowMap(new, node(COMBINE[a.how], _row(a.name, k.dtype), _row(part, k.dtype))))
        self.new[self.extremes[a]] = _row(new, k.dtype)

    def known(self, a: Accumulator, k: Node) -> Node:
        """What a sums, compared with the extreme that has come to be."""
        return k if a.top is None else substitute([k], {self._old(a.top): self.new[a.top]})[0]

    def kept(self, a: Accumulator, old: Node) -> Node:
        """The sum so far, or 0."""
        return old if a.top is None else node("where", self._stays(a.top), old, const(0 if old.dtype == "int" else 0.0))

    def same(self, a: Accumulator) -> str | None:
        """The row that is 1 where the extreme stays, else 0."""
        if a.top is None:
            return None
        if a.top not in self.same_as:
            name = self.same_as[a.top] = self.names.fresh("same")
            self.out.append(RowMap(name, node("where", self._stays(a.top), const(1.0), const(0.0))))
        return self.same_as[a.top]

    def end(self) -> None:
        """The extremes are set."""
        self.out += [SetRow(self.of[top].name, new) for top, new in self.new.items()]

    def _old(self, top: Node) -> Node:
        return _row(self.of[top].name, top.dtype)

    def _stays(self, top: Node) -> Node:
        return node("eq", self._old(top), self.new[top])


def _row(name: str, kind: str) -> Node:
    return value(name, ROW_AXES, kind)
