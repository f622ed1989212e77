"""The NumPy interpreter: it evaluates a graph densely, node by node, in blocks of query rows. It says what is right."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.extreme import extreme
from attnc.ir.graph import Graph, Node, topological
from attnc.ir.ops import INDEX_AXES

Array = NDArray[Any]
MASKED = -1e38  # a score at or below this, or -inf, is masked (so that finfo.min masks behave)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arrays of one call, normalised: q (B,Hq,Lq,D), k (B|1,Hkv,Lk,D), v (B|1,Hkv,Lk,E) and the operands by name.

    features: the extents of the operands' own feature axes.
    """

    q: Array
    k: Array
    v: Array
    operands: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, int] = field(default_factory=dict)

    @property
    def extents(self) -> dict[str, int]:
        """Every named extent of the call."""
        return {
            "batch": self.q.shape[0], "heads": self.q.shape[1], "q_len": self.q.shape[2], "kv_len": self.k.shape[2],
            "group": self.q.shape[1] // self.k.shape[1], "d": self.q.shape[3], "e": self.v.shape[3],
            **self.features,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """An array with named axes in canonical order (b h i j, then features by name); extents may be 1 (broadcast)."""

    data: Array
    axes: tuple[str, ...]


def parts(operands: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of the arrays among operands, and the scalars."""
    shapes = {name: x.shape for name, x in operands.items() if isinstance(x, np.ndarray)}
    return shapes, {name: x for name, x in operands.items() if name not in shapes}


def canonical(axes: frozenset[str] | set[str]) -> tuple[str, ...]:
    """The order of axes in every Value."""
    return _canonical(frozenset(axes))


@functools.cache
def _canonical(axes: frozenset[str]) -> tuple[str, ...]:
    return tuple(a for a in INDEX_AXES if a in axes) + tuple(sorted(a for a in axes if a not in INDEX_AXES))


def align(x: Value, axes: tuple[str, ...]) -> Array:
    """x's data with an extent of 1 at each of `axes` it does not have."""
    if x.axes == axes:
        return x.data
    shape = dict(zip(x.axes, x.data.shape, strict=True))
    return x.data.reshape([shape.get(a, 1) for a in axes])


def _floordiv(a: Array, b: Array) -> Array:
    if a.dtype.kind != "f":
        return np.where(b == 0, 0, np.floor_divide(a, np.where(b == 0, 1, b)))
    return np.asarray(np.floor_divide(a, b))


def _mod(a: Array, b: Array) -> Array:
    if a.dtype.kind != "f":
        return np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b)))
    return np.asarray(np.mod(a, b))


def _shift(a: Array, n: Array, left: bool) -> Array:
    inside = (n >= 0) & (n < 64)
    count = np.where(inside, n, 0)
    return np.where(inside, a << count, 0) if left else np.where(inside, a >> count, np.where(a < 0, -1, 0))


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64))).astype(x.dtype)


def _alive(power: Array, masked: Array) -> Array:
    """A power that is 0 only where masked: a live weight never underflows to 0, so that 0 means masked."""
    return np.asarray(np.where(masked, 0, np.maximum(power, np.finfo(power.dtype).tiny)))


def _weight(x: Array, r: Array, m: Array) -> Array:
    return _alive(np.exp2(x - r), x <= m)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "log1p": np.log1p, "tanh": np.tanh, "sigmoid": _sigmoid,
    "erf": _erf, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos, "floor": np.floor,
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "div": np.divide, "pow": np.power, "floordiv": _floordiv, "mod": _mod, "minimum": np.minimum, "maximum": np.maximum,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert, "shl": lambda a, n: _shift(a, n, True), "shr": lambda a, n: _shift(a, n, False),
    "where": np.where, "weight": _weight,
}  # fmt: skip
_REDUCE: dict[str, tuple[Callable[..., Any], float]] = {
    "sum": (np.sum, 0.0),
    "max": (np.max, -math.inf),
    "min": (np.min, math.inf),
}


