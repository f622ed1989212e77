"""The arrays of a call on a GPU: all on one device, and ordered on one stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnc.backends.cuda import device
from attnc.backends.cuda.arrays import Found, Library, device_of, find, library_of, stream_of
from attnc.backends.cuda.device import Gpu
from attnc.dsl.place import here
from attnc.dsl.signature import Signature
from attnc.errors import AttncError, DeviceError, OperandError
from attnc.interp import Array
from attnc.runtime.arrays import View
from attnc.runtime.binding import describe

LEGACY = 1  # CUDA's other number of the default stream 0


@dataclass(frozen=True, slots=True)
class Given:
    """q, k, v, operands: as the call has them, with NumPy arrays for those on the GPU: of their addresses, shapes, strides and
    dtypes, to be looked at and never to be read. library: of Q. stream: where its library works, and kernels are launched.

    out: the caller's array for the output, or None. keep: what the addresses need.
    """

    q: Array
    k: Array
    v: Array
    operands: dict[str, Any]
    out: View | None
    library: Library
    gpu: Gpu
    stream: int
    keep: tuple[Found, ...]


def look(signature: Signature, q: Any, k: Any, v: Any, operands: Mapping[str, Any], out: Any = None) -> Given:
    """The arrays of a call of which at least one of q, k, v is on a GPU.

    DeviceError: one is not, or on another device, or on another stream, or CuPy, a driver or a device is missing.
    OperandError: a number on the GPU; an array that is not a plain one. DTypeError, GradientError: as for arrays on the host.
    """
    try:
        return _look(signature, {"q": q, "k": k, "v": v}, operands, out)
    except AttncError as error:
        raise error.located(here()) from None


def _look(signature: Signature, roles: dict[str, Any], operands: Mapping[str, Any], out: Any) -> Given:
    tables = {name: x for name, x in operands.items() if _is_table(signature, name, x)}
    arrays = {**roles, **tables} | ({} if out is None else {"out": out})
    libraries = {name: library_of(x) for name, x in arrays.items()}
    leader = next(name for name in roles if libraries[name] is not None)
    number = device_of(arrays[leader], _known(libraries[leader]))
    for name, x in arrays.items():
        library = libraries[name]
        if library is None:
            raise _on_host(_shown(name), x, _shown(leader), _known(libraries[leader]), number)
        if device_of(x, library) != number:
            raise DeviceError(
                f"`{_shown(leader)}` and `{_shown(name)}` lie on different devices",
                cause=f"`{_shown(leader)}` is on device {number}, `{_shown(name)}` on device {device_of(x, library)}; a kernel runs on one",
                cure=f"move `{_shown(name)}` to device {number}",
            )
    gpu = device.gpu(number)
    library = _known(libraries["q"])
    stream = stream_of(library, gpu)
    found = {name: find(x, _shown(name), _known(libraries[name]), gpu, stream) for name, x in arrays.items()}
    for name, x in found.items():
        _check_stream(_shown(name), x, library, stream)
    views = {name: describe(x.view) for name, x in found.items() if name != "out"}
    mixed = {name: views[name] if name in tables else x for name, x in operands.items()}
    written = None if out is None else _writable(found["out"])
    return Given(views["q"], views["k"], views["v"], mixed, written, library, gpu, stream, tuple(found.values()))


def _shown(name: str) -> str:
    """An argument's name in messages; an operand may be called Q, but none is called q."""
    return name.upper() if name in ("q", "k", "v") else name


def _known(library: Library | None) -> Library:
    assert library is not None
    return library


def _is_table(signature: Signature, name: str, x: Any) -> bool:
    """Whether an operand is an array that a kernel reads. OperandError: it is a number, but on the GPU."""
    operand = signature.operands.get(name)
    is_array = any(hasattr(x, word) for word in ("__array_interface__", "__dlpack__", "__cuda_array_interface__"))
    if operand is None or not is_array:
        return False  # a number, or None, or what `bind` refuses
    if operand.role == "tensor":
        return True
    if library_of(x) is not None:
        raise OperandError(
            f"operand {name!r} is on the GPU",
            cause=f"it is declared {operand.declared}, a number of the call; reading it would wait for the GPU at every call",
            cure=f"pass {name}.item(), or declare it as an array in the variant",
        )
    return False


def _on_host(name: str, x: Any, leader: str, library: Library, number: int) -> DeviceError:
    if library == "torch":
        cure = f"torch.as_tensor({name}, device='cuda:{number}'), or cupy.asarray({name})"
    else:
        cure = f"cupy.asarray({name})"
    return DeviceError(
        f"`{name}` is in the host's memory, `{leader}` on device {number}",
        cause=f"`{name}` is a {type(x).__module__.partition('.')[0]}.{type(x).__name__}; a kernel reads the memory of one device, and a "
        "copy at every call would be slow and could not be captured in a CUDA graph",
        cure=f"move it there once: {cure}",
    )


def _check_stream(name: str, found: Found, library: Library, stream: int) -> None:
    """DeviceError where the array is worked on in another stream than the kernel."""
    if found.stream is None or _same(found.stream) == _same(stream):
        return
    mine, other = _words(library), _words(found.library)
    raise DeviceError(
        f"`{name}` belongs to another stream than `Q`",
        cause=f"{other} works on stream {found.stream:#x}, {mine}, where the kernel would run, on {stream:#x}: it could run too early",
        cure="make one stream current in both: with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream): ...",
    )


def _same(stream: int) -> int:
    return 0 if stream == LEGACY else stream


def _words(library: Library) -> str:
    return {"torch": "PyTorch", "interface": "its library"}.get(library, "CuPy")


def _writable(found: Found) -> View:
    if found.library not in ("torch", "cupy"):
        raise OperandError(
            "out cannot be written",
            cause="arrays of its library may be immutable",
            cure="pass a CuPy array or a PyTorch tensor, or leave out= away",
        )
    return found.view
