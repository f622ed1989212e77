"""The checks that run on a GPU, on a stand-in: their cases, the kernels that are built for them, and what they compare."""

import subprocess
import sys
from pathlib import Path

import gpu_build
import gpu_checks
import numpy as np
import pytest
from gpu_cases import BENCHED, Case, cases

import attnc.variants as library
from attnc.aot.build import build

GPU = Path(gpu_checks.__file__).parent
CASES = [
    Case("t5", "float16"), Case("bigbird", heads=(2, 1)), Case("natten", "float32", D=16, lengths=(30, 30)),
    Case("causal", D=7, Dv=13, lengths=(33, 20), heads=(2, 1)), Case("full", lengths=(20, 0)), Case("causal", lse=True),
    Case("causal", strided=True), Case("alibi", "float16", layout="blhd", strided=True), Case("causal", lengths=(1, 100)),
]  # fmt: skip


class Dry(gpu_checks.Machine):
    """Arrays of the stand-in for tensors."""

    def tensor(self, x):
        return self.torch.array(x, "torch") if isinstance(x, np.ndarray) else x

    def numpy(self, x):
        return x.host


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_are_compared(case, site, tmp_path):
    build(case.variant, gpu_build.request(case, "sm_80"), tmp_path / "kernels")
    assert ": ok" in gpu_checks.numbers(case, Dry(site, site.cupy, str(tmp_path / "kernels")))


def test_a_wrong_number_is_seen(site, tmp_path, monkeypatch):
    case = Case("causal", lengths=(20, 20), heads=(1, 1), batch=1)
    monkeypatch.setattr(Dry, "numpy", lambda self, x: (x.host.astype(np.float32) * 1.5).astype(x.host.dtype))
    build(case.variant, gpu_build.request(case, "sm_80"), tmp_path / "kernels")
    with pytest.raises(AssertionError, match="WRONG"):
        gpu_checks.numbers(case, Dry(site, site.cupy, str(tmp_path / "kernels")))


def test_all_of_the_library_is_checked_and_built():
    found = {(x.name, x.dtype) for x in cases()}
    assert {(name, dtype) for name in library.__all__ for dtype in ("bfloat16", "float16", "float32")} <= found
    assert {x.D for x in cases()} >= {64, 128, 256} and any(x.lse for x in cases())
    built = dict(gpu_build.wanted("sm_90"))
    assert set(built) == set(library.__all__)
    for name in BENCHED:
        assert any(x.dims == ((128, 128),) and x.dtypes == ("bfloat16",) for x in built[name])


def test_without_a_gpu_the_scripts_say_so(tmp_path):
    for name in ("run.sh", "build.sh"):
        assert subprocess.run(["bash", "-n", GPU / name], check=False).returncode == 0
    if not gpu_checks.missing():
        pytest.skip("there is a GPU: run.sh would run")
    done = subprocess.run(
        ["bash", GPU / "run.sh", tmp_path, tmp_path / "out"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "nothing was checked" in done.stdout and "the benchmark ended with status 1" in done.stdout
    assert {x.name for x in (tmp_path / "out").iterdir()} == {"machine.txt", "checks.txt", "speed.txt", "speed.err"}
