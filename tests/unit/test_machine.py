"""Emitted source to an object file, and back into a process that never imports Numba."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

from attnc.backends.cpu import elf, machine
from attnc.backends.module import execute

ROOT = Path(__file__).parents[2]
SOURCE = """
import math
import numpy as np
from numba import carray, int64, types
from numba.extending import intrinsic

@intrinsic
def pointer(context, address):
    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))
    return types.CPointer(types.float64)(int64), generate

def kernel(args, worker):
    out = carray(pointer(args), 4)
    out[worker] = math.exp(out[worker]) + 10 * worker

def allocates(args, worker):
    carray(pointer(args), 4)[0] = np.empty(worker).sum()

def raises(args, worker):
    if worker > 2:
        raise ValueError("no")

def mistaken(args, worker):
    return worker.nothing
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
    assert data.tolist() == [0, 0, 21, 31]


def test_the_object_is_the_same_each_time(code: bytes) -> None:
    assert set(elf.undefined(code)) <= {"exp", "_GLOBAL_OFFSET_TABLE_"}
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
    assert done.stdout.strip() == "[0.0, 11.0, 0.0, 0.0]", done.stderr


@pytest.mark.parametrize(("entry", "symbol"), [("allocates", "NRT_MemInfo_alloc"), ("raises", "Py")])
def test_what_is_no_plain_c_function_is_refused(entry: str, symbol: str) -> None:
    with pytest.raises(AssertionError, match=f"internal error: the kernel {entry} .*{symbol}"):
        machine.compile_object(SOURCE, "/nowhere/emitted.py", entry)


def test_errors_in_emitted_source_show_its_file() -> None:
    with pytest.raises(Exception, match=r"nowhere.emitted\.py") as caught:
        machine.compile_object(SOURCE, "/nowhere/emitted.py", "mistaken")
    assert "return worker.nothing" in str(caught.value)
    with pytest.raises(ZeroDivisionError) as fault:
        execute("a = 1\nb = a / 0\n", "/nowhere/faulty.py")
    assert "b = a / 0" in "".join(traceback.format_exception(fault.value))


def test_damaged_objects_are_refused_before_the_loader_sees_them(code: bytes) -> None:
    for damaged in (b"", b"\x7fELF", code[: len(code) // 2], b"#!/bin/sh\n"):
        with pytest.raises(ValueError, match="ELF"):
            machine.load_object(damaged, "kernel")
    with pytest.raises(AssertionError, match="has no function other"):
        machine.load_object(code, "other")
