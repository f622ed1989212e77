"""Runs a kernel in parallel: one native call per worker, on a pool of threads that Python does not know.

Importing this module starts nothing; the pool is built at the first call with several workers, and again in a forked
child, which inherits no threads. Numba and its thread pools are never involved.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
import time
from typing import Any

import llvmlite.binding as llvm

from attnc.backends.cpu import pool
from attnc.errors import OperandError, UnsupportedError

WATCH_SECONDS = 50e-6  # before an idle thread sleeps: waking it takes as long, and longer on virtual machines
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
PTHREADS = os.name == "posix"
MAX_WORKERS = 2**31 - 1  # a ticket counts them in 32 bits


class _Native:
    """The pool's machine code. Never freed: its threads may be inside it until the process ends."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        # Unoptimised: 6 ms at the first parallel call instead of 16, and no slower where it waits anyway.
        machine = llvm.Target.from_default_triple().create_target_machine(opt=0, codemodel="jitdefault", jit=True)
        affinity = sys.platform == "linux" and all(hasattr(ctypes.CDLL(None), name) for name in pool.AFFINITY)
        text = pool.source(platform.machine(), affinity)
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
        self.engine.finalize_object()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.engine))
        pause, setup, grow, run = (self.engine.get_function_address(name) for name in pool.SYMBOLS)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self.pause = ctypes.CFUNCTYPE(None, pointer, number)(pause)
        self.setup = ctypes.CFUNCTYPE(None, pointer, number)(setup)
        self.grow = ctypes.CFUNCTYPE(number, pointer, number)(grow)
        self.run = ctypes.CFUNCTYPE(None, pointer, pointer, number, number)(run)


class Pool:
    """Native threads, one less than a job's workers or `get_num_threads()`; made when first needed, never ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # one job at a time: a second caller waits for the first
        self.limit: int | None = None  # until somebody asks: a bad environment variable is no reason not to import
        self.size = 0
        self.native: _Native | None = None
        self.memory: Any = None
        self.place = 0

    def run(self, address: int, args_address: int, workers: int) -> None:
        """See `run` of this module."""
        with self.lock:
            if self.native is None:
                self.native = _Native()
            if not self.place:
                self._build(self.native)
            if self.size < (wanted := min(workers, get_num_threads()) - 1):
                self._grow(self.native, wanted - self.size)
            self.native.run(self.place, address, args_address, workers)

    def forked(self) -> None:
        """In the child of a fork: forgets the parent's threads, and a lock that another thread may have held."""
        self.lock, self.size, self.place = threading.Lock(), 0, 0

    def _build(self, native: _Native) -> None:
        self.memory = ctypes.create_string_buffer(pool.SIZE + 64)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.memory))  # the threads sleep on it until the process ends
        self.place = (ctypes.addressof(self.memory) + 63) // 64 * 64
        turns, best = 500, float("inf")
        for _ in range(3):  # the shortest: in the others the system may have run something else meanwhile
            start = time.perf_counter()
            native.pause(self.place, turns)
            best = min(best, time.perf_counter() - start)
        native.setup(self.place, int(turns * WATCH_SECONDS / best))

    def _grow(self, native: _Native, count: int) -> None:
        # Threads inherit the mask: signals are for Python's own threads, except those that a fault raises.
        faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
        try:
            self.size += native.grow(self.place, count)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_num_threads() -> int:
    """ATTNC_NUM_THREADS, else the processors this process may use; 1 where there are no pthreads."""
    if not PTHREADS:
        return 1
    if chosen := os.environ.get("ATTNC_NUM_THREADS"):
        if not chosen.strip().isdecimal() or int(chosen) < 1:
            raise OperandError(
                "ATTNC_NUM_THREADS is not a number of threads",
                where="the environment",
                cause=f"its value is {chosen!r}",
                cure="set it to an integer from 1 up, or unset it",
            )
        return int(chosen)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, os.cpu_count() or 1)


_POOL = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forked)


def run(address: int, args_address: int, workers: int) -> None:
    """Calls the C function `void f(int64 args, int64 worker)` at `address` for worker 0 .. workers-1; waits for all.

    The caller's thread and those of the pool take workers in any order, so that one worker must not wait for another;
    there may be more workers than threads. One worker runs inline. The GIL is released while kernels run; calls from
    several Python threads take turns.
    """
    assert 0 <= workers <= MAX_WORKERS, f"internal error: {workers} workers"
    if workers > 1 and PTHREADS:
        _POOL.run(address, args_address, workers)
        return
    for worker in range(workers):
        KERNEL(address)(args_address, worker)


def set_num_threads(n: int) -> None:
    """Lets kernels use `n` threads from now on, n >= 1. OperandError for anything else."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise OperandError(
            "not a number of threads",
            where="set_num_threads",
            cause=f"n is {n!r}",
            cure="pass an integer from 1 up",
        )
    if n > 1 and not PTHREADS:
        raise UnsupportedError(
            f"no {n} threads on this system",
            where="set_num_threads",
            cause="attnc's CPU threads are pthreads, which it lacks",
            cure="leave the number at 1",
        )
    _POOL.limit = n


def get_num_threads() -> int:
    """How many threads a kernel may use: by default the processors of this process, or ATTNC_NUM_THREADS."""
    if _POOL.limit is None:
        _POOL.limit = default_num_threads()
    return _POOL.limit
