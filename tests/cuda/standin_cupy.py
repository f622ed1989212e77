"""A stand-in for the parts of CuPy 14 that attnc uses: modules, functions, launches, streams, and arrays without arithmetic.

"Device memory" are NumPy arrays at the emulator's addresses, which mean nothing in this process. A "cubin" is an ELF header with
the kernel's Python source behind it (`fake_cubin`); a launch is recorded, and runs in the emulator. Signatures and errors are those of
cupy/cuda/function.pyx, cupy_backends/cuda/api/{driver,runtime}.pyx and cupy/_core/{core,dlpack}.pyx.
"""

from __future__ import annotations

import ctypes
import re
import struct
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from standin_driver import Encoded, geometry, unpack

from attnc.backends.cuda.emulate.launch import launch
from attnc.backends.cuda.emulate.memory import Memory
from attnc.backends.cuda.ptx import MAP

HEADER = b"\x7fELF\x02".ljust(18, b"\0") + struct.pack("<H", 190)
OPTIN, MAJOR, MINOR, COUNT = 97, 75, 76, 16
MAX_DYNAMIC_SHARED = 8
GROUPS = (32, 96, 128, 128, 128)  # of kernels with maps: the producer, the warps beside it, consumers


def fake_cubin(source: str) -> bytes:
    """What the stand-in can load."""
    return HEADER + source.encode()


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class CUDADriverError(RuntimeError):
    """cupy.cuda.driver.CUDADriverError."""


@dataclass
class Function:
    """cupy.cuda.function.Function: `ptr` is what the driver launches."""

    ptr: int
    source: str
    device: int
    parameters: tuple[str, ...]
    dynamic_shared: int = 48 * 1024


@dataclass
class Launch:
    """What `launchKernel` was given; words, maps: the arguments by name."""

    source: str
    device: int
    grid: int
    threads: int
    shared: int
    stream: int
    words: dict[str, int]
    maps: dict[str, Encoded] = field(default_factory=dict)


@dataclass
class Memset:
    """What `memsetAsync` was given, and how many launches there had been."""

    address: int
    value: int
    size: int
    stream: int
    launches: int


@dataclass
class Machine:
    """A computer with GPUs. emulate: whether launches run, or are only recorded."""

    capabilities: list[tuple[int, int]] = field(default_factory=lambda: [(8, 0)])
    shared: int = 163 * 1024
    multiprocessors: int = 4
    driver: int = 13000
    hip: bool = False
    emulate: bool = True
    current: int = 0
    memory: Memory = field(default_factory=Memory)
    launches: list[Launch] = field(default_factory=list)
    memsets: list[Memset] = field(default_factory=list)
    functions: dict[int, Function] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)  # address of an array's memory -> its device
    capturing: set[int] = field(default_factory=set)
    synchronised: list[tuple[int, int]] = field(default_factory=list)  # (device, stream)
    streams: dict[int, int] = field(default_factory=dict)  # CuPy's current streams by device
    allocated: list[tuple[int, int]] = field(default_factory=list)  # (device, bytes)

    def address(self, host: np.ndarray[Any, Any], device: int) -> int:
        """Where an array lies on a device."""
        place = self.memory.address(host)
        self.owners[place >> 40] = device
        return place

    def function(self, module: Module, name: str) -> Function:
        """cuModuleGetFunction."""
        found = re.search(rf"def {name}\(([^)]*)\)", module.source)
        if found is None:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        parameters = tuple(x.strip() for x in found[1].split(",") if x.strip())
        made = Function(0xF000 + len(self.functions), module.source, module.device, parameters)
        self.functions[made.ptr] = made
        return made

    def launch(
        self,
        f: int,
        gx: int,
        gy: int,
        gz: int,
        bx: int,
        by: int,
        bz: int,
        shared: int,
        stream: int,
        params: int,
        extra: int,
    ) -> None:
        """cuLaunchKernel."""
        function = self.functions[f]
        if function.device != self.current:
            raise CUDADriverError("CUDA_ERROR_INVALID_CONTEXT: invalid device context")
        if (
            shared > function.dynamic_shared
            or bx > 1024
            or not 0 < gx < 2**31
            or (gy, gz, by, bz, extra) != (1, 1, 1, 1, 0)
        ):
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        places = (ctypes.c_void_p * len(function.parameters)).from_address(params)
        given = dict(zip(function.parameters, (place or 0 for place in places), strict=True))
        maps = {name: unpack(place) for name, place in given.items() if name.endswith(MAP)}
        words = {name: ctypes.c_int64.from_address(place).value for name, place in given.items() if name not in maps}
        self.launches.append(Launch(function.source, self.current, gx, bx, shared, stream, words, maps))
        if self.emulate:
            described = {name: self.memory.tensor_map(geometry(x)) for name, x in maps.items()}
            arguments = [described.get(name, words.get(name, 0)) for name in function.parameters]
            groups = GROUPS[: bx // 128 + 1] if maps else None
            launch(function.source, arguments, gx, bx, shared, self.memory, groups=groups)

    def clear(self, address: int, value: int, size: int, stream: int) -> None:
        """cudaMemsetAsync."""
        if self.owners[address >> 40] != self.current:
            raise CUDARuntimeError("cudaErrorInvalidValue: invalid argument")
        self.memory.write(np.arange(address, address + size), np.full(size, value, np.uint8))
        self.memsets.append(Memset(address, value, size, stream, len(self.launches)))


class Module:
    """cupy.cuda.function.Module of a machine."""

    machine: Machine

    def __init__(self) -> None:
        self.source, self.device = "", -1

    def load(self, cubin: bytes) -> None:
        if not isinstance(cubin, bytes):
            raise TypeError(f"Expected bytes, got {type(cubin).__name__}")
        if not cubin.startswith(HEADER):
            raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid")
        self.source, self.device = cubin[len(HEADER) :].decode(), self.machine.current

    def get_function(self, name: str) -> Function:
        return self.machine.function(self, name)


class ndarray:
    """cupy.ndarray over a view of "device memory"."""

    machine: Machine

    def __init__(self, host: np.ndarray[Any, Any], device: int) -> None:
        self.host, self.device = host, SimpleNamespace(id=device)
        self.data = SimpleNamespace(ptr=self.machine.address(host, device) if host.size else 0)

    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)

    def __getitem__(self, index: Any) -> ndarray:
        return type(self)(self.host[index], self.device.id)

    def transpose(self, *axes: int) -> ndarray:
        return type(self)(self.host.transpose(*axes), self.device.id)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device.id

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "strides": self.strides, "typestr": self.dtype.str, "version": 3,
            "data": (self.data.ptr, False), "stream": self.machine.streams.get(self.device.id, 0) or 1,
        }  # fmt: skip


