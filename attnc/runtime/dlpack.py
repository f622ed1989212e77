"""Reads the tensor inside a DLPack capsule with ctypes: address, shape, strides and dtype, bfloat16 included.

The layout is that of `dlpack.h` 1.0 (https://dmlc.github.io/dlpack/latest/c_api.html), with and without a version.
NumPy's own `from_dlpack` refuses bfloat16, which is why attnc reads the capsule itself.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from attnc.errors import DeviceError, DTypeError, UnsupportedError

CPU_DEVICES = frozenset({1, 3, 11})  # kDLCPU and the pinned host memories of CUDA and ROCm: all readable from here
CUDA_DEVICES = frozenset({2, 13})  # kDLCUDA and kDLCUDAManaged
DEVICE_NAMES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda managed", 14: "oneapi"}

# DLDataTypeCode -> prefix of the dtype's name; opaque handles, complex numbers and floats below 16 bits are not read
CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
WIDTHS = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64), "bfloat": (16,), "bool": (8,)}


class Tensor(NamedTuple):
    """What a capsule says: address of the first element, shape, strides in bytes, and the dtype's name."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p


def capsule(x: Any, name: str) -> Any:
    """The DLPack capsule of `x`, versioned where its producer knows how. DeviceError where `x` is not on the host.

    The capsule owns the memory's lifetime: its destructor frees it, since attnc never renames it to "used_dltensor".
    """
    if (locate := getattr(x, "__dlpack_device__", None)) is not None:
        _check_device(int(locate()[0]), name)
    try:
        return x.__dlpack__(max_version=(1, 0))
    except TypeError:  # a producer older than the 2023.12 array API standard: no max_version
        return x.__dlpack__()


def cuda_capsule(x: Any, stream: int) -> Any:
    """The DLPack capsule of `x`, whose producer lets the CUDA stream (0: the default one) wait until its contents are there."""
    order = stream or 1  # the protocol's number of the legacy default stream
    try:
        return x.__dlpack__(stream=order, max_version=(1, 0))
    except TypeError:  # as above
        return x.__dlpack__(stream=order)


def read(handle: Any, name: str, devices: frozenset[int] = CPU_DEVICES) -> Tensor:
    """What the capsule `handle` describes. DeviceError off `devices`; DTypeError for a dtype unknown to attnc."""
    if _is_valid(handle, b"dltensor_versioned"):
        versioned = ctypes.cast(_pointer(handle, b"dltensor_versioned"), ctypes.POINTER(_Versioned)).contents
        if versioned.major != 1:
            raise UnsupportedError(
                f"`{name}` speaks DLPack {versioned.major}.{versioned.minor}",
                where=f"argument {name}",
                cause="attnc reads DLPack capsules without a version and of version 1",
                cure="pass a NumPy array or a torch tensor",
            )
        return _describe(versioned.tensor, name, devices)
    # An unversioned DLManagedTensor begins with its DLTensor.
    return _describe(ctypes.cast(_pointer(handle, b"dltensor"), ctypes.POINTER(_DLTensor)).contents, name, devices)


def _describe(tensor: _DLTensor, name: str, devices: frozenset[int]) -> Tensor:
    _check_device(tensor.device_type, name, devices)
    family = CODES.get(tensor.code, "")
    if tensor.lanes != 1 or tensor.bits not in WIDTHS.get(family, ()):
        raise DTypeError(
            f"`{name}` has a dtype that attnc does not know",
            where=f"argument {name}",
            cause=f"DLPack type code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes",
            cure="convert it to float16, bfloat16, float32, float64, bool or an integer dtype",
        )
    dtype = family if family == "bool" else f"{family}{tensor.bits}"
    shape = tuple(tensor.shape[a] for a in range(tensor.ndim))
    itemsize = tensor.bits // 8
    if tensor.strides:
        strides = tuple(tensor.strides[a] * itemsize for a in range(tensor.ndim))
    else:  # before version 1.2 a null pointer means compact row-major
        strides = compact(shape, itemsize)
    return Tensor((tensor.data or 0) + tensor.byte_offset, shape, strides, dtype)


def compact(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a row-major array without gaps."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)


def _check_device(device: int, name: str, devices: frozenset[int] = CPU_DEVICES) -> None:
    if device not in devices:
        place = DEVICE_NAMES.get(device, f"DLPack type {device}")
        raise DeviceError(
            f"`{name}` is not in the host's memory",
            where=f"argument {name}",
            cause=f"it lies on a {place} device; this kernel runs on the CPU",
            cure="copy it to the host first",
        )
