"""Views of NumPy, torch and DLPack arrays: the same address, shape, strides and dtype, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from attnc.errors import DeviceError, DTypeError, GradientError, OperandError
from attnc.runtime.arrays import ITEMSIZE, empty, finish, numpy_dtype, view

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
TORCH = sorted(set(ITEMSIZE))


class Producer:
    """Anything with __dlpack__; `versioned` ones know the max_version of the 2023.12 standard."""

    def __init__(self, x: Any, versioned: bool = True, device: int | None = None) -> None:
        self.x, self.versioned, self.device = x, versioned, device

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned and options:
            raise TypeError("unexpected keyword argument")
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0) if self.device is not None else self.x.__dlpack_device__()


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
def test_numpy(dtype: str) -> None:
    x = np.zeros((2, 3, 4), numpy_dtype(dtype))
    v = view(x, "q")
    assert (v.address, v.shape, v.strides, v.dtype, v.kind) == (x.ctypes.data, (2, 3, 4), x.strides, dtype, "numpy")
    assert v.keep is x


def test_numpy_views_keep_their_strides() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    flipped = view(x[:, ::-1, ::2], "q")
    assert (flipped.shape, flipped.strides) == ((2, 3, 2), (96, -32, 16))
    assert flipped.address == view(x, "q").address + 64
    assert view(np.broadcast_to(x[:1], (5, 3, 4)), "q").strides == (0, 32, 8)
    assert view(np.float32([1]).reshape(()), "q").shape == ()
    read_only = np.ones(3)
    read_only.flags.writeable = False
    assert view(read_only, "q").address == read_only.ctypes.data


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (1, 2, 0)])
def test_zero_sizes(shape: tuple[int, ...]) -> None:
    for x in (np.zeros(shape, np.float32), torch.zeros(shape), Producer(torch.zeros(shape), versioned=False)):
        v = view(x, "k")
        assert v.shape == shape and len(v.strides) == len(shape)


@pytest.mark.parametrize("dtype", TORCH)
def test_torch(dtype: str) -> None:
    x = torch.zeros(4, 3, 2, dtype=getattr(torch, dtype)).transpose(0, 2)[1:]
    v = view(x, "q")
    size = ITEMSIZE[dtype]
    assert (v.address, v.shape, v.dtype, v.kind) == (x.data_ptr(), (1, 3, 4), dtype, "torch")
    assert v.strides == (size, 2 * size, 6 * size) and v.keep is x


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("dtype", TORCH)
def test_dlpack(dtype: str, versioned: bool) -> None:
    x = torch.zeros(4, 3, 2, dtype=getattr(torch, dtype)).transpose(0, 2)[1:]
    got, want = view(Producer(x, versioned), "q"), view(x, "q")
    assert (got.address, got.shape, got.strides, got.dtype) == (want.address, want.shape, want.strides, dtype)
    assert got.kind == "dlpack"


@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack_of_numpy(versioned: bool) -> None:
    x = np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::-1]
    v = view(Producer(x, versioned), "q")
    assert (v.address, v.shape, v.strides, v.dtype) == (x.ctypes.data, x.shape, x.strides, "int16")


def test_the_view_keeps_the_memory_of_a_capsule() -> None:
    class Fleeting:
        def __dlpack__(self, **options: Any) -> Any:
            return (torch.arange(1000.0) + 1).__dlpack__(**options)

    v = view(Fleeting(), "q")
    assert torch.zeros(1000).sum() == 0  # would take the freed memory
    import ctypes

    assert (ctypes.c_float * 1000).from_address(v.address)[999] == 1000


@pytest.mark.parametrize("kind", ["numpy", "torch", "dlpack"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_empty(kind: str, dtype: str) -> None:
    made, v = empty(kind, (2, 1, 3), dtype)
    seen = view(made, "out")
    assert (v.address, v.shape, v.strides, v.dtype) == (seen.address, (2, 1, 3), seen.strides, dtype)
    assert type(made) is (torch.Tensor if kind == "torch" else np.ndarray)
    assert finish(made, made) is made and finish(Producer(made), made) is made
    assert empty(kind, (2, 0), dtype)[1].shape == (2, 0)


def test_the_output_of_jax_arrays_is_a_jax_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for jax, which the tests do not install: an immutable array that speaks DLPack."""

    class Array(Producer):
        pass

    module = types.SimpleNamespace(Array=Array, numpy=types.SimpleNamespace(asarray=Array))
    monkeypatch.setitem(sys.modules, "jax", module)
    made, _ = empty(view(Array(torch.zeros(3)), "q").kind, (3,), "float32")
    out = finish(Array(torch.zeros(3)), made)
    assert type(out) is Array and out.x is made
    assert finish(Producer(torch.zeros(3)), made) is made


def test_gradients_are_refused_unless_switched_off() -> None:
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(GradientError, match=r"(?s)`k` requires gradients.*k\.detach\(\)"):
        view(x, "k")
    with torch.no_grad():
        assert view(x, "k").shape == (3,)
    assert view(x.detach(), "k").shape == (3,)


def test_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"(?s)meta.*v\.cpu\(\)"):
        view(torch.zeros(3, device="meta"), "v")
    with pytest.raises(DeviceError, match="cuda device"):
        view(Producer(torch.zeros(3), device=2), "v")


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(3, ">f4"),
        np.zeros(3, complex),
        np.array(["a"]),
        np.array([None]),
        np.zeros(3, "V2"),
        np.zeros(3, [("a", "u2")]),
        np.zeros(3, ml_dtypes.float8_e4m3),
        np.zeros(3, np.longdouble),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3).to(torch.float8_e5m2),
        Producer(torch.zeros(3, dtype=torch.complex64)),
    ],
    ids=lambda x: str(getattr(x, "dtype", "dlpack")),
)
def test_dtypes_that_are_refused(x: Any) -> None:
    with pytest.raises(DTypeError, match="argument q"):
        view(x, "q")


@pytest.mark.parametrize("x", [[1.0], (1.0,), 3.0, None, "q", np.ma.zeros(3), torch.eye(3).to_sparse()], ids=repr)
def test_what_is_no_array_is_refused(x: Any) -> None:
    with pytest.raises(OperandError, match="argument q"):
        view(x, "q")


def test_torch_is_not_imported() -> None:
    program = (
        "import sys, numpy as np; from attnc.runtime.arrays import view, empty; view(np.zeros(3), 'q');"
        "empty('numpy', (2,), 'float32'); print(sorted({'torch', 'ml_dtypes', 'numba', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
