"""Outputs between the kernel's order (B, H, L[, F]) and the rank and layout of the call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnc.backends.launch import Output
from attnc.interp import Array
from attnc.runtime.binding import Bound


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
