"""One random program: its source, its graph and the inputs of one call, all from a seed and a number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from attnc.dsl.trace import trace
from attnc.fuzz.scribe import Declared, Scribe, dtype_of
from attnc.fuzz.shape import LENGTHS, Shape, random_shape
from attnc.fuzz.variants import Variants
from attnc.interp import Array, Inputs
from attnc.ir.graph import Graph, topological
from attnc.runtime.binding import bind
from attnc.variant import Attention, with_lse

FEATURE = 2.0  # the bound of entries of q, k and v


@dataclass(frozen=True, slots=True)
class Case:
    """A program to try. `kinds`: its operand kinds, as rows of the coverage table."""

    name: str
    source: str
    variant: Attention
    graph: Graph
    inputs: Inputs
    operands: Mapping[str, Any]
    lse: bool
    tile: tuple[int, int]
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        shapes = " ".join(
            f"{n.upper()}{x.shape}" for n, x in (("q", self.inputs.q), ("k", self.inputs.k), ("v", self.inputs.v))
        )
        extra = ", with its lse" if self.lse else ""
        values = [f"#   {name}: {_brief(x)}" for name, x in self.operands.items()]
        return "\n".join([f"# {self.name}{extra}: {shapes}, tile {self.tile}", *values, "", self.source])


def make(
    seed: int, number: int, dtype: str = "float64", lengths: Sequence[int] = LENGTHS, dims: Sequence[int] = ()
) -> Case:
    """Program `number` of a seed; q, k and v in `dtype`, queries and keys of one of the `lengths`, features of one of `dims` if any."""
    rng = Random(f"attnc:{seed}:{number}")
    shape = random_shape(rng, lengths, dims)
    scribe = Scribe(rng, shape)
    outputs = Variants(scribe).write(rng.choices([1, 2, 3], [5, 3, 2])[0])
    name = f"fuzz_{seed}_{number}"
    source = _source(name, scribe, [x.text for x in outputs], rng)
    variant = compiled(name, source)
    q, k, v = _features(scribe, shape, dtype)
    operands = {o.name: o.value for o in scribe.operands if o.value is not None}
    bound = bind(variant.signature, q, k, v, operands)
    graph = trace(
        variant.function, variant.signature, kinds=bound.kinds, constants=bound.constants, absent=bound.absent
    )
    lse = sum(x.op == "softmax" for x in graph.nodes()) == 1 and rng.random() < 0.5
    kinds = _kinds(scribe, graph)
    return Case(
        name, source, variant, with_lse(graph) if lse else graph, bound.inputs, operands, lse, shape.tile, kinds
    )


def _kinds(scribe: Scribe, graph: Graph) -> tuple[str, ...]:
    """The operand kinds that the graph reads, or that decided it while it was traced."""
    nodes = graph.nodes()
    read = {x["name"] for x in nodes if x.op in ("gather", "scalar")}
    kinds = {
        kind
        for o in scribe.operands
        for kind in o.kinds
        if o.name in read or kind.startswith("const") or kind == "optional absent"
    }
    nested = any(x.op == "gather" and any(y.op == "gather" for y in topological(x.operands)) for x in nodes)
    return tuple(sorted(kinds | ({"nested gather"} if nested else set())))


def compiled(name: str, source: str) -> Attention:
    """The variant of that name in a source text."""
    import attnc

    namespace: dict[str, Any] = {"at": attnc}
    exec(compile(source, f"<{name}>", "exec"), namespace)
    variant: Attention = namespace[name]
    return variant


def _source(name: str, scribe: Scribe, outputs: list[str], rng: Random) -> str:
    result = ", ".join(outputs)
    if len(outputs) == 1 and rng.random() < 0.1:
        result += ","  # a tuple of one
    body = "\n".join(f"    {line}" for line in [*scribe.lines, f"return {result}"])
    roles = [role for role in "qkvbhij" if re.search(rf"\b{role}\b", body)]
    rng.shuffle(roles)
    parameters = ", ".join([*roles, *(["*"] if scribe.operands else []), *map(_parameter, scribe.operands)])
    return f"@at.attention\ndef {name}({parameters}):\n{body}\n"


def _parameter(o: Declared) -> str:
    return f"{o.name}: {o.annotation}" + (f" = {o.default}" if o.default else "")


def _features(scribe: Scribe, shape: Shape, dtype: str) -> list[Array]:
    def draw(*extents: int) -> Array:
        x = np.clip(scribe.arrays.standard_normal(extents), -FEATURE, FEATURE)
        return x.astype(dtype_of(dtype))

    q = draw(shape.batch, shape.heads, shape.q_len, shape.d)
    keys = (shape.kv_batch, shape.kv_heads, shape.kv_len)
    return [q, draw(*keys, shape.d), draw(*keys, shape.e)]


def _brief(x: Any) -> str:
    return f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else repr(x)
