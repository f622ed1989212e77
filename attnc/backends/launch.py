"""Fills the argument block of a call: addresses and strides of arrays, tables as the kernel reads them, scalars."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.backends.block import Layout, Table
from attnc.interp import Inputs
from attnc.passes.small import small

Array = np.ndarray[Any, Any]
NATIVE = ("bool", "int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Output:
    """Where an output goes: address, and bytes from batch to batch, head to head, row to row."""

    address: int
    strides: tuple[int, int, int]


def table_dtype(table: Table, dtype: str, compute: str) -> str:
    """The dtype in which the kernel reads an operand of this dtype."""
    if table.matrix:
        return compute
    return dtype if dtype in NATIVE else "int64"


def pack(
    layout: Layout, inputs: Inputs, outputs: Sequence[Output], compute: str, lanes: int
) -> tuple[bytearray, list[Array]]:
    """The block of a call, and the arrays that it points to."""
    roles = {role: _unit_features({"q": inputs.q, "k": inputs.k, "v": inputs.v}[role]) for role in layout.roles}
    tables = {
        table.name: _table(table, np.asarray(inputs.operands[table.name]), compute, lanes) for table in layout.tables
    }
    rooms = [np.empty(summary_words(tables[name].shape, axis), np.int64) for name, axis in layout.searches]
    block = fill(layout, inputs, roles, outputs, tables, [address(x) for x in rooms])
    return block, [*roles.values(), *tables.values(), *rooms]


def fill(
    layout: Layout,
    inputs: Inputs,
    roles: Mapping[str, Array],
    outputs: Sequence[Output],
    tables: Mapping[str, Array],
    rooms: Sequence[int],
) -> bytearray:
    """The block of a call on arrays that lie as the kernel reads them; rooms: addresses of the summaries. Reads no array."""
    extents = inputs.extents
    values: list[Any] = [0, 0, 0, *(extents[name] for name in ("batch", "heads", "q_len", "kv_len", "group"))]
    for role in layout.roles:
        x = roles[role]
        batch, head, length, _ = x.strides
        values += [address(x), batch if x.shape[0] > 1 else 0, head, length]
    for out in outputs:
        values += [out.address, *out.strides]
    for table in layout.tables:
        x = tables[table.name]
        strides = [s // x.itemsize if n > 1 else 0 for s, n in zip(x.strides, x.shape, strict=True)]
        if table.features:
            strides[-1] = 1
        values += [address(x), *strides, *x.shape]
    values += rooms
    codes = ["q"] * len(values)
    for name, kind in layout.scalars:
        values.append(float(inputs.operands[name]) if kind == "float" else int(inputs.operands[name]))
        codes.append("d" if kind == "float" else "q")
    block = bytearray(8 * len(values))
    struct.pack_into("=" + "".join(codes), block, 0, *values)
    return block


def summary_words(shape: tuple[int, ...], axis: int) -> int:
    """Numbers of 8 bytes in the summary of a table along an axis: a least and a greatest for each node of the trees."""
    return 4 * -(-shape[axis] // 64) * math.prod(shape[:axis] + shape[axis + 1 :])


def address(x: Array) -> int:
    """Of the first element."""
    place: int = x.__array_interface__["data"][0]
    return place


def _unit_features(x: Array) -> Array:
    """x, copied where its last axis is not contiguous."""
    return x if x.strides[-1] == x.itemsize or x.shape[-1] == 1 else np.ascontiguousarray(x)


def _table(table: Table, x: Array, compute: str, lanes: int) -> Array:
    """An operand as the kernel reads it."""
    if x.size == 0:  # no keys: indices are clamped to an entry that nothing live reads
        x = np.zeros([max(n, 1) for n in x.shape], x.dtype)
    if table.matrix:
        padded = -(-x.shape[-1] // lanes) * lanes
        wide = np.zeros((*x.shape[:-1], padded), compute)
        wide[..., : x.shape[-1]] = x
        return wide
    if x.dtype.name not in NATIVE:
        return x.astype(np.int64)
    odd = any(s % x.itemsize for s in x.strides)
    loose = bool(table.features) and x.strides[-1] != x.itemsize and x.shape[-1] > 1
    return np.ascontiguousarray(x) if odd or loose else x


def is_small(layout: Layout, inputs: Inputs) -> bool:
    """Whether the kernel for small calls serves this one."""
    return small(inputs.extents, [inputs.operands[name] for name, kind in layout.scalars if kind == "int"])


def specialisation(layout: Layout, inputs: Inputs, features: Mapping[str, int]) -> tuple[object, ...]:
    """What of a call decides the kernel: extents of feature axes (not of indexed ones), dtypes of tables, small numbers."""
    dtypes = tuple([inputs.operands[table.name].dtype.str for table in layout.tables])
    return (is_small(layout, inputs), dtypes, *[features[name] for name in layout.features])
