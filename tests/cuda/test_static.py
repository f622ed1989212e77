"""What the compiler makes of emitted kernels, without a GPU: registers, no spills, tensor cores in the loop over the keys."""

import pytest
from running import emitted
from test_cuda_variants import sample

import attnc.variants as library
from attnc.backends.cuda import sass
from attnc.backends.cuda.compile import compile_cubin
from attnc.backends.cuda.toolchain import versions
from attnc.schedule.cuda_target import named

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)


@pytest.mark.parametrize(
    "name, dim, target",
    [
        ("full", 64, "sm_80"),
        ("full", 128, "sm_90"),
        ("causal", 64, "sm_90"),
        ("causal", 128, "sm_80"),
        ("soft_cap", 64, "sm_90"),
        ("soft_cap", 128, "sm_80"),
        ("alibi", 64, "sm_80"),
        ("alibi", 128, "sm_90"),
        ("document", 64, "sm_90"),
    ],
)
def test_a_kernel_compiles_without_spills(name, dim, target):
    q, k, v, operands = sample(name, "float16", D=dim, Dv=dim)
    source, schedule, *_ = emitted(getattr(library, name), q, k, v, operands, target=target)
    cubin = compile_cubin(source.text, "/nowhere/emitted.py", schedule.threads, named(target))
    assert not cubin.report.spills and cubin.report.stack == 0, str(cubin.report)
    assert named(target).resident(cubin.report.registers, schedule.threads, source.shared) >= 1
    whole = sass.disassemble(cubin.code)
    assert sass.histogram(sass.main_loop(whole))["HMMA"] >= 16
    found = sass.histogram(whole)
    assert found["LDGSTS"] and found["LDSM"] and found["MUFU"]
    assert not {"LDL", "STL"} & set(found)
    if source.summary is not None:
        assert not compile_cubin(source.summary, "/nowhere/summary.py", 256, named(target)).report.spills