def contract(x: Value, y: Value, axis: str, reverse: bool = False) -> Value:
    """Sum over `axis` of x*y as one batched matrix product; `reverse`: from the last term to the first."""
    n = max(x.data.shape[x.axes.index(axis)], y.data.shape[y.axes.index(axis)])
    common = [a for a in x.axes if a in y.axes and a != axis]
    left = [a for a in x.axes if a not in y.axes]
    right = [a for a in y.axes if a not in x.axes]

    def arrange(v: Value, order: list[str], rows: list[str]) -> Array:
        data = v.data.transpose([v.axes.index(a) for a in order])
        shape = dict(zip(v.axes, v.data.shape, strict=True))
        batch = [shape[a] for a in common]
        count = math.prod(shape[a] for a in rows)
        flat = data.reshape([*batch, count, shape[axis]])
        flat = np.broadcast_to(flat, (*batch, count, n))
        return np.ascontiguousarray(flat[..., ::-1]) if reverse else flat

    a = arrange(x, [*common, *left, axis], left)
    b = arrange(y, [*common, *right, axis], right)
    product = np.matmul(a, np.swapaxes(b, -1, -2))
    sizes = {**dict(zip(y.axes, y.data.shape, strict=True)), **dict(zip(x.axes, x.data.shape, strict=True))}
    order = [*common, *left, *right]
    batch = product.shape[: len(common)]
    result = product.reshape([*batch, *(sizes[a] for a in left), *(sizes[a] for a in right)])
    axes = canonical(set(order))
    return Value(result.transpose([order.index(a) for a in axes]), axes)


def denominator(scores: Array, mask: Array | None, sink: Array | None, j: int) -> tuple[Array, Array, Array]:
    """The masked weights exp(s - m) along axis j, their sum with the sink's, and m (0 for an empty row)."""
    live = ~(scores <= MASKED)
    if mask is not None:
        live = live & mask
    s = np.where(live, scores, -np.inf)
    top = np.fmax.reduce(s, axis=j, keepdims=True, initial=-np.inf)
    if sink is not None:
        top = np.fmax(top, sink)
    top = np.where(np.isneginf(top) | np.isnan(top), 0, top)
    whole = s.dtype == top.dtype and all(n in (1, m) for n, m in zip(top.shape, s.shape, strict=True))
    s = np.subtract(s, top, out=s if whole else None)  # in place: most of the time would go to fresh memory
    weights = np.exp(s, out=s)
    np.maximum(weights, np.finfo(weights.dtype).tiny, out=weights)  # as `_alive`
    np.copyto(weights, 0, where=~live)
    total = np.sum(weights, axis=j, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink - top)
    return weights, total, top


