"""Outputs between the kernel's order (B, H, L[, F]) and the rank and layout of the call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attnc.backends.launch import Output
from attnc.dsl.place import here
from attnc.errors import OutputError
from attnc.interp import Array
from attnc.ir.graph import Graph
from attnc.passes.expand import feature_axes
from attnc.runtime.arrays import View
from attnc.runtime.binding import Bound
from attnc.runtime.out import check_out


def shape(bound: Bound, features: Iterable[str]) -> tuple[int, ...]:
    """The shape of an output with these feature axes, in the caller's rank and layout."""
    extents = bound.inputs.extents
    wide = [bound.features[f] for f in features]
    if bound.layout == "blhd" and wide:
        whole = [extents["batch"], extents["q_len"], extents["heads"], *wide]
    else:
        whole = [extents["batch"], extents["heads"], extents["q_len"], *wide]
    return tuple(whole[4 - bound.rank :])


def place(bound: Bound, address: int, strides: Sequence[int]) -> Output:
    """Address and strides of an output by batch, head and row; strides: in bytes, of the caller's axes."""
    featured = len(strides) == bound.rank
    order = "bih" if bound.layout == "blhd" and featured and bound.rank > 2 else "bhi"
    lengths = dict(zip(order[4 - bound.rank :], strides, strict=False))
    return Output(address, (lengths.get("b", 0), lengths.get("h", 0), lengths["i"]))


def whole(bound: Bound, x: Array) -> Array:
    """An output of the caller's as (B, H, L[, F])."""
    featured = x.ndim == bound.rank
    x = x.reshape((1,) * (4 - bound.rank) + x.shape)
    return x.transpose(0, 2, 1, 3) if bound.layout == "blhd" and featured else x


def restore(bound: Bound, x: Array) -> Array:
    """(B,H,L[,F]) back to the rank and layout of the call."""
    if bound.layout == "blhd" and x.ndim == 4:
        x = x.transpose(0, 2, 1, 3)
    drop = 4 - bound.rank
    return x.reshape(x.shape[drop:])


def check_output(out: Any, graph: Graph, lse: bool, bound: Bound) -> View:
    """The caller's array for the one output. Raises what `check_out` raises, and OutputError where there are several."""
    outputs = graph.outputs
    if len(outputs) - lse != 1:
        raise OutputError(
            f"out= for {graph.name}",
            where=here(),
            cause=f"the variant has {len(outputs)} outputs",
            cure="leave out= away: each output is a new array",
        )
    tables = [x for x in bound.inputs.operands.values() if isinstance(x, np.ndarray)]
    inputs = [bound.inputs.q, bound.inputs.k, bound.inputs.v, *tables]
    return check_out(out, "out", shape(bound, feature_axes(outputs[0])), bound.dtype, inputs)


def given_back(outputs: tuple[Any, ...], tuple_output: bool, lse: bool) -> Any:
    """Outputs as a call returns them."""
    if lse:
        return (outputs[:-1] if tuple_output else outputs[0]), outputs[-1]
    return outputs if tuple_output else outputs[0]
