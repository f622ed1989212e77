"""Emitted source to an object file, and back into a process that never imports Numba."""

from __future__ import annotations

import ctypes
import re
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
    assert set(elf.undefined(code)) <= {"log1p", "_GLOBAL_OFFSET_TABLE_"}
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
    for damaged in (b"", b"\x7fELF", code[: len(code) // 2], b"#!/bin/sh\n"):
        with pytest.raises(ValueError, match="ELF"):
            machine.load_object(damaged, "kernel")
    with pytest.raises(AssertionError, match="has no function other"):
        machine.load_object(code, "other")


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