def install(machine: Machine) -> ModuleType:
    """The module cupy of a machine."""

    class MachineModule(Module):
        pass

    class MachineArray(ndarray):
        pass

    MachineModule.machine = MachineArray.machine = machine

    def set_device(number: int) -> None:
        if not 0 <= number < len(machine.capabilities):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        machine.current = number

    def count() -> int:
        if not machine.capabilities:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return len(machine.capabilities)

    def attribute(which: int, device: int) -> int:
        major, minor = machine.capabilities[device]
        return {OPTIN: machine.shared, MAJOR: major, MINOR: minor, COUNT: machine.multiprocessors}[which]

    def set_attribute(function: int, which: int, value: int) -> None:
        if which != MAX_DYNAMIC_SHARED or value > machine.shared:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        machine.functions[function].dynamic_shared = value

    def synchronize(stream: int) -> None:
        if stream in machine.capturing:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )
        machine.synchronised.append((machine.current, stream))

    def is_capturing(stream: int) -> bool:
        if stream in (0, 1) and machine.capturing:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capturing one"
            )
        return stream in machine.capturing

    def empty(shape: Any, dtype: Any = float) -> ndarray:
        host = np.empty(shape, dtype)
        host.view(np.uint8).fill(0xFF)  # NaN: what no kernel wrote shows
        machine.allocated.append((machine.current, host.nbytes))
        return MachineArray(host, machine.current)

    def asarray(x: Any) -> ndarray:
        if isinstance(x, np.ndarray):
            return MachineArray(np.array(x), machine.current)
        return x.array  # what speaks a protocol holds its CuPy array (standin_arrays)

    runtime = SimpleNamespace(
        is_hip=machine.hip, CUDARuntimeError=CUDARuntimeError, driverGetVersion=lambda: machine.driver, getDeviceCount=count,
        getDevice=lambda: machine.current, setDevice=set_device, deviceGetAttribute=attribute, streamSynchronize=synchronize,
        streamIsCapturing=is_capturing, memsetAsync=machine.clear,
        pointerGetAttributes=lambda place: SimpleNamespace(device=machine.owners[place >> 40]),
    )  # fmt: skip
    driver = SimpleNamespace(
        CUDADriverError=CUDADriverError, launchKernel=machine.launch, funcSetAttribute=set_attribute
    )  # fmt: skip
    cupy: Any = ModuleType("cupy")
    cupy.ndarray, cupy.empty, cupy.asarray, cupy.from_dlpack = MachineArray, empty, asarray, asarray
    cupy.asnumpy = lambda x: np.array(x.host)
    cupy.cuda = SimpleNamespace(
        runtime=runtime, driver=driver, function=SimpleNamespace(Module=MachineModule),
        get_current_stream=lambda device=-1: SimpleNamespace(
            ptr=machine.streams.get(machine.current if device < 0 else device, 0)
        ),
    )  # fmt: skip
    return cupy