class Interpreter:
    """Evaluates the nodes of a graph for the query rows [start, stop)."""

    def __init__(
        self,
        inputs: Inputs,
        dtype: Any,
        start: int,
        stop: int,
        rounding: Any = None,
        bindings: Mapping[Node, Value] | None = None,
        rules: Mapping[str, Callable[..., Any]] = ELEMENTWISE,
        reverse: bool = False,
    ) -> None:
        self.inputs, self.dtype, self.start, self.stop = inputs, np.dtype(dtype), start, stop
        self.rounding, self.rules, self.reverse = rounding, rules, reverse
        self.extents = inputs.extents
        self.values: dict[Node, Value] = dict(bindings or {})

    def run(self, nodes: Sequence[Node], order: Sequence[Node] | None = None) -> list[Value]:
        """Evaluate nodes and everything under them; order: `topological(nodes)`, where that is known."""
        with np.errstate(all="ignore"):
            for x in topological(nodes) if order is None else order:
                if x not in self.values:
                    self.values[x] = self._round(self._evaluate(x))
        return [self.values[x] for x in nodes]

    def _round(self, x: Value) -> Value:
        if self.rounding is None or x.data.dtype.kind != "f":
            return x
        with np.errstate(all="ignore"):
            rounded = x.data.astype(self.rounding).astype(self.dtype)
        infinite = np.isinf(rounded)
        if np.count_nonzero(infinite):
            rounded = np.where(infinite & np.isfinite(x.data), x.data, rounded)
        return Value(rounded, x.axes)

    def _evaluate(self, x: Node) -> Value:
        operands = [self.values[o] for o in x.operands]
        axes = canonical(x.axes)
        if x.op in self.rules:
            return Value(np.asarray(self.rules[x.op](*(align(o, axes) for o in operands))), axes)
        rule: Callable[[Node, list[Value]], Value] = getattr(self, f"_{x.op}")
        return rule(x, operands)

    def _const(self, x: Node, operands: list[Value]) -> Value:
        return Value(np.asarray(x["value"], {"bool": np.bool_, "int": np.int64, "float": self.dtype}[x["kind"]]), ())

    def _scalar(self, x: Node, operands: list[Value]) -> Value:
        kind = {"bool": np.bool_, "int": np.int64, "float": self.dtype}[x["kind"]]
        return Value(np.asarray(self.inputs.operands[x["name"]], kind), ())

    def _extent(self, x: Node, operands: list[Value]) -> Value:
        return Value(np.asarray(self.extents[x["name"]], np.int64), ())

    def _index(self, x: Node, operands: list[Value]) -> Value:
        name = x["name"]
        extents = {"b": self.extents["batch"], "h": self.extents["heads"], "j": self.extents["kv_len"]}
        span = np.arange(self.start, self.stop) if name == "i" else np.arange(extents[name])
        return Value(span.astype(np.int64), (name,))

    def _role(self, x: Node, operands: list[Value]) -> Value:
        name = x["name"]
        if name == "q":
            return Value(self.inputs.q[:, :, self.start : self.stop].astype(self.dtype), ("b", "h", "i", "d"))
        data = (self.inputs.k if name == "k" else self.inputs.v).astype(self.dtype)
        if self.extents["group"] > 1:
            data = np.repeat(data, self.extents["group"], axis=1)
        return Value(data, ("b", "h", "j", "d" if name == "k" else "e"))

    def _table(self, x: Node) -> Array:
        """The operand that a gather or extreme reads, in its kind; never empty."""
        table = np.asarray(self.inputs.operands[x["name"]])
        table = table.astype({"bool": np.bool_, "int": np.int64, "float": self.dtype}[x["kind"]], copy=False)
        if table.size == 0:  # no keys, or no queries: nothing live reads it
            table = np.zeros([max(n, 1) for n in table.shape], table.dtype)
        return table

    def _gather(self, x: Node, operands: list[Value]) -> Value:
        table = self._table(x)
        index_axes = canonical(frozenset().union(*(o.axes for o in operands))) if operands else ()
        index = tuple(
            np.clip(align(o, index_axes), 0, table.shape[n] - 1)
            if table.shape[n] > 1
            else np.zeros_like(align(o, index_axes))
            for n, o in enumerate(operands)
        )
        data = table[index] if index else table
        features: tuple[str, ...] = x["features"]
        if len(set(features)) < len(features):  # a square matrix: kept as is for project
            return Value(data, (*index_axes, *(f"{f}'{n}" if n else f for n, f in enumerate(features))))
        have = (*index_axes, *features)
        axes = canonical(x.axes)
        return Value(data.transpose([have.index(a) for a in axes]), axes)

    def _extreme(self, x: Node, operands: list[Value]) -> Value:
        axes = canonical(x.axes)
        ends = np.broadcast_arrays(*(align(o, axes) for o in operands))
        varying = [n for n, pair in enumerate(zip(x.operands[::2], x.operands[1::2], strict=True)) if len({*pair}) > 1]
        lows, highs = ([end.ravel() for end in ends[side::2]] for side in (0, 1))
        found = extreme(self._table(x), x["how"], x["axis"], varying, lows, highs)
        return Value(found.reshape(ends[0].shape), axes)

    def _cast(self, x: Node, operands: list[Value]) -> Value:
        (a,) = operands
        kind = {"bool": np.bool_, "int": np.int64, "float": self.dtype}[x["kind"]]
        return Value(a.data.astype(kind), a.axes)

    def _dot(self, x: Node, operands: list[Value]) -> Value:
        return contract(operands[0], operands[1], x["axis"], self.reverse)

    def _project(self, x: Node, operands: list[Value]) -> Value:
        a, matrix = operands
        inner, outer = x["contract"], x["result"]
        fresh = f"{outer}'1" if inner == outer else outer
        product = contract(a, Value(matrix.data, matrix.axes), inner, self.reverse)
        if fresh != outer:
            names = [outer if n == fresh else n for n in product.axes]
            axes = canonical(set(names))
            return Value(product.data.transpose([names.index(n) for n in axes]), axes)
        return product

    def _reduce(self, x: Node, operands: list[Value]) -> Value:
        (a,) = operands
        function, identity = _REDUCE[x["how"]]
        position = a.axes.index(x["axis"])
        n = self._size(x["axis"], a.data.shape[position])
        data = np.broadcast_to(a.data, (*a.data.shape[:position], n, *a.data.shape[position + 1 :]))
        if data.dtype.kind == "i" and x["how"] != "sum":
            limit = np.iinfo(np.int64)
            identity = limit.min if x["how"] == "max" else limit.max
        if self.reverse:
            data = np.flip(data, position)
        result = function(data, axis=position, initial=identity)
        return Value(np.asarray(result, data.dtype), tuple(n for n in a.axes if n != x["axis"]))

    def _size(self, axis: str, shown: int) -> int:
        return self.extents["kv_len"] if axis == "j" else max(self.extents.get(axis, 1), shown)

    def _score_parts(self, x: Node, operands: list[Value]) -> tuple[Array, Array | None, Array | None, tuple[str, ...]]:
        axes = canonical(x.axes | {"j"})
        position = axes.index("j")
        scores = align(operands[0], axes)
        n = self.extents["kv_len"]
        scores = np.broadcast_to(scores, (*scores.shape[:position], n, *scores.shape[position + 1 :]))
        mask = align(operands[1], axes) if x["masked"] else None
        sink = align(operands[-1], axes) if x["sink"] else None
        return scores, mask, sink, axes

    def _softmax(self, x: Node, operands: list[Value]) -> Value:
        scores, mask, sink, axes = self._score_parts(x, operands)
        weights, total, _ = denominator(scores, mask, sink, axes.index("j"))
        # Without a total, all weights are 0.
        return Value(np.divide(weights, np.where(total == 0, 1, total), out=weights), axes)

    def _lse(self, x: Node, operands: list[Value]) -> Value:
        scores, mask, sink, axes = self._score_parts(x, operands)
        _, total, top = denominator(scores, mask, sink, axes.index("j"))
        return Value(np.squeeze(top + np.log(total), axis=axes.index("j")), tuple(a for a in axes if a != "j"))

    def _attend(self, x: Node, operands: list[Value]) -> Value:
        w, v = operands
        n = self.extents["kv_len"]
        if "j" not in w.axes:
            axes = canonical({*w.axes, "j"})
            w = Value(
                np.broadcast_to(
                    align(w, axes), [n if a == "j" else s for a, s in zip(axes, align(w, axes).shape, strict=True)]
                ),
                axes,
            )
        if "j" not in v.axes:
            axes = canonical({*v.axes, "j"})
            v = Value(align(v, axes), axes)
        finite = np.isfinite(v.data)
        if finite.all():
            return contract(w, v, "j", self.reverse)
        clean = contract(w, Value(np.where(finite, v.data, 0).astype(self.dtype), v.axes), "j")
        axes = canonical({*w.axes, *v.axes})
        dirty = np.where(align(Value(finite, v.axes), axes), 0, align(v, axes))
        weights = align(w, axes)
        extra = np.where(weights == 0, 0, weights * dirty).sum(axis=axes.index("j"))
        return Value(np.asarray(clean.data + extra), clean.axes)


