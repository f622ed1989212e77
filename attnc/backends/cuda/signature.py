"""What two calls on a GPU must have in common for the second to need no checks, only new addresses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from attnc.backends.cuda.arrays import Library

PLAIN = (bool, int, float, str, type(None))  # operands whose equality means the same call
LOW = 15  # the bits of an address that decide which kernel serves it
Common = tuple[Library, tuple[Any, ...], list[int]]


def signature(q: Any, k: Any, v: Any, operands: Mapping[str, Any], lse: bool, layout: str) -> Common | None:
    """q's library, what the calls must have in common, and the addresses of q, k, v and the arrays among the operands.

    None where a call has to be checked each time: arrays on the host, of several libraries, of another one than PyTorch and
    CuPy, or with something about them that `find` refuses. Every line here is a part of each call's cost.
    """
    if (torch := sys.modules.get("torch")) is not None and isinstance(q, torch.Tensor):
        library: Library = "torch"
        kind, about = torch.Tensor, _torch
    elif (cupy := sys.modules.get("cupy")) is not None and isinstance(q, cupy.ndarray):
        library, kind, about = "cupy", cupy.ndarray, _cupy
    else:
        return None
    if not (isinstance(k, kind) and isinstance(v, kind)):
        return None
    places: list[int] = []
    try:
        common: list[Any] = [library, lse, layout, about(q, places), about(k, places), about(v, places)]
        for name, x in operands.items():
            if type(x) in PLAIN:
                common += (name, type(x), x)
            elif isinstance(x, kind):
                common += (name, about(x, places))
            else:
                return None
    except RuntimeError:  # also PyTorch's, for a tensor without an address or strides
        return None
    return library, tuple(common), places


def _torch(x: Any, places: list[int]) -> tuple[Any, ...]:
    if x.requires_grad or x.is_neg():
        raise RuntimeError("whether it is refused depends on more than itself")
    place = x.data_ptr()
    places.append(place)
    return x.shape, x.stride(), x.dtype, x.get_device(), place & LOW


def _cupy(x: Any, places: list[int]) -> tuple[Any, ...]:
    place = x.data.ptr
    places.append(place)
    return x.shape, x.strides, x.dtype, x.device.id, place & LOW
