"""Which schedule a kernel is compiled in, and what a warm start compiles: nothing."""

from typing import Any

import ml_dtypes
import pytest
from test_cuda_variants import sample

import attnc.variants as library
from attnc.backends.cuda import kernel
from attnc.backends.cuda.compile import Cubin
from attnc.backends.cuda.executable import Executable
from attnc.backends.cuda.report import Report
from attnc.backends.cuda.toolchain import versions
from attnc.compile import cuda_executable
from attnc.runtime.binding import bind
from attnc.runtime.cache import Cache
from attnc.schedule.mma import Mma, candidates

numba_cuda = pytest.mark.skipif(not versions()["numba-cuda"], reason="pip install 'attnc[cuda-build]'")


def executable(name: str, cache: Cache, dim: int = 64) -> Executable:
    variant = getattr(library, name)
    q, k, v, operands = sample(name, ml_dtypes.bfloat16, D=dim, Dv=dim)
    bound = bind(variant.signature, q, k, v, operands)
    prepared = variant._prepare(bound, False)
    problem = variant._problem(prepared, bound)
    return cuda_executable(prepared.graph, prepared.program, problem, "sm_80", True, cache=cache)


@numba_cuda
def test_a_schedule_that_spills_gives_way(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = Mma(4, 4, 64), Mma(4, 1, 32)
    monkeypatch.setattr("attnc.backends.cuda.plan.candidates", lambda features: iter((large, small)))
    cold = executable("causal", Cache(tmp_path))
    assert [x for x, _ in cold.passed] == [large] and cold.passed[0][1].spilled > 0
    (main,) = cold.stages
    assert cold.schedule == small and main.report is not None and not main.report.spills
    assert main.threads == small.threads and cold.rows == small.rows
    monkeypatch.setattr(kernel, "compile_cubin", None)
    assert executable("causal", Cache(tmp_path)) == cold, "a warm start"


SPILLS = {
    "the first": ([0], 0, 1),
    "the second": ([8, 0], 1, 2),
    "of all that spill the least": ([16, 8, 12, 8, 20], 1, 7),
}


@pytest.mark.parametrize("case", SPILLS)
def test_the_choice(case: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedules of head dim 64 in turn, with made-up reports; the last of them spill much."""
    spills, expected, compiled = SPILLS[case]
    made = []

    def cubin(source: str, path: str, threads: int, target: Any) -> Cubin:
        spill = (spills + [99] * 9)[len(made)]
        made.append(source)
        report = Report(99, spill // 2, spill - spill // 2, 0, 0, 0, (), 1.0, 1.0, {})
        code = bytes([127, *b"ELF\x02", *[0] * 13, 190, 0, len(made)])
        return Cubin(code, "kernel", report)

    monkeypatch.setattr(kernel, "compile_cubin", cubin)
    found = executable("causal", Cache(tmp_path))
    fitting = list(candidates(64))
    assert found.schedule == fitting[expected] and len(made) == compiled
    assert found.stages[0].code[-1] == expected + 1
    assert [x for x, _ in found.passed] == [x for n, x in enumerate(fitting[:compiled]) if n != expected]
    assert found == executable("causal", Cache(tmp_path)) and len(made) == compiled, "a warm start"


def test_later_schedules_need_less() -> None:
    for features in (64, 128, 256):
        found = list(candidates(features))
        assert len(set(found)) == len(found) and found[-1] == Mma(1, 1, 16)
        fragments = [x.tall * (x.keys + features) for x in found]
        assert sorted(fragments[2:], reverse=True) == fragments[2:] and max(fragments) == fragments[0]