def row_block(inputs: Inputs, budget: int = 1 << 23) -> int:
    """How many query rows to evaluate at once so that one (b,h,i,j) array has at most `budget` elements."""
    extents = inputs.extents
    per_row = extents["batch"] * extents["heads"] * max(extents["kv_len"], extents["d"], extents["e"], 1)
    return max(1, min(extents["q_len"], budget // per_row))


def interpret(
    graph: Graph,
    inputs: Inputs,
    *,
    dtype: Any = np.float64,
    rounding: Any = None,
    reverse: bool = False,
    make: Callable[..., Interpreter] = Interpreter,
) -> list[Array]:
    """Evaluate the outputs of a graph densely.

    Returns, for each output, an array (B,Hq,Lq) or (B,Hq,Lq,F) in `dtype`. `rounding`: every node's result is rounded to this
    dtype; `reverse`: sums run from the last term to the first; `make`: another interpreter (for the naive programs of `verify`).
    """
    extents = inputs.extents
    length, step = extents["q_len"], row_block(inputs)
    parts: list[list[Array]] = []
    for start in range(0, length, step):
        run = make(inputs, dtype, start, min(start + step, length), rounding, reverse=reverse)
        values = run.run(graph.outputs)
        parts.append([_full(v, extents, min(step, length - start), dtype) for v in values])
    return [np.concatenate(column, axis=2) for column in zip(*parts, strict=True)]


def _full(x: Value, extents: Mapping[str, int], rows: int, dtype: Any) -> Array:
    features = [a for a in x.axes if a not in INDEX_AXES]
    axes = ("b", "h", "i", *features)
    data = align(x, axes)
    shape = (extents["batch"], extents["heads"], rows, *data.shape[3:])
    return np.broadcast_to(data, shape).astype(dtype)
