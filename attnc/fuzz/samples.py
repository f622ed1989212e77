"""Random inputs for a variant that somebody wrote: arrays of a setting, and operands made from the signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.dsl.signature import Operand
from attnc.errors import OperandError
from attnc.fuzz.scribe import dtype_of
from attnc.interp import Array
from attnc.ir.graph import Graph
from attnc.variant import Attention

VECTOR = 24  # extent of a feature axis of the variant's own
SPARE = 64  # extent of an index axis of its own beyond twice the longer length
IDS = 4  # integers of tensors are below
_CONSTANTS: dict[type, Any] = {int: 2, float: 0.5, bool: True}


@dataclass(frozen=True, slots=True)
class Setting:
    """The shape of a call: Q (B,Hq,Lq,D), K (B,Hkv,Lk,D), V (B,Hkv,Lk,Dv); strided: no array is contiguous."""

    D: int = 64
    Dv: int = 64
    lengths: tuple[int, int] = (128, 128)
    dtype: str = "float32"
    heads: tuple[int, int] = (2, 2)
    batch: int = 1
    strided: bool = False
    layout: str = "bhld"

    def __str__(self) -> str:
        (q, k), (hq, hkv) = self.lengths, self.heads
        strided = ", strided" if self.strided else ""
        return f"{self.dtype} D {self.D} Dv {self.Dv} L {q}x{k} H {hq}:{hkv} B {self.batch} {self.layout}{strided}"


def arrays(setting: Setting, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Normal q, k, v (B,H,L,D); the same values whatever the strides and the layout."""
    (q_len, kv_len), (heads, kv_heads) = setting.lengths, setting.heads
    dtype = dtype_of(setting.dtype)
    shapes = ((heads, q_len, setting.D), (kv_heads, kv_len, setting.D), (kv_heads, kv_len, setting.Dv))
    q, k, v = (rng.standard_normal((setting.batch, *shape), dtype=np.float32).astype(dtype) for shape in shapes)
    return q, k, v


def placed(x: Array, setting: Setting) -> Array:
    """x (B,H,L,D) in the setting's layout; where strided, with gaps, batch and heads swapped in memory, and L backwards."""
    if setting.strided:
        b, h, n, d = x.shape
        room = np.zeros((h, b, 2 * n, d + 3), x.dtype)
        view = room.transpose(1, 0, 2, 3)[:, :, ::-2, :d]
        view[...] = x
        x = view
    if setting.layout == "blhd":
        swapped = x.transpose(0, 2, 1, 3)
        return swapped if setting.strided else np.ascontiguousarray(swapped)
    return x


def operands(variant: Attention, setting: Setting, rng: np.random.Generator) -> dict[str, Any]:
    """Random operands: of the library's own samples for its variants, else by the signature."""
    from attnc.variants.samples import examples_of

    (q_len, kv_len), (heads, kv_heads) = setting.lengths, setting.heads
    if variant.function.__module__ == f"attnc.variants.{variant.__name__}":
        sizes = (setting.batch, heads, kv_heads, q_len, kv_len, setting.D, setting.Dv)
        return examples_of(variant.__name__, rng, *sizes, dtype_of(setting.dtype))
    declared = variant.signature.operands
    constants = {name: _constant(x) for name, x in declared.items() if x.role == "const" and x.required}
    graph = _graph(variant, constants)
    extents = {
        "b": setting.batch, "h": heads, "g": kv_heads, "i": q_len, "j": kv_len, "d": setting.D, "e": setting.Dv,
    }  # fmt: skip
    vectors = {axis for x in graph.nodes() if x.op == "gather" for axis in x["features"]}
    kinds = {x["name"]: x["kind"] for x in graph.nodes() if x.op == "gather"}
    result: dict[str, Any] = dict(constants)
    for name, x in declared.items():
        if x.role == "const" or (x.default is None and rng.random() < 0.5) or (x.role == "scalar" and not _needed(x)):
            continue
        if x.role == "scalar":
            result[name] = _scalar(x, rng)
            continue
        shape = tuple(extents.get(a, VECTOR if a in vectors else 2 * max(q_len, kv_len) + SPARE) for a in x.axes)
        result[name] = _tensor(x.kind or kinds.get(name, "float"), shape, setting, rng)
    return result


def _needed(x: Operand) -> bool:
    return x.required or x.default is None


def _constant(x: Operand) -> Any:
    if x.type not in _CONSTANTS:
        raise OperandError(
            f"constant {x.name!r} has no default",
            cause=f"no value of type {getattr(x.type, '__name__', x.type)} can be made up for it",
            cure=f"give {x.name} a default",
        )
    return _CONSTANTS[x.type]


def _scalar(x: Operand, rng: np.random.Generator) -> bool | int | float:
    if x.kind == "bool":
        return bool(rng.random() < 0.5)
    return int(rng.integers(1, 9)) if x.kind == "int" else float(rng.uniform(0.5, 2))


def _tensor(kind: str, shape: tuple[int, ...], setting: Setting, rng: np.random.Generator) -> Array:
    if kind == "bool":
        return rng.random(shape) < 0.7
    if kind == "int":
        return rng.integers(0, IDS, shape)
    return rng.standard_normal(shape).astype(dtype_of(setting.dtype))


def _graph(variant: Attention, constants: Mapping[str, Any]) -> Graph:
    """The graph with every optional operand present, kinds guessed."""
    from attnc.dsl.trace import trace

    declared = variant.signature.operands.values()
    values = {x.name: x.default for x in declared if x.role == "const" and x.default is not inspect.Parameter.empty}
    absent = frozenset(name for name, value in values.items() if value is None)
    known = {name: value for name, value in {**values, **constants}.items() if name not in absent}
    return trace(variant.function, variant.signature, kinds={}, constants=known, absent=absent)
