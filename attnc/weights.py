"""The attention matrix of a kernel, or a window of it: its outputs for the columns of V = identity, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.dsl.place import here
from attnc.dsl.signature import Operand
from attnc.errors import OutputError, ShapeError
from attnc.interp import Array
from attnc.ir.graph import Graph, Node, topological

COLUMNS = 64  # of the identity per call: one kernel serves every length


@dataclass(frozen=True, slots=True)
class Window:
    """Queries and keys of an attention matrix; rows is None for all queries."""

    rows: range | None
    cols: range
    layout: str

    @classmethod
    def of(cls, q: Array, k: Array, layout: str, rows: Any = None, cols: Any = None) -> Window:
        """As the caller names them. ShapeError: steps, or places that do not exist."""
        queries = None if rows is None else _chosen("rows", rows, q.shape[_length(q, layout)])
        return cls(queries, _chosen("cols", cols, k.shape[_length(k, layout)]), layout)

    def queries(self, q: Array) -> Array:
        """Those of the window."""
        if self.rows is None:
            return q
        return q[(slice(None),) * _length(q, self.layout) + (slice(self.rows.start, self.rows.stop),)]

    def weights(self, call: Callable[[Array, Array], Array], q: Array, k: Array) -> Array:
        """(B,Hq,rows,cols) in q's dtype and rank: `call` runs the variant on the queries and on columns of the identity as V."""
        q, n = self.queries(q), len(self.cols)
        parts = [call(q, v) for v in identity(k, self.layout, self.cols) if q.size]
        result = np.concatenate(parts, axis=-1)[..., :n] if parts else np.zeros((*q.shape[:-1], n), q.dtype)
        turned = self.layout == "blhd" and result.ndim > 2
        return np.ascontiguousarray(np.moveaxis(result, -3, -2) if turned else result)


def _length(x: Array, layout: str) -> int:
    """The axis of queries or keys."""
    return x.ndim - 3 if layout == "blhd" and x.ndim > 2 else x.ndim - 2


def _chosen(name: str, given: Any, n: int) -> range:
    """A slice or range of n places."""
    if given is None:
        return range(n)
    found = range(*given.indices(n)) if isinstance(given, slice) else given
    if not isinstance(found, range) or found.step != 1 or (len(found) and not 0 <= found.start < found.stop <= n):
        raise ShapeError(
            f"{name} = {given!r} of weights",
            where=here(),
            cause=f"a window is made of neighbours among {n} places",
            cure=f"pass a slice or a range without steps, for instance {name}=slice(0, 64)",
        )
    return range(found.start, max(found.start, found.stop))


def identity(k: Array, layout: str, keys: range) -> Iterator[Array]:
    """V like k with the columns of the identity for some keys, COLUMNS at a time."""
    axis = _length(k, layout)
    n = k.shape[axis]
    for start in range(keys.start, keys.stop, COLUMNS):
        block = np.zeros((n, COLUMNS), k.dtype)
        chosen = np.arange(start, min(start + COLUMNS, keys.stop))
        block[chosen, chosen - start] = 1
        shape = [1] * k.ndim
        shape[axis], shape[-1] = n, COLUMNS
        yield np.broadcast_to(block.reshape(shape), (*k.shape[:-1], COLUMNS))


def check_inputs(name: str, known: Mapping[str, Operand], q: Array, k: Array, operands: Iterable[str]) -> None:
    """ShapeError: q and k of different rank. OutputError: an operand that fits one width of V."""
    if q.ndim != k.ndim:
        raise ShapeError(
            "Q and K of different rank",
            where=here(),
            cause=f"their shapes are {q.shape} and {k.shape}",
            cure="give both the same number of dimensions",
        )
    narrow = [x for x in operands if x in known and "e" in known[x].axes]
    if narrow:
        raise OutputError(
            f"weights of {name}",
            where=here(),
            cause=f"they are the output for V = identity, as wide as there are keys; {narrow[0]!r} fits one width of V",
            cure="look at a variant without that operand",
        )


def check_linear(graph: Graph) -> None:
    """OutputError unless the graph has one output, which is linear in v."""
    if len(graph.outputs) == 1 and "e" in graph.outputs[0].axes and linear(graph.outputs[0]):
        return
    raise OutputError(
        f"weights of {graph.name}",
        cause="its output is not linear in v" if len(graph.outputs) == 1 else "it has several outputs",
        cure="weights are the output for V = identity: look at a variant that returns weights @ v",
    )


def linear(x: Node) -> bool:
    """Whether x is proved linear in v."""
    if x.op == "role":
        return bool(x["name"] == "v")
    reads = [reads_v(o) for o in x.operands]
    if x.op in ("mul", "attend", "dot", "project"):
        return sum(reads) == 1 and all(linear(o) for o, r in zip(x.operands, reads, strict=True) if r)
    if x.op == "div":
        return not reads[1] and linear(x.operands[0])
    if x.op in ("add", "sub"):
        return all(reads) and all(map(linear, x.operands))
    if x.op in ("neg", "cast") or (x.op == "reduce" and x["how"] == "sum"):
        return linear(x.operands[0])
    if x.op == "where":
        return not reads[0] and all(linear(o) or (o.op == "const" and o["value"] == 0) for o in x.operands[1:])
    return False


def reads_v(x: Node) -> bool:
    """Whether x depends on v."""
    return any(y.op == "role" and y["name"] == "v" for y in topological([x]))
