"""Sums of the weights over the queries, one number for each key: a sweep over the queries of every key.

The weights are read off an output that is linear in v. What they need of finished rows (a softmax's maximum and denominator) is computed
first, by a kernel of its own, as one number for each query. The sum over i is then an attention the other way round: keys are its queries,
queries its keys, and the finished rows tables that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attnc.dsl.signature import Operand, Signature
from attnc.errors import OutputError, UnsupportedError
from attnc.interp import Array
from attnc.ir.graph import Graph, Node, const, node, rebuild, rewrite, substitute, topological
from attnc.passes.expand import exponent, feature_axes, is_reduction
from attnc.weights import reads_v

MINUS, ZERO, ONE = const(float("-inf")), const(0.0), const(1.0)
SWAPPED = {"i": "j", "j": "i", "q": "k", "k": "q", "q_len": "kv_len", "kv_len": "q_len"}


@dataclass(frozen=True, slots=True)
class Columns:
    """rows: what is computed for each query, None where nothing is needed. keys: the sum for each key, of a call the other way round.

    signature: of that call; its operands are the variant's, `group` and the `tables` of finished rows.
    """

    rows: Graph | None
    keys: Graph
    signature: Signature
    group: str
    tables: tuple[str, ...]


def columns(graph: Graph, signature: Signature) -> Columns:
    """For a graph with one output, linear in v. OutputError: the weights differ from feature to feature. UnsupportedError."""
    (out,) = graph.outputs
    (weight,) = rewrite([weight_of(out)], _shares)
    if feature_axes(weight):
        raise OutputError(
            f"column sums of {graph.name}",
            cause=f"its weights vary over {sorted(feature_axes(weight))}: a key has no one weight",
            cure="look at a variant that returns weights @ v",
        )
    rows = _finished(weight)
    taken = {*signature.operands, *(a for x in signature.operands.values() for a in x.axes)}
    group, heads = _fresh("group", taken), _fresh("key_head", taken)
    tables = tuple(_fresh(f"row{n}", taken) for n in range(len(rows)))
    swap = _Swap(group, heads)
    leaves = {y: _table(y, name) for y, name in zip(rows, tables, strict=True)}
    (weight,) = substitute([weight], leaves)
    (total,) = rewrite([node("reduce", weight, how="sum", axis="i")], swap.node)
    keys = replace(graph, outputs=(total,), name=f"{graph.name}, column sums", tuple_output=False)
    operands = {name: replace(x, axes=swap.axes(x.axes)) for name, x in signature.operands.items()}
    operands[group] = Operand(group, "scalar", "int", (), int, 1)
    for y, name in zip(rows, tables, strict=True):
        operands[name] = Operand(name, "tensor", "float", ("b", "h", "j", *sorted(feature_axes(y))), None, None)
    outputs = tuple(y if y.dtype == "float" else node("cast", y, kind="float") for y in rows)
    first = replace(graph, outputs=outputs, name=f"{graph.name}, rows", tuple_output=True) if rows else None
    return Columns(first, keys, Signature(signature.roles, operands), group, tables)


def weight_of(x: Node) -> Node:
    """What an expression that is linear in v multiplies v with, for each pair."""
    parts = [weight_of(y) if reads_v(y) else y for y in x.operands]
    match x.op:
        case "role":
            return ONE
        case "attend":
            return node("mul", *parts)
        case "mul" | "div" | "add" | "sub" | "neg" | "where":
            return rebuild(x, parts)
        case "reduce" if x["axis"] == "j":
            return parts[0]
        case "cast":
            return parts[0]
    raise OutputError(
        "column sums of an output that mixes features",
        where=x.loc,
        cause=f"{x!r} is made of the features of v, not of weights @ v alone",
        cure="look at a variant that returns weights @ v",
    )


def _shares(x: Node) -> Node:
    """A softmax relative to its maximum, which is a finished row."""
    if x.op != "softmax":
        return x
    e = exponent(x)
    top = node("reduce", e, how="max", axis="j")
    if x["sink"]:
        top = node("maximum", top, x.operands[-1])
    top = node("where", node("eq", top, MINUS), ZERO, top)
    total = node("reduce", node("exp", node("sub", e, top)), how="sum", axis="j")
    if x["sink"]:
        total = node("add", total, node("exp", node("sub", x.operands[-1], top)))
    inverse = node("where", node("eq", total, ZERO), ZERO, node("div", ONE, total))
    return node("where", node("eq", e, MINUS), ZERO, node("mul", node("exp", node("sub", e, top)), inverse))


def _finished(weight: Node) -> list[Node]:
    """The largest parts that are free of j and hold a reduction over the keys."""
    reads: dict[Node, bool] = {}
    for y in topological([weight]):
        reads[y] = is_reduction(y) or any(reads[o] for o in y.operands)
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = [weight]
    while stack:
        y = stack.pop()
        if y in seen or not reads[y]:
            continue
        seen.add(y)
        if "j" in y.axes:
            stack += y.operands
        elif y.dtype == "int":
            raise UnsupportedError(
                "column sums of weights that count keys", where=y.loc, cause=f"{y!r} is whole", cure="make it a float"
            )
        else:
            found[y] = None
    return list(found)


def _table(y: Node, name: str) -> Node:
    indices = [node("index", name=axis) for axis in ("b", "h", "i")]
    features = tuple(sorted(feature_axes(y)))
    table = node("gather", *indices, name=name, dims=("b", "h", "i", *features), features=features, kind="float")
    return node("ne", table, ZERO) if y.dtype == "bool" else table


@dataclass(frozen=True, slots=True)
class _Swap:
    """Queries and keys change places. group: the operand for that extent; heads: the axis of tables of key-value heads."""

    group: str
    heads: str

    def axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.heads if a == "g" else SWAPPED[a] if a in "ij" else a for a in axes)

    def node(self, x: Node) -> Node:
        if x.op == "extent" and x["name"] == "group":
            return node("scalar", name=self.group, kind="int")
        if x.op in ("role", "index", "extent"):
            return node(x.op, name=SWAPPED.get(x["name"], x["name"]), loc=x.loc)
        if x.op == "gather":
            return node("gather", *x.operands, loc=x.loc, **{**dict(x.attrs), "dims": self.axes(x["dims"])})
        if x.op == "reduce" and x["axis"] == "i":
            return node("reduce", *x.operands, loc=x.loc, **{**dict(x.attrs), "axis": "j"})
        return x


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def turned(q: Array, k: Array) -> tuple[Array, Array]:
    """Q and K (B,H,L,D) the other way round: a head of keys for each query head."""
    group = q.shape[1] // k.shape[1]
    keys = np.repeat(k, group, axis=1) if group > 1 else k
    return np.broadcast_to(keys, (q.shape[0], *keys.shape[1:])), q
