"""The GPUs of this machine, through CuPy: the one place that imports it. Nothing is compiled here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attnc.dsl.place import here
from attnc.errors import DeviceError

DRIVER = 13000  # the cubins are those of CUDA 13: drivers load what a compiler of their own major version made, or an older one
INSTALL = "pip install 'attnc[cuda]'"

# Numbers of cudaDeviceAttr and CUfunction_attribute, of which CuPy has not all by name.
MULTIPROCESSORS = 16
SHARED_OF_BLOCK = 97
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
MAX_DYNAMIC_SHARED = 8


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device by CuPy's number. shared: bytes of shared memory that a block can have. api: the module cupy."""

    number: int
    capability: tuple[int, int]
    shared: int
    multiprocessors: int
    api: Any


def cupy() -> Any:
    """The module cupy, with a driver and a device that attnc's kernels run on. DeviceError: what is missing, and the cure."""
    try:
        api = importlib.import_module("cupy")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        words = [line.strip() for line in str(error).splitlines() if line.strip().strip("=")]
        cause = (
            "CuPy is not installed" if missing else f"CuPy cannot be imported: {words[-1] if words else 'no reason'}"
        )
        raise _cannot_launch(f"{cause}; attnc launches CUDA kernels with it", INSTALL) from error
    runtime = api.cuda.runtime
    if runtime.is_hip:
        raise _cannot_launch("the installed CuPy is built for ROCm", INSTALL)
    version = runtime.driverGetVersion()
    if version == 0:
        raise _cannot_launch(
            "there is no CUDA driver", "install NVIDIA's driver 580 or later, or use arrays on the CPU"
        )
    if version < DRIVER:
        raise _cannot_launch(
            f"the driver is too old: it knows CUDA {_words(version)}, the kernels are of CUDA {_words(DRIVER)}",
            "install NVIDIA's driver 580 or later",
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise _cannot_launch(
            f"no CUDA device can be used ({error})", "check nvidia-smi and CUDA_VISIBLE_DEVICES"
        ) from error
    if count == 0:
        raise _cannot_launch("there is no CUDA device", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
    return api


def gpu(number: int) -> Gpu:
    """The device of this number. DeviceError as `cupy`."""
    api = cupy()
    ask = api.cuda.runtime.deviceGetAttribute
    capability = ask(CAPABILITY_MAJOR, number), ask(CAPABILITY_MINOR, number)
    return Gpu(number, capability, ask(SHARED_OF_BLOCK, number), ask(MULTIPROCESSORS, number), api)


def of_pointer(address: int) -> int:
    """The device whose memory an address is in; the current one for the address 0 of an array without entries."""
    runtime = cupy().cuda.runtime
    number: int = runtime.pointerGetAttributes(address).device if address else runtime.getDevice()
    return number


@contextmanager
def current(device: Gpu) -> Iterator[None]:
    """The device is this thread's current one, with its context."""
    runtime = device.api.cuda.runtime
    before = runtime.getDevice()
    runtime.setDevice(device.number)  # even where it is current already: a new thread has no context yet
    try:
        yield
    finally:
        if before != device.number:
            runtime.setDevice(before)


def _words(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _cannot_launch(cause: str, cure: str) -> DeviceError:
    return DeviceError("CUDA kernels cannot be launched", where=here(), cause=cause, cure=cure)
