"""The attention matrix of a kernel: its outputs for the columns of V = identity, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from attnc.dsl.place import here
from attnc.dsl.signature import Operand
from attnc.errors import OutputError, ShapeError
from attnc.interp import Array
from attnc.ir.graph import Graph, Node, topological

COLUMNS = 64  # of the identity per call: one kernel serves every length


def weights(call: Callable[[Array], Array], q: Array, k: Array, layout: str) -> Array:
    """(B,Hq,Lq,Lk) in q's dtype and rank: `call` runs the variant on some columns of the identity as V."""
    parts = [call(v) for v in identity(k, layout)]
    n = k.shape[_keys(k, layout)]
    result = np.concatenate(parts, axis=-1)[..., :n] if parts else np.zeros((*q.shape[:-1], 0), q.dtype)
    return np.ascontiguousarray(np.moveaxis(result, -3, -2) if layout == "blhd" and result.ndim > 2 else result)


def _keys(k: Array, layout: str) -> int:
    return k.ndim - 3 if layout == "blhd" and k.ndim > 2 else k.ndim - 2


def identity(k: Array, layout: str) -> Iterator[Array]:
    """V like k with the columns of the identity, COLUMNS at a time."""
    axis = _keys(k, layout)
    n = k.shape[axis]
    for start in range(0, n, COLUMNS):
        block = np.zeros((n, COLUMNS), k.dtype)
        chosen = np.arange(start, min(start + COLUMNS, n))
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
    reads = [_reads_v(o) for o in x.operands]
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


def _reads_v(x: Node) -> bool:
    return any(y.op == "role" and y["name"] == "v" for y in topological([x]))
