"""Arrays on a GPU: CuPy's, PyTorch's, JAX's, and others that speak DLPack or the CUDA array interface. Nothing is copied.

No framework is imported here: an array can only arrive when its framework is already in `sys.modules`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from attnc.backends.cuda import device
from attnc.backends.cuda.device import Gpu
from attnc.errors import DeviceError
from attnc.runtime import dlpack
from attnc.runtime.arrays import View, dtype_name, numpy_dtype, torch_view

# Where an array comes from. "dlpack" and "interface": neither of the three, by how attnc reads it.
Library = Literal["cupy", "torch", "jax", "dlpack", "interface"]
STREAMS: tuple[Library, ...] = ("cupy", "torch")  # libraries with a current stream that everybody can ask for


@dataclass(frozen=True, slots=True)
class Found:
    """An array on a GPU. stream: on which its library works on it; None where it was made to wait for the launch's stream."""

    view: View
    library: Library
    stream: int | None


def library_of(x: Any) -> Library | None:
    """Which library an array on a GPU belongs to; None for what lies on the host, and for what is no array."""
    if x is None or isinstance(x, np.ndarray | np.generic | int | float | str):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return "torch" if x.is_cuda else None
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return "cupy"
    locate = getattr(x, "__dlpack_device__", None)
    if locate is not None:
        if int(locate()[0]) not in dlpack.CUDA_DEVICES:
            return None
        jax = sys.modules.get("jax")
        return "jax" if jax is not None and isinstance(x, jax.Array) else "dlpack"
    return "interface" if hasattr(x, "__cuda_array_interface__") else None


def device_of(x: Any, library: Library) -> int:
    """The number of the device that an array of this library lies on."""
    if library == "torch":
        number: int = x.get_device()
    elif library == "cupy":
        number = x.device.id
    elif library == "interface":
        number = device.of_pointer(x.__cuda_array_interface__["data"][0])
    else:
        number = int(x.__dlpack_device__()[1])
    return number


def stream_of(library: Library, gpu: Gpu) -> int:
    """The stream for calls with arrays of a library: PyTorch's current one of the device, or CuPy's."""
    if library == "torch":
        stream: int = sys.modules["torch"].cuda.current_stream(gpu.number).cuda_stream
    else:
        stream = gpu.api.cuda.get_current_stream(gpu.number).ptr
    return stream


def find(x: Any, name: str, library: Library, gpu: Gpu, stream: int) -> Found:
    """Where the array called `name` lies, for kernels on `stream`.

    DTypeError, GradientError, OperandError: as `attnc.runtime.arrays.view`.
    """
    if library == "torch":
        return Found(torch_view(x, name, sys.modules["torch"]), library, stream_of(library, gpu))
    if library == "cupy":
        view = View(x.data.ptr, x.shape, x.strides, dtype_name(x.dtype, name), library, x)
        return Found(view, library, stream_of(library, gpu))
    if library == "interface":
        return _interface(x, name)
    handle = dlpack.cuda_capsule(x, stream)
    tensor = dlpack.read(handle, name, dlpack.CUDA_DEVICES)
    return Found(View(*tensor, library, (x, handle)), library, None)


def _interface(x: Any, name: str) -> Found:
    """By the CUDA array interface, version 2 or 3."""
    about = x.__cuda_array_interface__
    if about.get("mask") is not None:
        raise DeviceError(
            f"`{name}` is masked", cause="attnc would not see its mask", cure="pass the mask as an operand"
        )
    dtype = np.dtype(about["typestr"])
    shape = tuple(about["shape"])
    strides = about.get("strides") or dlpack.compact(shape, dtype.itemsize)
    view = View(about["data"][0], shape, tuple(strides), dtype_name(dtype, name), "interface", x)
    stream = about.get("stream")
    return Found(view, "interface", None if stream is None else int(stream))


def maker(library: Library, shape: tuple[int, ...], dtype: str, gpu: Gpu) -> Callable[[], tuple[Any, int]]:
    """What makes uninitialised row-major arrays in a library's own memory, and their addresses.

    They are PyTorch's or CuPy's; the latter for other libraries too.
    """
    if library == "torch":
        torch = sys.modules["torch"]
        kind, place, new = getattr(torch, dtype), torch.device("cuda", gpu.number), torch.empty

        def tensor() -> tuple[Any, int]:
            made = new(shape, dtype=kind, device=place)
            return made, made.data_ptr()

        return tensor
    numpy_kind, create, runtime = numpy_dtype(dtype), gpu.api.empty, gpu.api.cuda.runtime

    def array() -> tuple[Any, int]:
        if runtime.getDevice() != gpu.number:
            with device.current(gpu):
                made = create(shape, numpy_kind)
        else:
            made = create(shape, numpy_kind)
        return made, made.data.ptr

    return array


def finish(library: Library, gpu: Gpu, stream: int, made: Sequence[Any]) -> tuple[Any, ...]:
    """Outputs of a call with arrays of another library than PyTorch and CuPy; q's `library` is JAX: as JAX's arrays.

    The library may give an input's memory to other work as soon as the call is over, and that does not wait for CuPy's stream:
    so the call waits here until it is done.
    """
    with device.current(gpu):  # every device has its own stream 0
        gpu.api.cuda.runtime.streamSynchronize(stream)
    if library == "jax":
        from_dlpack: Callable[[Any], Any] = sys.modules["jax"].dlpack.from_dlpack
        return tuple(from_dlpack(x) for x in made)
    return tuple(made)


def on_host(x: Any) -> Any:
    """A NumPy array with the contents of an array on a GPU; what lies on the host stays as it is."""
    library = library_of(x)
    if library is None:
        return x
    if library == "torch":
        return x.cpu()
    gpu = device.gpu(device_of(x, library))
    with device.current(gpu):
        if library != "cupy":
            x = gpu.api.asarray(x) if library == "interface" else gpu.api.from_dlpack(x)
        return gpu.api.asnumpy(x)
