"""Numba's front end as attnc uses it: the code stays that of Numba's own passes, and Numba's state stays its own."""

from __future__ import annotations

import threading

import ml_dtypes
import pytest
from running import emitted
from small_kernels import MATH, PRODUCT
from test_cuda_variants import sample

import attnc.variants as library
from attnc.backends.block import Layout
from attnc.backends.cuda import compile as compiler
from attnc.backends.cuda import kernel
from attnc.backends.cuda.compile import compile_cubin
from attnc.backends.cuda.source import stages
from attnc.backends.cuda.toolchain import toolchain, versions
from attnc.runtime.cache import Cache
from attnc.schedule.cuda_target import named

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)
WORDS = """
from attnc.backends.cuda.elementwise import eq
from attnc.backends.cuda.intrinsics import store_r_if, thread


def kernel(to, n):
    n += 4 * thread()
    store_r_if(eq(n & 31, 0), to + n, n >> 2)
"""
LAYOUT = Layout({}, (), (), (), (), 0, ())


@pytest.fixture
def front(monkeypatch):
    """The front end, with contexts that have compiled nothing."""
    toolchain()
    from attnc.backends.cuda import front

    fresh = front._contexts.__wrapped__()
    monkeypatch.setattr(front, "_contexts", lambda: fresh)
    return front


@pytest.mark.parametrize(
    ("name", "target", "roles"),
    [
        ("sliding_window", "sm_90a", {"main"}),
        ("document", "sm_80", {"summary"}),
    ],
)
def test_the_code_is_that_of_all_of_numbas_passes(name, target, roles, front, monkeypatch):
    from numba.cuda.compiler import CUDACompiler

    q, k, v, operands = sample(name, ml_dtypes.bfloat16)
    source, schedule, *_ = emitted(getattr(library, name), q, k, v, operands, target=target)

    def cubins():
        return {
            x.role: compile_cubin(x.text, f"/nowhere/{x.role}.py", x.threads, named(target)).code
            for x in stages(source, schedule)
            if x.role in roles
        }

    found = cubins()
    assert found.keys() == roles
    monkeypatch.setattr(front, "Passes", CUDACompiler)
    front._contexts()[1].functions.clear()
    assert cubins() == found


def test_what_was_asked_once_is_remembered(front, monkeypatch):
    typing, _ = front._contexts()
    first = compile_cubin(WORDS, "/nowhere/a.py", 32, named("sm_80"))
    known, asked = len(typing.remembered), []
    monkeypatch.setattr(typing, "_resolve_user_function_type", lambda *x: asked.append(x))
    assert compile_cubin(WORDS, "/nowhere/a.py", 32, named("sm_80")).code == first.code
    assert known > 0 and len(typing.remembered) == known and not asked


@pytest.mark.parametrize("text", [PRODUCT, PRODUCT.replace("thread()", "thread(1)")], ids=["good", "bad"])
def test_numbas_own_contexts_are_back_afterwards(text, front):
    from numba.cuda.descriptor import cuda_target

    before = cuda_target.typing_context, cuda_target.target_context
    try:
        compile_cubin(text, "/nowhere/a.py", 32, named("sm_80"))
        failed = False
    except Exception:
        failed = True
    assert failed == (text != PRODUCT)
    assert (cuda_target.typing_context, cuda_target.target_context) == before
    assert not front._contexts()[0].settled


def test_one_kernel_is_linked_while_the_next_is_in_numba(tmp_path, monkeypatch):
    """The linker waits, before its first kernel, until Numba has begun with the second."""
    begun, second = [], threading.Event()
    modules, link = compiler._modules, compiler._link

    def counted(*x):
        begun.append(x)
        if len(begun) == 2:
            second.set()
        return modules(*x)

    def waiting(*x):
        assert second.wait(60), "the second kernel waits for the linker"
        return link(*x)

    monkeypatch.setattr(compiler, "_modules", counted)
    monkeypatch.setattr(compiler, "_link", waiting)
    jobs = [(PRODUCT, 32, 0), (MATH, 32, 0)]
    found = kernel.build_all(jobs, LAYOUT, named("sm_80"), Cache(tmp_path))
    assert [x.source for x in found] == [PRODUCT, MATH]
    monkeypatch.undo()
    assert [x.cubin.code for x in found] == [
        compile_cubin(text, "/x.py", 32, named("sm_80")).code for text, _, _ in jobs
    ]
