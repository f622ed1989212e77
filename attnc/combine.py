"""The merge of attentions over parts of the keys: what a caller has computed apart becomes the attention over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from attnc.dsl.place import here
from attnc.errors import DTypeError, OperandError, ShapeError
from attnc.interp import Array
from attnc.runtime import arrays
from attnc.runtime.binding import as_numpy

FLOATS = ("float16", "bfloat16", "float32", "float64")


def merge(parts: Iterable[tuple[Any, Any]], *, layout: str = "bhld") -> tuple[Any, Any]:
    """Output and lse over all keys, from those over disjoint parts of them: out = sum of out_p exp(lse_p - lse).

    parts: pairs (out, lse) as `variant(..., return_lse=True)` gives them, out (..., L, F) and lse (..., L), or with layout="blhd"
    out (B, L, H, F) and lse (B, H, L); NumPy arrays or torch tensors on the CPU, all of one dtype and shape. A part without
    keys has lse -inf; its out counts for nothing. A sink must be in one part only. Computed in float64, given back in the dtypes
    of the first part. A finished part is one key of score lse and value out (Milakov and Gimelshein, arXiv 1805.02867).

    Raises ShapeError, DTypeError, and for what is no array OperandError, DeviceError, GradientError.
    """
    given = list(parts)
    pairs = [_pair(n, part) for n, part in enumerate(given)]
    if not pairs:
        raise OperandError(
            "at.merge of no parts",
            where=here(),
            cause="their shape would be unknown",
            cure="pass at least one pair (out, lse)",
        )
    swap = _checked(pairs, layout)
    lses = np.stack([lse.astype(np.float64) for _, lse in pairs])
    with np.errstate(all="ignore"):
        top = np.max(lses, axis=0)
        weights = np.exp(lses - np.where(np.isneginf(top), 0, top))
        total = weights.sum(axis=0)
        lse = np.where(np.isneginf(top), -np.inf, top + np.log(total))
        share = np.where(np.isneginf(lses), 0, weights / np.where(total == 0, 1, total))
        out = sum(_weighted(x, w, swap) for (x, _), w in zip(pairs, share, strict=True))
    (like_out, like_lse), (first_out, first_lse) = given[0], pairs[0]
    return _like(like_out, np.asarray(out).astype(first_out.dtype)), _like(like_lse, lse.astype(first_lse.dtype))


def _weighted(out: Array, share: Array, swap: bool) -> Array:
    """A part's summand; where its share is 0 even a NaN of it counts for nothing."""
    share = (np.swapaxes(share, -1, -2) if swap else share)[..., None]
    return np.where(share == 0, 0, share * out.astype(np.float64))


def _pair(n: int, part: Any) -> tuple[Array, Array]:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise OperandError(
            f"part {n} of at.merge",
            where=here(),
            cause=f"it is {type(part).__name__}, no pair (out, lse)",
            cure="pass what variant(Q, K, V, return_lse=True) returns",
        )
    return as_numpy(part[0], f"out of part {n}"), as_numpy(part[1], f"lse of part {n}")


def _checked(pairs: list[tuple[Array, Array]], layout: str) -> bool:
    """Whether the axes of heads and rows change places between out and lse. Raises ShapeError, DTypeError."""
    out, lse = pairs[0]
    if layout not in ("bhld", "blhd"):
        raise ShapeError(
            f"layout {layout!r}", where=here(), cause="there are two", cure='layout="bhld" or layout="blhd"'
        )
    swap = layout == "blhd" and out.ndim > 2
    rows = out.shape[:-1]
    expected = (*rows[:-2], rows[-1], rows[-2]) if swap else rows
    for n, (x, y) in enumerate(pairs):
        if x.shape != out.shape or y.shape != expected:
            raise ShapeError(
                f"shapes of part {n} of at.merge",
                where=here(),
                cause=f"out is {x.shape} and lse {y.shape}, but part 0 has out {out.shape}, so lse must be {expected}",
                cure="all parts are over the same queries: out (..., L, F), lse (..., L); other keys only",
            )
        for what, z, known in (("out", x, out), ("lse", y, lse)):
            if z.dtype.name not in FLOATS or z.dtype != known.dtype:
                raise DTypeError(
                    f"{what} of part {n} is {z.dtype}",
                    where=here(),
                    cause=f"that of part 0 is {known.dtype}; all parts have one, of {', '.join(FLOATS)}",
                    cure="convert it before the merge",
                )
    return swap


def _like(like: Any, x: Array) -> Any:
    """x as the caller's kind of array."""
    if isinstance(like, np.ndarray):
        return x
    kind = arrays.view(like, "a part").kind
    result = arrays.empty(kind, x.shape, x.dtype.name)[0]
    as_numpy(result, "result")[...] = x
    return arrays.finish(like, result)
