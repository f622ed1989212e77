"""Emitted source to an object file, and back into a process that never imports Numba."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.backends.cpu import machine, objects
from attnc.backends.module import execute

ROOT = Path(__file__).parents[2]
SOURCE = """
from numba.types import float64
from attnc.backends.cpu.elementwise import add, log1p, mul
from attnc.backends.cpu.memory import load, store

def kernel(args, worker):
    place = args + 8 * worker
    store(place, add(log1p(load(float64, place)), mul(10.0, worker)))

def mistaken(args, worker):
    return worker.nothing

def unknown(args, worker):
    nothing(args)
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    return machine.compile_object(SOURCE, "/nowhere/emitted.py", "kernel")


def call(loaded: machine.Loaded, data: np.ndarray, worker: int) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address)(data.ctypes.data, worker)


def test_an_object_is_compiled_loaded_and_called(code: bytes) -> None:
    loaded, again = machine.load_object(code, "kernel"), machine.load_object(code, "kernel")
    assert loaded.symbol == "kernel" and loaded.address != again.address
    data = np.zeros(4)
    call(loaded, data, 2)
    call(again, data, 3)
    assert data.tolist() == [0, 0, 20, 30]


def test_the_object_is_the_same_each_time(code: bytes) -> None:
    (part,) = objects.split(code)
    defined, needed = objects.symbols(part)
    assert "kernel" in defined and needed <= {"log1p", "_GLOBAL_OFFSET_TABLE_"}
    assert machine.compile_object(SOURCE, "/nowhere/emitted.py", "kernel") == code


def test_a_fresh_process_loads_it_without_numba(code: bytes, tmp_path: Path) -> None:
    (tmp_path / "kernel.o").write_bytes(code)
    program = f"""
import ctypes, sys
from attnc.backends.cpu.machine import host, load_object
loaded = load_object(open({str(tmp_path / "kernel.o")!r}, "rb").read(), "kernel")
data = (ctypes.c_double * 4)()
ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address)(ctypes.addressof(data), 1)
assert len(host().split()) >= 2 and "numba" not in sys.modules
print(list(data))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[0.0, 10.0, 0.0, 0.0]", done.stderr


def test_errors_in_emitted_source_show_its_file() -> None:
    for entry, line in (("mistaken", "11: return worker.nothing"), ("unknown", "14: nothing(args)")):
        with pytest.raises(AssertionError, match=rf"^internal error: .*\n/nowhere/emitted\.py:{re.escape(line)}"):
            machine.compile_object(SOURCE, "/nowhere/emitted.py", entry)
    with pytest.raises(ZeroDivisionError) as fault:
        execute("a = 1\nb = a / 0\n", "/nowhere/faulty.py")
    assert "b = a / 0" in "".join(traceback.format_exception(fault.value))


def test_damaged_objects_are_refused_before_the_loader_sees_them(code: bytes) -> None:
    for damaged in (b"", objects.MAGIC, code[: len(code) // 2], code + b"x", b"#!/bin/sh\n"):
        with pytest.raises(ValueError, match="block of object files"):
            machine.load_object(damaged, "kernel")
    (part,) = objects.split(code)
    for damaged in (b"", part[: len(part) // 2], b"\x7fELF", b"#!/bin/sh\n"):
        with pytest.raises(ValueError, match="ELF"):
            machine.load_object(objects.join([part, damaged]), "kernel")
    with pytest.raises(AssertionError, match="has no function other"):
        machine.load_object(code, "other")


PRODUCT = """
from numba.types import float32
from attnc.backends.cpu.microkernel import gemm_zero
from attnc.backends.cpu.vector import vec
F = vec(float32, 4)
def kernel(args, worker):
    gemm_zero(F, 4, 1, worker, 1, args, 8, 4, args + 256, 16, args + 512, 16, 2, 0)
"""


def test_pieces_lie_in_objects_of_their_own_and_are_found_by_the_loader() -> None:
    families: list[list[str]] = []

    def library(family: Any) -> bytes:
        families.append([x.name for x in family])
        return machine.compile_pieces(family)

    code = machine.compile_object(PRODUCT, "/nowhere/product.py", "kernel", library)
    own, shared = map(objects.symbols, objects.split(code))
    assert len(families) == 1 and set(families[0]) == own[1] - {"_GLOBAL_OFFSET_TABLE_"} and shared[0] >= own[1]
    assert machine.provides(objects.split(code)[1], families[0])
    assert not machine.provides(objects.split(code)[1], ["kernel"]) and not machine.provides(b"", [])
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 2)).astype("float32"), rng.standard_normal((2, 4)).astype("float32")
    memory = np.zeros((4, 64), "float32")
    memory[0, :14], memory[1, :8] = a.ravel(), b.ravel()
    call(machine.load_object(code, "kernel"), memory, 7)
    np.testing.assert_allclose(memory[2, :28].reshape(7, 4), a @ b, atol=1e-6)
    with pytest.raises(AssertionError, match=r"needs attnc\.gemm\..*, which is nowhere"):
        machine.load_object(objects.join(objects.split(code)[:1]), "kernel")


def test_code_that_calls_what_is_nowhere_is_refused() -> None:
    source = SOURCE.replace(
        "def unknown",
        """
from numba.core import types
from numba.extending import intrinsic
from attnc.backends.cpu.lanes import Lanes

@intrinsic
def nothing(typingctx, x):
    def generate(context, builder, signature, values):
        Lanes(builder, types.int64, None).function("attnc_nowhere", values[0].type, values)
        return context.get_dummy_value()
    return types.void(x), generate

def unknown""",
    )
    with pytest.raises(AssertionError, match="the kernel unknown needs attnc_nowhere"):
        machine.compile_object(source, "/nowhere/emitted.py", "unknown")
