"""The packages that compile CUDA kernels, imported when they are needed and not before."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from attnc.errors import UnsupportedError

PACKAGES = ("numba", "llvmlite", "numba-cuda", "cuda-core", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink")
CURE = "pip install 'attnc[cuda]'"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Modules: numba.cuda's compiler, types, NVVM and lock; nvJitLink. libdevice: LLVM bitcode of math functions."""

    compiler: Any
    types: Any
    nvvm: Any
    lock: Any
    nvjitlink: Any
    libdevice: bytes


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what compiles, "" for what is not installed. Imports none of it."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # NVIDIA's libraries may come from a system's CUDA toolkit
            found[package] = ""
    return found


@functools.cache
def toolchain() -> Toolchain:
    """Imports everything that compiles; intrinsics call this before they touch numba.cuda.

    No driver and no GPU are needed. UnsupportedError where a package or library is missing.
    """
    if not versions()["numba-cuda"]:
        raise _missing("numba-cuda is not installed")
    if importlib.import_module("numba.core.config").ENABLE_CUDASIM:
        raise UnsupportedError(
            "CUDA kernels cannot be compiled",
            cause="NUMBA_ENABLE_CUDASIM replaces numba-cuda's compiler by its simulator",
            cure="unset NUMBA_ENABLE_CUDASIM",
        )
    try:
        with _row_stack():
            importlib.import_module("numba.cuda.np.arrayobj")  # else at the first compilation
        nvvm: Any = importlib.import_module("numba.cuda.cudadrv.nvvm")
        nvjitlink: Any = importlib.import_module("cuda.bindings.nvjitlink")
        pathfinder: Any = importlib.import_module("cuda.pathfinder")
        nvvm.NVVM()
        nvjitlink.version()
        return Toolchain(
            importlib.import_module("numba.cuda.compiler"),
            importlib.import_module("numba.cuda.types"),
            nvvm,
            importlib.import_module("numba.cuda.core.compiler_lock").global_compiler_lock,
            nvjitlink,
            # Numba's own search for libdevice would load NVRTC, 90 MB that nothing here needs.
            Path(pathfinder.find_bitcode_lib("device")).read_bytes(),
        )
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # RuntimeError: a library is not found
        raise _missing(f"{str(error).strip() or type(error).__name__}") from error


def _missing(cause: str) -> UnsupportedError:
    return UnsupportedError("CUDA kernels cannot be compiled", cause=cause, cure=CURE)


@contextlib.contextmanager
def _row_stack() -> Iterator[None]:
    """numba-cuda 0.30 gives `np.row_stack` an implementation when it is imported; NumPy 2.5 no longer has the name."""
    if hasattr(np, "row_stack"):
        yield
        return
    names: Any = np
    names.row_stack = np.vstack
    try:
        yield
    finally:
        del names.row_stack
