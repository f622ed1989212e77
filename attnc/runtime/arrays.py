"""Looks at the user's arrays without copying them: NumPy, torch on the CPU, and whatever else speaks DLPack.

No framework is imported here: a torch tensor can only arrive when torch is already in `sys.modules`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from attnc.errors import DeviceError, DTypeError, GradientError, OperandError
from attnc.runtime import dlpack

# Sizes of the dtypes that a View can have. The name is NumPy's (and ml_dtypes' for bfloat16), in every kind of array.
ITEMSIZE = {
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
    "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
}  # fmt: skip

_TORCH: dict[Any, tuple[str, int]] = {}  # torch.dtype -> (name, itemsize), filled when the first torch tensor arrives
_NUMPY: dict[np.dtype[Any], str] = {np.dtype(name): name for name in ITEMSIZE if name != "bfloat16"}


@dataclass(frozen=True, slots=True)
class View:
    """Where an array lies. `keep` holds what keeps the memory alive; a View must not outlive its array's contents.

    address: of element [0, 0, ...], also where strides are negative. strides: in bytes. dtype: a key of ITEMSIZE.
    kind: "numpy", "torch" or "dlpack".
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    kind: str
    keep: object


def view(x: Any, name: str) -> View:
    """The View of `x`, the argument called `name`.

    OperandError: not an array. DTypeError: a dtype outside ITEMSIZE, or a foreign byte order. DeviceError: not on the
    CPU. GradientError: a torch tensor that requires gradients, outside torch.no_grad().
    """
    if isinstance(x, np.ndarray):
        return _numpy(x, name)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch(x, name, torch)
    if hasattr(x, "__dlpack__"):
        handle = dlpack.capsule(x, name)
        tensor = dlpack.read(handle, name)
        return View(tensor.address, tensor.shape, tensor.strides, tensor.dtype, "dlpack", (x, handle))
    raise OperandError(
        f"`{name}` is not an array",
        where=f"argument {name}",
        cause=f"it is a {type(x).__name__}",
        cure="pass a NumPy array, a torch tensor, or an object with __dlpack__; lists: numpy.asarray(x, dtype)",
    )


def empty(kind: str, shape: tuple[int, ...], dtype: str) -> tuple[Any, View]:
    """An uninitialised row-major array of `shape` and `dtype` (a key of ITEMSIZE), and its View.

    kind "numpy" gives an ndarray and "torch" a tensor. "dlpack" gives a NumPy array for the kernel to write;
    `finish` then hands the result over to the caller's framework, which must not see it before it is written.
    """
    if kind == "torch":
        torch = sys.modules["torch"]
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        return tensor, View(tensor.data_ptr(), shape, dlpack.compact(shape, ITEMSIZE[dtype]), dtype, "torch", tensor)
    array = np.empty(shape, numpy_dtype(dtype))
    return array, View(_address(array), shape, array.strides, dtype, "numpy", array)


def finish(like: Any, array: Any) -> Any:
    """The written output `array` of `empty`, as the caller's framework has it; `like` is the input it shall resemble.

    A jax array gives a jax array. For other producers of DLPack the result stays the NumPy array.
    """
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(like, jax.Array):
        return jax.numpy.asarray(array)  # not jax.dlpack.from_dlpack: NumPy's capsules cannot hold bfloat16
    return array


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype called `name`; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype
    return np.dtype(name)


class bfloat(np.void):  # type: ignore[misc]  # with its 16 bits NumPy calls the dtype "bfloat16"
    """An entry of an array that is described and never read, where ml_dtypes is missing."""


def described_dtype(name: str) -> np.dtype[Any]:
    """As `numpy_dtype`; where ml_dtypes is missing, bfloat16 is two bytes of that name."""
    if name == "bfloat16" and find_spec("ml_dtypes") is None:
        return np.dtype((bfloat, 2))
    return numpy_dtype(name)


