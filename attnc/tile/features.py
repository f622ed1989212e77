"""Lowering of expressions: feature vectors become loads, reductions over them become statements, the rest stays elementwise."""

from __future__ import annotations

from collections.abc import Callable

from attnc.errors import UnsupportedError
from attnc.ir.graph import Node, node, rebuild, topological
from attnc.ir.ops import OPS
from attnc.passes.canonicalise import simplify
from attnc.passes.expand import feature_axes
from attnc.passes.stabilise import value
from attnc.tile.program import Dot, FeatureReduce, Load, RowMap, Statement

LEAVES = ("const", "scalar", "extent", "index", "value")


def sides(x: Node) -> str:
    """Which of the pair's indices x varies over: '', 'i', 'j' or 'ij'."""
    return "".join(a for a in "ij" if a in x.axes)


class Names:
    """Fresh names. Those of a sweep's body are its own: row statements use other stems (Q, x, row, r)."""

    def __init__(self, used: dict[str, int] | None = None) -> None:
        self.used = dict(used or {})

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem2`, `stem3` ... where taken."""
        count = self.used[stem] = self.used.get(stem, 0) + 1
        return stem if count == 1 else f"{stem}{count}"


class Scope:
    """Where statements go: `rows` for what is free of j, `keys` for the rest (None: no keys here)."""

    def __init__(self, names: Names, rows: list[Statement], known: dict[Node, Node]) -> None:
        self.names, self.rows, self.known = names, rows, known
        self.keys: list[Statement] | None = None
        self.local_names = names
        self.local: dict[Node, Node] = {}
        self.hoisted: dict[Node, Node] = {}

    def inside(self) -> Scope:
        """The scope of one body of a sweep: row statements still go outside it."""
        scope = Scope(self.names, self.rows, self.known)
        scope.keys = []
        scope.local_names = Names()
        return scope

    def place(self, x: Node, make: Callable[[], tuple[Statement, Node]]) -> Node:
        """The value leaf of x, made once."""
        outside = "j" not in x.axes
        table = self.known if outside else self.local
        if x not in table:
            statement, leaf = make()
            target = self.rows if outside else self.keys
            assert target is not None, f"{x!r} varies over keys outside a sweep"
            target.append(statement)
            table[x] = leaf
        return table[x]

    def lower(self, x: Node) -> Node:
        """x as an elementwise graph over value leaves; emits the statements that it needs."""
        done: dict[Node, Node] = {}
        for y in topological([x]):
            done[y] = self._lower(y, [done[operand] for operand in y.operands])
        return done[x]

    def _lower(self, x: Node, operands: list[Node]) -> Node:
        if x.op in LEAVES or OPS[x.op].elementwise or x.op == "gather":
            return simplify(rebuild(x, operands)) if operands else x
        again = rebuild(x, operands)
        if x.op == "role":
            return self._load(x, x["name"].upper())
        if x.op == "project":
            return self._project(again)
        if x.op == "dot":
            a, b = operands
            return self._reduce(again, "sum", x["axis"], [a, b])
        if x.op == "reduce" and x["axis"] != "j":
            body = operands[0]
            factors = list(body.operands) if body.op == "mul" and x["how"] == "sum" else [body]
            return self._reduce(again, x["how"], x["axis"], factors)
        raise AssertionError(f"{x.op} reached the lowering")

    def _load(self, x: Node, stem: str) -> Node:
        (feature,) = feature_axes(x)
        side = sides(x) or "i"

        def make() -> tuple[Statement, Node]:
            name = self.local_names.fresh("y" if stem == "x" else stem) if side == "j" else self.names.fresh(stem)
            axes = ("b", "h", side, feature)
            return Load(name, side, feature, x), value(name, axes)

        if side == "i" and "i" not in x.axes:  # an operand's features, the same for every row
            return x if x.op != "project" else self.place(x, make)
        return self.place(x, make)

    def features(self, x: Node) -> Node:
        """x, elementwise over features of one side, as one loaded value (operands' own vectors stay as they are)."""
        if x.op == "value" or not (set(sides(x))):
            return x
        return self._load(x, "x")

    def _project(self, x: Node) -> Node:
        vector, matrix = x.operands
        if sides(x) == "ij":
            raise UnsupportedError(
                "a projection of features that vary over query and key",
                where=x.loc,
                cause=f"{x!r} would need a matrix product per pair",
                cure="project q and k apart, before they are combined: q @ W + k @ W",
            )
        if sides(matrix) and sides(matrix) != sides(vector):
            raise UnsupportedError(
                "a matrix that varies over the other side",
                where=x.loc,
                cause=f"{matrix!r} varies over {sides(matrix)!r}",
                cure="index the matrix by b and h only",
            )
        return self._load(node("project", self.features(vector), matrix, **dict(x.attrs)), "x")

    def _reduce(self, x: Node, how: str, axis: str, factors: list[Node]) -> Node:
        """A reduction over a feature axis: a matrix product where it is a sum of (row feature) x (key feature)."""
        found = sides(x)
        if len(feature_axes(x)):
            raise UnsupportedError(
                "a reduction of values with two feature axes",
                where=x.loc,
                cause=f"{x!r} keeps {sorted(feature_axes(x))}",
                cure="use x @ W with a matrix operand",
            )
        if found == "ij" and how == "sum" and len(factors) == 2:
            a, b = factors if sides(factors[1]) == "j" else factors[::-1]
            if sides(a) == "i" and sides(b) == "j" and feature_axes(a) == feature_axes(b) == {axis}:
                return self._dot(x, a, b, axis)
        body = factors[0]
        for other in factors[1:]:
            body = node("mul", body, other)

        def make() -> tuple[Statement, Node]:
            graph = self._split(body, {}) if found == "ij" else body
            name = self.local_names.fresh("S" if "i" in found else "col") if "j" in found else self.names.fresh("row")
            axes = found or "i"
            return FeatureReduce(name, axes, how, axis, graph), value(name, ("b", "h", *axes), x.dtype)

        return self.place(x, make)

    def _dot(self, x: Node, a: Node, b: Node, axis: str) -> Node:
        rows, keys = self.features(a), self.features(b)

        def make() -> tuple[Statement, Node]:
            name = self.local_names.fresh("S")
            return Dot(name, rows["name"], keys["name"], axis), value(name, ("b", "h", "i", "j"))

        return self.place(node("dot", rows, keys, axis=axis), make)

    def _split(self, x: Node, done: dict[Node, Node]) -> Node:
        """The body of a feature reduction over loaded features: what belongs to one side is loaded as a whole."""
        if x not in done:
            done[x] = self._split_new(x, done)
        return done[x]

    def _split_new(self, x: Node, done: dict[Node, Node]) -> Node:
        if x.op in LEAVES or x.op == "gather":
            if x.op == "gather" and feature_axes(x) and sides(x):
                return self.features(x)
            return x
        if feature_axes(x) and len(sides(x)) == 1 and x.dtype == "float":
            return self.features(x)
        if not feature_axes(x):
            return self.hoist(x)
        return rebuild(x, [self._split(y, done) for y in x.operands])

    def hoist(self, x: Node) -> Node:
        """Row expressions inside a pair expression become row statements, computed once per tile of rows."""
        if x.op in LEAVES or not x.operands or "i" not in x.axes:
            return x
        if x not in self.hoisted:
            alone = sides(x) == "i" and not feature_axes(x)
            self.hoisted[x] = self.row(x) if alone else rebuild(x, [self.hoist(y) for y in x.operands])
        return self.hoisted[x]

    def row(self, x: Node) -> Node:
        """The leaf of a row expression."""
        if x.op in LEAVES:
            return x

        def make() -> tuple[Statement, Node]:
            name = self.names.fresh("r")
            return RowMap(name, x), value(name, ("b", "h", "i"), x.dtype)

        return self.place(x, make)
