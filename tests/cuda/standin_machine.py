"""A computer with stand-in GPUs, on which attnc calls variants from arrays to arrays: kernels are emitted, and run in the emulator."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from standin_arrays import install_jax, install_torch
from standin_cupy import Machine, fake_cubin, install
from standin_driver import Driver

import attnc as at
from attnc.backends.cuda import encode
from attnc.backends.cuda.compile import ENTRY, Cubin
from attnc.backends.cuda.report import Report

NOTHING = Report(0, 0, 0, 0, 0, 0, (), 0.0, 0.0, {})


@dataclass
class Site:
    """The machine, and its modules."""

    machine: Machine
    cupy: Any
    torch: Any
    jax: Any
    driver: Driver = field(default_factory=Driver)

    def array(self, x: np.ndarray[Any, Any], kind: str = "cupy", device: int = 0) -> Any:
        """x in the memory of a device, with its strides."""
        return self.torch.Tensor(x, device) if kind == "torch" else self.cupy.ndarray(x, device)


def fake_compile(source: str, path: str, threads: int, target: Any) -> Cubin:
    """In the place of the compiler: "machine code" that the stand-in runs."""
    return Cubin(fake_cubin(source), ENTRY, NOTHING)


def fresh(variant: Any) -> at.Attention:
    """The variant without kernels of another machine."""
    return at.attention(variant.function)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Site:
    """One GPU of compute capability 8.0, with CuPy, PyTorch and JAX, and a cache of its own."""
    machine = Machine()
    made = Site(machine, install(machine), install_torch(machine), install_jax())
    monkeypatch.setitem(sys.modules, "cupy", made.cupy)
    monkeypatch.setitem(sys.modules, "torch", made.torch)
    monkeypatch.setitem(sys.modules, "jax", made.jax)
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("attnc.backends.cuda.kernel.compile_cubin", fake_compile)
    monkeypatch.setattr(encode, "driver", lambda: encode.typed(made.driver))
    return made


@pytest.fixture
def hopper(site: Site) -> Site:
    """The same with an H200 of two multiprocessors."""
    site.machine.capabilities[:] = [(9, 0)]
    site.machine.shared = 227 * 1024
    site.machine.multiprocessors = 2
    return site
