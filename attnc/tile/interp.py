"""The NumPy interpreter of tile programs: the same statements, states and classes as a kernel, one work item after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from attnc.interp import ELEMENTWISE, Array, Inputs, Interpreter, Value, align, canonical, contract
from attnc.ir.graph import Node, node, topological
from attnc.tile.merge import split
from attnc.tile.program import (
    PART,
    Dot,
    DotAcc,
    FeatureReduce,
    Keys,
    Load,
    Map,
    Merge,
    Program,
    Reduce,
    RowMap,
    Save,
    SetRow,
    Statement,
    Step,
    Store,
    graphs,
)
from attnc.tile.regions import Classifier

Rules = Mapping[str, Callable[..., Any]]
REDUCE: dict[str, Callable[..., Any]] = {"sum": np.sum, "max": np.max, "min": np.min}
KINDS = {"bool": np.bool_, "int": np.int64}
B, H, I, J = (node("index", name=name) for name in "bhij")
Q, K, V = (node("role", name=name) for name in "qkv")
Orders = dict[Node, tuple[list[Node], list[Node]]]


def run(
    program: Program,
    inputs: Inputs,
    *,
    dtype: Any = np.float64,
    tile: tuple[int, int] = (4, 4),
    rules: Rules | None = None,
    part: int | Sequence[int] | None = None,
    linear: bool = False,
) -> list[Array]:
    """The outputs, (B,Hq,Lq) or (B,Hq,Lq,F), as `attnc.interp.interpret` gives them.

    tile: rows and keys of a tile. rules: replacements for entries of `attnc.interp.ELEMENTWISE`. part: keys of a part, whole
    tiles, or where parts end, where their states are merged (`attnc.tile.merge.split`). linear: with the past of the program.
    """
    x = inputs.extents
    features = {**x, **_feature_extents(program, inputs)}
    parts: dict[tuple[int, int, int, int], Array] = {}
    stores = [s for s in program.steps if isinstance(s, Store)]
    everything = {**ELEMENTWISE, **(rules or {})}
    judges = {keys.number: Classifier(keys, inputs, np.dtype(dtype), everything) for keys in program.sweeps}
    make: Callable[..., Item] = Item
    if linear:
        from attnc.tile.interp_past import follow

        make = follow(program)
    orders: Orders = {}
    for b, h, i0 in itertools.product(range(x["batch"]), range(x["heads"]), range(0, x["q_len"], tile[0])):
        rows = (i0, min(i0 + tile[0], x["q_len"]))
        item = make(inputs, np.dtype(dtype), (b, h), rows, tile[1], everything, features, judges, orders)
        item.run(program, part)
        for s in stores:
            parts[s.index, b, h, i0] = item.outputs[s.index]
    return [_assemble(parts, s.index, x, tile[0]) for s in stores]


def _feature_extents(program: Program, inputs: Inputs) -> dict[str, int]:
    """Extents of the feature axes that operands bring in."""
    nodes = topological(g for s in program.statements() for g in graphs(s))
    tables = [x for x in nodes if x.op == "gather" and x["features"]]
    return {
        axis: n
        for x in tables
        for axis, n in zip(x["features"], np.shape(inputs.operands[x["name"]])[-len(x["features"]) :], strict=True)
    }


def _assemble(parts: Mapping[tuple[int, int, int, int], Array], index: int, x: Mapping[str, int], rows: int) -> Array:
    starts = range(0, x["q_len"], rows)
    return np.stack(
        [
            np.stack([np.concatenate([parts[index, b, h, i0] for i0 in starts], axis=0) for h in range(x["heads"])])
            for b in range(x["batch"])
        ]
    )


class Item:
    """One work item: a tile of rows of one head. orders: what is under each graph, and the values among it; items add theirs."""

    def __init__(
        self,
        inputs: Inputs,
        dtype: np.dtype[Any],
        head: tuple[int, int],
        rows: tuple[int, int],
        keys: int,
        rules: Rules,
        features: Mapping[str, int],
        judges: Mapping[int, Classifier],
        orders: Orders,
    ) -> None:
        self.inputs, self.dtype, self.rows, self.tile = inputs, dtype, rows, keys
        self.rules, self.judges, self.orders = rules, judges, orders
        self.extents, self.features = inputs.extents, features
        self.b, self.h = head
        self.values: dict[str, Value] = {}
        self.span = (0, self.extents["kv_len"])
        self.saved: list[dict[str, Value]] = []
        self.outputs: dict[int, Array] = {}
        self.fixed = {
            B: Value(np.array([self.b]), ("b",)),
            H: Value(np.array([self.h]), ("h",)),
            I: Value(np.arange(*rows), ("i",)),
            Q: self._vectors(inputs.q, self.h, rows, "i", "d"),
        }

    def _vectors(self, x: Array, head: int, span: tuple[int, int], axis: str, feature: str) -> Value:
        b = self.b if x.shape[0] > 1 else 0
        data = x[b : b + 1, head : head + 1, span[0] : span[1]].astype(self.dtype)
        return Value(data, ("b", "h", axis, feature))

    def set_keys(self, start: int, stop: int) -> None:
        """The tile of keys that is worked on."""
        head = self.h // self.extents["group"]
        self.fixed[J] = Value(np.arange(start, stop), ("j",))
        for role, x, feature in ((K, self.inputs.k, "d"), (V, self.inputs.v, "e")):
            self.fixed[role] = self._vectors(x, head, (start, stop), "j", feature)

    def evaluate(self, graph: Node, axes: str | tuple[str, ...]) -> Value:
        """The graph with the values so far, broadcast to (b, h, *axes)."""
        if graph not in self.orders:
            order = topological([graph])
            self.orders[graph] = order, [x for x in order if x.op == "value"]
        order, leaves = self.orders[graph]
        bindings = dict(self.fixed)
        for leaf in leaves:
            known = self.values.get(leaf["name"])
            if known is not None and (leaf["axes"], leaf["kind"]) == (known.axes, _kind(known)):
                bindings[leaf] = known
        run = Interpreter(self.inputs, self.dtype, *self.rows, bindings=bindings, rules=self.rules)
        x = run.run([graph], order)[0]
        full = canonical({"b", "h", *axes, *x.axes})
        sizes = {
            "i": self.rows[1] - self.rows[0],
            "j": len(self.fixed[J].data) if "j" in full else 0,
        }
        data = align(x, full)
        shape = tuple(sizes.get(a, n) for a, n in zip(full, data.shape, strict=True))
        return Value(data if data.shape == shape else np.broadcast_to(data, shape), full)

    def run(self, program: Program, part: int | Sequence[int] | None) -> None:
        """Execute all steps, with the keys at once or in parts."""
        programs = split(program) if part is not None else None
        if part is None or programs is None:
            for step in program.steps:
                self.step(step)
            return
        first, last = programs
        ends = range(part, max(self.extents["kv_len"], 1) + part, part) if isinstance(part, int) else part
        for start, end in itertools.pairwise((0, *ends)):
            self.span = (start, end)
            for step in first.steps:
                self.step(step)
        for step in last.steps:
            self.step(step)

    def step(self, step: Step) -> None:
        """Execute one step."""
        match step:
            case Keys():
                self.sweep(step)
            case Save():
                self.saved.append({s.name: self.values[s.name] for s in step.states})
            case Merge():
                self._merge(step)
            case Store():
                axes = ("i",) if step.feature is None else ("i", step.feature)
                self.outputs[step.index] = self.evaluate(step.graph, axes).data[0, 0].astype(self.dtype)
            case _:
                self.statement(step)

    def sweep(self, keys: Keys) -> None:
        """A sweep over the keys in the span."""
        self.begin(keys)
        outside = dict(self.values)
        for start, stop, full in self._tiles(keys):
            self.set_keys(start, stop)
            for statement in keys.full if full else keys.partial:
                self.statement(statement)
            kept = {s.name for s in keys.states} | set(outside)
            self.values = {name: x for name, x in self.values.items() if name in kept}

    def begin(self, keys: Keys) -> None:
        """The states before the first key."""
        rows = self.rows[1] - self.rows[0]
        for s in keys.states:
            kind = KINDS.get(s.kind, self.dtype)
            shape = (1, 1, rows) if s.feature is None else (1, 1, rows, self.features[s.feature])
            axes = ("b", "h", "i") if s.feature is None else ("b", "h", "i", s.feature)
            self.values[s.name] = Value(np.full(shape, s.initial, kind), axes)

    def _merge(self, merge: Merge) -> None:
        """The states of all keys from those that were saved."""
        for join in merge.joins:
            name, terms = join.state.name, []
            for part in self.saved:
                self.values |= {f"{other}{PART}": x for other, x in part.items()}
                x = part[name].data
                if join.graph is not None:
                    graph = self.evaluate(join.graph, "i").data
                    x = graph if join.term is not None else _scaled(x, graph, join.state.feature, join.drop)
                terms.append(x)
            axes = self.saved[0][name].axes
            self.values[name] = Value(np.asarray(REDUCE[join.how](np.stack(terms), axis=0), terms[0].dtype), axes)

    def _tiles(self, keys: Keys) -> Iterator[tuple[int, int, bool]]:
        """Where the tiles that are not empty start and stop, and whether the full body runs."""
        first, last = self.span[0], min(self.span[1], self.extents["kv_len"])
        start = np.arange(first, last, self.tile)
        stop = np.minimum(start + self.tile, last)
        b, h, i0, i1 = (np.full(len(start), x) for x in (self.b, self.h, self.rows[0], self.rows[1] - 1))
        possible, full = self.judges[keys.number](b, h, i0, i1, start, stop - 1)
        return zip(start[possible].tolist(), stop[possible].tolist(), full[possible].tolist(), strict=True)

    def statement(self, s: Statement) -> None:
        """Execute one statement."""
        match s:
            case Load():
                self.values[s.name] = self.evaluate(s.graph, (s.side, s.feature))
            case RowMap():
                self.values[s.name] = self.evaluate(s.graph, "i")
            case SetRow():
                self.values[s.state] = self.evaluate(s.graph, "i")
            case Map():
                self.values[s.name] = self.evaluate(s.graph, "ij")
            case Reduce():
                self.values[s.name] = self._over_keys(s)
            case FeatureReduce():
                x = self.evaluate(s.graph, (*s.axes, s.feature))
                n = self._size(s.feature, x)
                data = np.broadcast_to(x.data, (*x.data.shape[:-1], n))
                self.values[s.name] = Value(REDUCE[s.how](data, axis=-1), x.axes[:-1])
            case Dot():
                self.values[s.name] = contract(self.values[s.rows], self.values[s.keys], s.feature)
            case DotAcc():
                self._accumulate(s)

    def _size(self, feature: str, x: Value) -> int:
        shown: int = x.data.shape[-1]
        return max(self.features.get(feature, 1), shown)

    def _over_keys(self, s: Reduce) -> Value:
        x = self.evaluate(s.graph, "ij")
        if s.drop_nan:
            return Value(np.fmax.reduce(x.data, axis=-1, initial=-np.inf), x.axes[:-1])
        return Value(np.asarray(REDUCE[s.how](x.data, axis=-1), x.data.dtype), x.axes[:-1])

    def _accumulate(self, s: DotAcc) -> None:
        weights, values, old = self.values[s.weights], self.values[s.values], self.values[s.accumulator]
        if s.scale is not None:
            old = Value(_scaled(old.data, self.values[s.scale].data, s.feature, s.drop), old.axes)
        w, v = weights.data[..., None], values.data[:, :, None]
        with np.errstate(all="ignore"):
            terms = np.where(w == 0, 0, w * v) if s.skip_zero else w * v
            total = old.data + terms.sum(axis=3)
        self.values[s.accumulator] = Value(total, old.axes)


def _scaled(x: Array, scale: Array, feature: str | None, drop: bool) -> Array:
    """x times a number of the row; where `drop`, 0 leaves nothing."""
    if feature is not None:
        scale = scale[..., None]
    with np.errstate(all="ignore"):
        return np.where(scale == 0, 0, scale * x).astype(x.dtype) if drop else x * scale


def _kind(x: Value) -> str:
    return {"b": "bool", "i": "int"}.get(x.data.dtype.kind, "float")
