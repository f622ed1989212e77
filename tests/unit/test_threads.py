"""The native thread pool: every worker once, from any thread, after a fork, with more workers than processors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from attnc.backends.cpu import pool, threads
from attnc.errors import OperandError

ROOT = Path(__file__).parents[2]
COUNT = """
define void @count(i64 %args, i64 %worker) {
  %base = inttoptr i64 %args to ptr
  %place = getelementptr i64, ptr %base, i64 %worker
  %old = atomicrmw add ptr %place, i64 1 monotonic
  ret void
}
"""


def compiled() -> tuple[int, Any]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(COUNT), machine)
    return engine.get_function_address("count"), engine


ADDRESS, KEEP = compiled()


@pytest.fixture
def threads_restored() -> Any:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 16, 1000])
def test_every_worker_runs_once(limit: int, workers: int, threads_restored: None) -> None:
    threads.set_num_threads(limit)
    seen = np.zeros(1001, np.int64)
    for turn in range(1, 50):
        threads.run(ADDRESS, seen.ctypes.data, workers)
        assert (seen[:workers] == turn).all() and not seen[workers:].any()


def test_python_threads_may_call_at_once(threads_restored: None) -> None:
    threads.set_num_threads(3)
    seen = np.zeros((6, 8), np.int64)

    def caller(row: int) -> None:
        for turn in range(300):
            threads.run(ADDRESS, seen[row].ctypes.data, 1 + turn % 4)

    callers = [threading.Thread(target=caller, args=(row,)) for row in range(6)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(60)
        assert not each.is_alive()
    assert (seen == [300, 225, 150, 75, 0, 0, 0, 0]).all()


def test_workers_run_at_the_same_time(threads_restored: None) -> None:
    """Two workers meet at a barrier. Kernels must not do so; here Python callbacks stand in for one."""
    threads.set_num_threads(2)
    barrier, met = threading.Barrier(2), []
    kernel = threads.KERNEL(lambda args, worker: met.append((worker, barrier.wait(30), threading.get_ident())))
    threads.run(ctypes.cast(kernel, ctypes.c_void_p).value or 0, 0, 2)
    assert {worker for worker, _, _ in met} == {0, 1} and len({ident for _, _, ident in met}) == 2


def child(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SETUP = f"""
import os, sys
import llvmlite.binding as llvm
from attnc.backends.cpu import pool, threads
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
engine = llvm.create_mcjit_compiler(llvm.parse_assembly({COUNT!r}), machine)
ADDRESS = engine.get_function_address("count")
"""
FORK = """
import ctypes
threads.set_num_threads(3)
seen = (ctypes.c_int64 * 6)()
def use():
    for _ in range(200):
        threads.run(ADDRESS, ctypes.addressof(seen), 5)
use()
pid = os.fork()
if pid == 0:
    use()
    print("child", list(seen), flush=True)
    grandchild = os.fork()
    if grandchild == 0:
        use()
        os._exit(0 if seen[0] == 600 else 1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
use()
print("parent", status, list(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_after_use_works() -> None:
    assert child(SETUP + FORK) == "child [400, 400, 400, 400, 400, 0]\nparent 0 [400, 400, 400, 400, 400, 0]"


def test_no_numba_and_no_thread_before_the_first_use() -> None:
    program = SETUP + (
        "count = lambda: len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1\n"
        "before = count()\n"
        "import ctypes; data = (ctypes.c_int64 * 4)()\n"
        "threads.run(ADDRESS, ctypes.addressof(data), 1); assert count() == before\n"
        "threads.set_num_threads(4); threads.run(ADDRESS, ctypes.addressof(data), 3); assert count() <= before + 2\n"
        "print('numba' in sys.modules, list(data))"
    )
    assert child(program) == "False [2, 1, 1, 0]"


def test_the_number_of_threads(threads_restored: None) -> None:
    threads.set_num_threads(7)
    assert threads.get_num_threads() == 7
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(OperandError, match="set_num_threads"):
            threads.set_num_threads(wrong)  # type: ignore[arg-type]
    read = "from attnc.backends.cpu import threads; print(threads.get_num_threads())"
    assert child(read, ATTNC_NUM_THREADS="3") == "3"
    assert int(child(read, ATTNC_NUM_THREADS="")) == threads.default_num_threads()
    failing = "from attnc.backends.cpu import threads\ntry:\n    threads.get_num_threads()\n"
    assert "'many'" in child(failing + "except TypeError as error:\n    print(error)", ATTNC_NUM_THREADS="many")


APART = """
import os, time
import numpy as np
from attnc.variants import full

def others():
    return {int(x) for x in os.listdir("/proc/self/task")} - {os.getpid()}

x = np.ones((1, 4, 256, 64), np.float32)
allowed = os.sched_getaffinity(0)
before = others()
full(x, x, x)
time.sleep(0.05)  # the pool sleeps now, and is woken
full(x, x, x)
(thread,) = others() - before
print(len(allowed), len(allowed - os.sched_getaffinity(thread)), len(os.sched_getaffinity(thread) - allowed))
os.sched_setaffinity(0, {min(allowed)})  # no other processor is left to the caller: threads stay where they may be
time.sleep(0.05)
again = full(x, x, x)
print(np.isfinite(again).all(), len(os.sched_getaffinity(thread)) >= 1)
"""


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="one processor, or not Linux")
def test_sleeping_threads_are_kept_off_the_processor_of_the_caller() -> None:
    """Else the system may let a woken thread queue behind its waker, while another processor sleeps."""
    environment = {**os.environ, "ATTNC_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", APART], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    first, second = run.stdout.splitlines()
    processors, missing, more = map(int, first.split())
    assert processors >= 2 and missing == 1 and more == 0
    assert second == "True True"


def test_without_affinity_the_pool_asks_for_none() -> None:
    """musl, macOS: the module must not name what the C library lacks."""
    text = pool.source("x86_64", False)
    assert not any(name in text for name in pool.AFFINITY) and "<" not in text.replace("<2", "")
    llvm.parse_assembly(text)
    assert all(name in pool.source("x86_64", True) for name in pool.AFFINITY)
