"""What the compiler makes of emitted kernels, without a GPU: registers, no spills, tensor cores in the loop over the keys."""

from functools import partial

import pytest
from test_cuda_variants import sample
from typer.testing import CliRunner

import attnc.variants as library
from attnc import cli
from attnc.backends.cuda.toolchain import versions
from attnc.bench import cuda_static
from attnc.bench.cuda_static import bench_cuda_static

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)


@pytest.mark.parametrize(
    ("dim", "target"), [(64, "sm_80"), (128, "sm_80"), (128, "sm_90")]
)  # sm_90a: test_wgmma_static
@pytest.mark.parametrize("name", ["full", "causal", "soft_cap", "alibi"])
def test_a_kernel_compiles_without_spills(name, dim, target):
    (row,) = bench_cuda_static([name], [dim], [target])
    assert not row.report.spills and row.report.spilled == row.report.stack == 0, str(row.report)
    # Both products of a warp's tile, each instruction 16 x 8 x 16: nothing is left for another round of the loop.
    assert row.loop == 2 * row.schedule.tall * row.schedule.keys // 8 * dim // 16 == row.instructions["HMMA"]
    assert row.resident >= 1 and row.schedule.rows == 128
    assert row.instructions["LDGSTS"] and row.instructions["LDSM"] and row.instructions["MUFU"]
    assert not {"LDL", "STL"} & set(row.instructions)
    assert row.seconds > 0 < row.cpu_seconds and row.lines > 100


def test_tables_and_summaries_do_not_spill():
    q, k, v, operands = sample("document", "float16")
    text = library.document.explain(q, k, v, **operands, device="cuda", target="sm_90")
    assert text.count("no spills") == 2


def test_the_command_prints_the_table(monkeypatch):
    small = partial(bench_cuda_static, ("full",), (64,), ("sm_90",))
    monkeypatch.setattr(cuda_static, "bench_cuda_static", small)
    done = CliRunner().invoke(cli.app, ["bench", "cuda-static"])
    assert done.exit_code == 0, done.output
    (line,) = (x for x in done.output.splitlines() if "sm_90" in x)
    assert [x.strip() for x in line.strip("│ ").split("│")][:5] == ["full", "64", "sm_90", "128 x 64", "4"]
    assert "compiled anew" in done.output and "tensor cores in loop" in done.output
