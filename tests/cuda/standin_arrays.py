"""Stand-ins for PyTorch's and JAX's arrays on a GPU, and for others that speak DLPack or the CUDA array interface."""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
from standin_cupy import Machine, ndarray

from attnc.runtime import dlpack

NAMES = ("float16", "bfloat16", "float32", "float64", "int64", "int32", "bool", "uint8")
CODES = {"float": 2, "bfloat": 4, "int": 0, "uint": 1, "bool": 6}
CUDA = 2
_new = ctypes.pythonapi.PyCapsule_New
_new.argtypes, _new.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
_alive: list[Any] = []  # a real producer frees its tensor in a destructor; a test's process ends


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def capsule(address: int, x: np.ndarray[Any, Any], device: int) -> Any:
    """A DLPack capsule of a tensor with x's shape, strides and dtype at an address of a CUDA device."""
    ints = ctypes.c_int64 * max(x.ndim, 1)
    shape, strides = ints(*x.shape), ints(*(s // x.itemsize for s in x.strides))
    family = x.dtype.name.rstrip("0123456789")
    tensor = dlpack._DLTensor(
        address, CUDA, device, x.ndim, CODES[family], 8 * x.itemsize, 1, ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)),
        ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)), 0,
    )  # fmt: skip
    _alive.append((tensor, shape, strides))
    return _new(ctypes.addressof(tensor), b"dltensor", None)


class DType:
    """torch.dtype."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


class Tensor:
    """torch.Tensor over NumPy memory, on a GPU or (device None) the host."""

    machine: Machine
    torch: Any

    def __init__(self, host: np.ndarray[Any, Any], device: int | None, requires_grad: bool = False) -> None:
        self.host, self.number, self.requires_grad = host, device, requires_grad
        self.layout = self.torch.strided
        self.is_cuda, self.is_cpu = device is not None, device is None
        self.device = SimpleNamespace(type="cpu" if device is None else "cuda", index=device)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: getattr(self.torch, self.host.dtype.name))
    ndim = property(lambda self: self.host.ndim)
    is_neg = is_conj = lambda self: False

    def get_device(self) -> int:
        return -1 if self.number is None else self.number

    def data_ptr(self) -> int:
        if self.number is None:
            return self.host.__array_interface__["data"][0]
        return self.machine.address(self.host, self.number) if self.host.size else 0

    def stride(self) -> tuple[int, ...]:
        return tuple(s // self.host.itemsize for s in self.host.strides)

    def cpu(self) -> Tensor:
        return type(self)(self.host.copy(), None)

    def __getitem__(self, index: Any) -> Tensor:
        return type(self)(self.host[index], self.number)

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("a torch tensor is read directly")


def install_torch(machine: Machine) -> Any:
    """The module torch of a machine; `streams`: its current streams by device."""
    torch: Any = ModuleType("torch")

    class MachineTensor(Tensor):
        pass

    MachineTensor.machine, MachineTensor.torch = machine, torch
    torch.Tensor, torch.strided, torch.streams = MachineTensor, "strided", {}
    for name in NAMES:
        setattr(torch, name, DType(name))
    torch.is_grad_enabled = lambda: True

    def empty(shape: Any, dtype: DType, device: Any = None) -> Tensor:
        host = np.empty(shape, _dtype(dtype.name))
        host.view(np.uint8).fill(0xFF)
        number = device.index if device is not None else None
        machine.allocated.append((-1 if number is None else number, host.nbytes))
        return MachineTensor(host, number)

    torch.empty = empty
    torch.device = lambda kind, index=None: SimpleNamespace(type=kind, index=index)
    torch.cuda = SimpleNamespace(
        current_stream=lambda device: SimpleNamespace(cuda_stream=torch.streams.get(device, 0))
    )
    return torch


class Producer:
    """What speaks DLPack. streams: those that its contents were ordered on."""

    def __init__(self, array: ndarray, versioned: bool = True) -> None:
        self.array, self.versioned, self.streams = array, versioned, []

    shape = property(lambda self: self.array.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.array.device.id

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        if options and not self.versioned:
            raise TypeError("unexpected keyword argument")
        self.streams.append(stream)
        return capsule(self.array.data.ptr, self.array.host, self.array.device.id)


class Interface:
    """What has the CUDA array interface alone, as Numba's device arrays."""

    def __init__(self, array: ndarray, stream: int | None = None) -> None:
        self.array, self.stream = array, stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__cuda_array_interface__, "stream": self.stream}


def install_jax() -> Any:
    """The module jax: an immutable array that speaks DLPack."""
    jax: Any = ModuleType("jax")

    class Array(Producer):
        pass

    jax.Array, jax.dlpack = Array, SimpleNamespace(from_dlpack=Array)
    return jax
