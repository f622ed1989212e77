"""What two calls on a GPU must have in common for the second to need no checks, only new addresses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from attnc.backends.cuda.arrays import Library

PLAIN = (bool, int, float, str, type(None))  # operands whose equality means the same call
LOW = 15  # the bits of an address that decide which kernel serves it


def signature(
    q: Any, k: Any, v: Any, operands: Mapping[str, Any], options: tuple[Any, ...]
) -> tuple[Library, Any, dict[str, int]] | None:
    """q's library, what the calls must have in common, and the addresses of the arrays by name.

    None where a call has to be checked each time: arrays of several libraries, or of another than PyTorch and CuPy, or with
    something about them that `find` refuses.
    """
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(q, torch.Tensor):
        library: Library = "torch"
        kind, strided = torch.Tensor, torch.strided
    elif cupy is not None and isinstance(q, cupy.ndarray):
        library, kind, strided = "cupy", cupy.ndarray, None
    else:
        return None
    places: dict[str, int] = {}
    common: list[Any] = [library, *options]
    for name, x in (("Q", q), ("K", k), ("V", v), *operands.items()):
        if isinstance(x, kind):
            found = _cupy(x) if strided is None else _torch(x, strided)
            if found is None:
                return None
            places[name], about = found
            common.append((name, about))
        elif type(x) in PLAIN and name in operands:
            common.append((name, type(x), x))
        else:
            return None
    return library, tuple(common), places


def _torch(x: Any, strided: Any) -> tuple[int, Any] | None:
    if not x.is_cuda or x.requires_grad or x.layout is not strided or x.is_neg():
        return None
    address = x.data_ptr()
    return address, (x.shape, x.stride(), x.dtype, x.get_device(), address & LOW)


def _cupy(x: Any) -> tuple[int, Any]:
    address = x.data.ptr
    return address, (x.shape, x.strides, x.dtype, x.device.id, address & LOW)
