"""What the compiler makes of kernels for few queries, without a GPU: no spills, tensor cores in the loop over the keys."""

import pytest
from running import emitted
from test_cuda_variants import sample

import attnc as at
import attnc.variants as library
from attnc.backends.cuda import sass
from attnc.backends.cuda.compile import compile_cubin
from attnc.backends.cuda.source import stages
from attnc.backends.cuda.toolchain import versions
from attnc.compile import cuda_executable, cuda_form
from attnc.runtime.binding import bind
from attnc.runtime.cache import Cache
from attnc.schedule.cuda_target import named
from attnc.schedule.short import Form

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)


@pytest.mark.parametrize(
    "name, dim, form, target",
    [
        ("causal", 128, Form(True, True, 1), "sm_90"),
        ("alibi", 64, Form(True, True, 4), "sm_80"),
        ("soft_cap", 128, Form(False, True, 1), "sm_80"),
    ],
)
def test_a_part_and_its_merge_compile_without_spills(name, dim, form, target):
    q, k, v, operands = sample(name, "float16", D=dim, Dv=dim)
    source, schedule, *_ = emitted(getattr(library, name), q, k, v, operands, target=target, form=form)
    found = {}
    for x in stages(source, schedule):
        cubin = compile_cubin(x.text, f"/nowhere/{x.role}.py", x.threads, named(target))
        assert not cubin.report.spills and cubin.report.stack == 0, str(cubin.report)
        found[x.role] = sass.disassemble(cubin.code)
    assert sass.histogram(sass.main_loop(found["main"]))["HMMA"] >= 16
    merged = sass.histogram(found["merge"])
    assert merged["SHFL"] >= dim // 2 and not merged.get("HMMA")


def test_an_executable_says_its_blocks_and_its_workspace(tmp_path):
    q, k, v, operands = sample("document", "float16", B=2, Hq=8, Hkv=2, Lq=3, Lk=600, D=32, Dv=32)
    bound = bind(library.document.signature, q, k, v, operands)
    prepared = library.document._prepare(bound, True)
    problem = library.document._problem(prepared, bound)
    extents = bound.inputs.extents
    form = cuda_form(prepared.program, extents)
    made = cuda_executable(prepared.graph, prepared.program, problem, "sm_90", True, form=form, cache=Cache(tmp_path))
    assert [stage.role for stage in made.stages] == ["summary", "main", "merge"]
    assert "scratch" in made.stages[1].parameters and made.stages[1].parameters == made.stages[2].parameters
    tables = {"doc": operands["doc"].shape}
    # 12 rows of 4 heads and 3 queries are one tile; 600 keys are three parts
    assert [made.blocks(stage, extents, tables) for stage in made.stages] == [
        len(operands["doc"]),
        2 * 2 * 1 * 3,
        2 * 8 * 3,
    ]
    assert made.record == 8 + 4 + 4 + 4 * 32 and made.workspace(extents) == 2 * 8 * 3 * 3 * made.record


@at.attention
def two_sweeps(q, k, v):
    s = at.dot(q, k)
    return at.softmax(at.tanh(s - at.max(s, over="j"))) @ v


@pytest.mark.parametrize(
    "variant, said, not_said",
    [
        (library.causal, ["all 4 query heads", "3 parts of 256", "main kernel", "merge kernel"], ["not split"]),
        (two_sweeps, ["all 4 query heads", "keys are not split over blocks: its 2 sweeps"], ["merge kernel"]),
    ],
    ids=["causal", "two sweeps"],
)
def test_a_plan_says_how_few_queries_are_served(variant, said, not_said, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    q, k, v, _ = sample("full", "float16", Hq=8, Hkv=2, Lq=2, Lk=600, D=32, Dv=32)
    text = variant.explain(q, k, v, device="cuda")
    assert all(x in text for x in said) and not any(x in text for x in not_said), text