def _numpy(x: np.ndarray[Any, Any], name: str) -> View:
    dtype = dtype_name(x.dtype, name)
    if type(x) is not np.ndarray and isinstance(x, np.ma.MaskedArray):
        raise OperandError(
            f"`{name}` is a masked array",
            where=f"argument {name}",
            cause="attnc would not see its mask",
            cure=f"pass {name}.filled(0), and the mask as an operand",
        )
    return View(_address(x), x.shape, x.strides, dtype, "numpy", x)


def dtype_name(dtype: np.dtype[Any], name: str) -> str:
    """The key of ITEMSIZE for NumPy's dtype of the argument called `name`. DTypeError where there is none."""
    if dtype.type is bfloat:  # not in the table: NumPy holds any two bytes for equal to it
        return "bfloat16"
    known = _NUMPY.get(dtype)
    if known is None:
        known = _NUMPY[dtype] = _uncommon(dtype, name)
    return known


def _address(x: np.ndarray[Any, Any]) -> int:
    address: int = x.__array_interface__["data"][0]  # cheaper than x.ctypes.data; of the first element, writable or not
    return address


def _uncommon(dtype: np.dtype[Any], name: str) -> str:
    """The name of a dtype that is not in the table: bfloat16, or an alias such as longlong; else DTypeError."""
    if not dtype.isnative:
        raise DTypeError(
            f"`{name}` has a foreign byte order",
            where=f"argument {name}",
            cause=f"its dtype is {dtype.str}",
            cure=f"convert it: {name}.astype({name}.dtype.newbyteorder('='))",
        )
    # A structured dtype may not pose as bfloat16, whose kind is also "V": ml_dtypes' scalars carry the name.
    if dtype.names is None and dtype.type.__name__ == dtype.name and dtype.name in ITEMSIZE:
        return dtype.name
    if dtype.kind in "iufb" and dtype.name in ITEMSIZE:
        return dtype.name
    raise DTypeError(
        f"`{name}` has the dtype {dtype}",
        where=f"argument {name}",
        cause="attnc computes with float16, bfloat16, float32, float64, bool and integers of 8 to 64 bits",
        cure=f"convert it: {name}.astype(numpy.float32)",
    )


def _torch(x: Any, name: str, torch: Any) -> View:
    if not x.is_cpu:
        raise DeviceError(
            f"`{name}` is not in the host's memory",
            where=f"argument {name}",
            cause=f"it lies on {x.device}; this kernel runs on the CPU",
            cure=f"pass {name}.cpu()",
        )
    return torch_view(x, name, torch)


def torch_view(x: Any, name: str, torch: Any) -> View:
    """The View of a torch tensor on any device that has addresses. Raises what `view` raises."""
    if x.requires_grad and torch.is_grad_enabled():
        raise GradientError(
            f"`{name}` requires gradients",
            where=f"argument {name}",
            cause="attnc has no backward yet, and detaching in silence would train the wrong thing",
            cure=f"where no gradient is wanted, pass {name}.detach() or call under torch.no_grad()",
        )
    if x.layout is not torch.strided or x.is_neg() or x.is_conj():
        raise OperandError(
            f"`{name}` is not a plain strided tensor",
            where=f"argument {name}",
            cause=f"its layout is {x.layout}, or it carries a lazy negation or conjugation",
            cure=f"pass {name}.to_dense().resolve_neg()",
        )
    known = _TORCH.get(x.dtype)
    if known is None:
        known = _torch_dtype(x.dtype, name)
    dtype, size = known
    return View(x.data_ptr(), tuple(x.shape), tuple([s * size for s in x.stride()]), dtype, "torch", x)


def _torch_dtype(dtype: Any, name: str) -> tuple[str, int]:
    known = str(dtype).removeprefix("torch.")
    if known not in ITEMSIZE:
        raise DTypeError(
            f"`{name}` has the dtype {dtype}",
            where=f"argument {name}",
            cause="attnc computes with float16, bfloat16, float32, float64, bool and integers of 8 to 64 bits",
            cure=f"convert it: {name}.float()",
        )
    return _TORCH.setdefault(dtype, (known, ITEMSIZE[known]))
