"""Checks of `out=`: an array of the caller's that a kernel will write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnc.dsl.place import here
from attnc.errors import AttncError, DTypeError, OperandError, ShapeError
from attnc.runtime.arrays import View, view
from attnc.runtime.binding import as_numpy

_WORK = 100_000  # steps that the exact test for shared memory may take; beyond it the arrays count as overlapping


def check_out(out: Any, name: str, shape: tuple[int, ...], dtype: str, inputs: Sequence[Any] = ()) -> View:
    """The View of `out`, the argument called `name`, which must be writable, of this shape and dtype ("float32").

    inputs: the arrays that the kernel reads; `out` must not share an element with any of them.

    Raises:
        ShapeError, DTypeError: another shape or dtype. OperandError: not an array, read-only, or it shares memory with
        an input or with itself. DeviceError, GradientError: as `attnc.runtime.arrays.view`.
    """
    try:
        return _check(out, name, tuple(shape), dtype, inputs)
    except AttncError as error:
        raise error.located(here()) from None


def _check(out: Any, name: str, shape: tuple[int, ...], dtype: str, inputs: Sequence[Any]) -> View:
    found = view(out, name)
    if found.shape != shape:
        raise ShapeError(
            f"{name} has the shape {found.shape}",
            cause=f"the result of this call has the shape {shape}",
            cure=f"allocate it so, or do not pass {name}",
        )
    if found.dtype != dtype:
        raise DTypeError(
            f"{name} is {found.dtype}",
            cause=f"the result of this call is {dtype}, as q is",
            cure=f"allocate it as {dtype}; attnc does not convert on the way out",
        )
    if _is_read_only(out, found):
        raise OperandError(
            f"{name} cannot be written",
            cause="it is read-only" if found.kind == "numpy" else f"a {type(out).__name__} is not known to be writable",
            cure="pass a writable NumPy array or torch tensor, or a copy",
        )
    array = as_numpy(out, name)
    if _overlaps_itself(array):
        raise OperandError(
            f"{name} shares memory with itself",
            cause=f"its strides are {array.strides} for the shape {array.shape}, so several results have one place",
            cure="pass an array that was not broadcast or expanded",
        )
    for x in inputs:
        if _overlaps(array, as_numpy(x, "an input")):
            raise OperandError(
                f"{name} shares memory with an input",
                cause="the kernel would read what it has already overwritten",
                cure="pass another array",
            )
    return found


def _is_read_only(out: Any, found: View) -> bool:
    if found.kind == "numpy":
        return not out.flags.writeable
    return found.kind != "torch"  # other frameworks' arrays may be immutable (jax), and DLPack need not say so


def _overlaps_itself(x: np.ndarray[Any, Any]) -> bool:
    """Whether two of x's elements have one address: some axis steps less far than all finer axes together reach."""
    if x.size == 0:
        return False
    reach = x.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False


def _overlaps(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    if not np.may_share_memory(x, y):
        return False
    try:
        return bool(np.shares_memory(x, y, max_work=_WORK))  # type: ignore[arg-type]  # any limit is allowed
    except np.exceptions.TooHardError:
        return True
