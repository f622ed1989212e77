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


HOPPER = [
    Case("causal", D=128, lengths=(70, 150), heads=(2, 1), batch=1), Case("document", "float16", lengths=(70, 70), heads=(2, 1)),
    Case("causal", lengths=(33, 65), heads=(2, 1), lse=True), Case("causal", lengths=(20, 40), shared=True),
    Case("sliding_window", poisoned=True, lengths=(20, 40), heads=(1, 1), batch=1),
    Case("full", "float16", D=16, lengths=(20, 30), heads=(8, 2), batch=3),
    Case("causal", D=16, lengths=(20, 30), heads=(2, 1), batch=1, layout="blhd", strided=True),
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


@pytest.mark.parametrize("case", HOPPER, ids=str)
def test_numbers_of_both_schedules_are_compared(case, hopper, tmp_path):
    for target in ("sm_90a", "sm_90"):
        build(case.variant, gpu_build.request(case, target), tmp_path / target)
        assert ": ok" in gpu_checks.numbers(case, Dry(hopper, hopper.cupy, str(tmp_path / target)))
    copied = [x for x in hopper.machine.launches if x.maps]
    assert len(copied) == (0 if case.strided else 2)  # both calls with the first kernels


def test_the_schedule_is_named(hopper, tmp_path, monkeypatch):
    case = Case("causal", D=128, lengths=(40, 40), heads=(1, 1), batch=1)
    q, k, v = (hopper.array(x, "torch") for x in case.inputs()[0])
    monkeypatch.setattr(gpu_checks, "_call", lambda at, case: (at.variant(case), (q, k, v)))
    monkeypatch.setattr(hopper.torch.cuda, "get_device_capability", lambda: (9, 0), raising=False)
    for targets, text in (
        (("sm_90",), "sm_90, mma"),
        (("sm_90a",), "sm_90a, wgmma"),
        (("sm_90", "sm_90a"), "sm_90a, wgmma"),
    ):
        folder = tmp_path / "-".join(targets)
        for n, target in enumerate(targets):
            build(library.causal, gpu_build.request(case, target), folder, add=n > 0)
        assert gpu_checks.schedule(Dry(hopper.torch, hopper.cupy, str(folder))) == text


def test_a_wrong_number_is_seen(site, tmp_path, monkeypatch):
    case = Case("causal", lengths=(20, 20), heads=(1, 1), batch=1)
    monkeypatch.setattr(Dry, "numpy", lambda self, x: (x.host.astype(np.float32) * 1.5).astype(x.host.dtype))
    build(case.variant, gpu_build.request(case, "sm_80"), tmp_path / "kernels")
    with pytest.raises(AssertionError, match="WRONG"):
        gpu_checks.numbers(case, Dry(site, site.cupy, str(tmp_path / "kernels")))


def test_all_of_the_library_is_checked_and_built():
    found = {(x.name, x.dtype) for x in cases()}
    assert {(name, dtype) for name in library.__all__ for dtype in ("bfloat16", "float16", "float32")} <= found
    assert {x.D for x in cases()} >= {64, 128, 256} and all(any(f(x) for x in cases()) for f in (
        lambda x: x.lse, lambda x: x.shared, lambda x: x.poisoned and x.D == 128, lambda x: x.lengths > (1000, 1000),
    ))  # fmt: skip
    built = dict(gpu_build.wanted("sm_90a"))
    assert set(built) == set(library.__all__)
    for name in BENCHED:
        assert any(x.dims == ((128, 128),) and x.dtypes == ("bfloat16",) for x in built[name])


def test_without_a_gpu_the_scripts_say_so(tmp_path):
    for name in ("run.sh", "build.sh"):
        assert subprocess.run(["bash", "-n", GPU / name], check=False).returncode == 0
    if not gpu_checks.missing():
        pytest.skip("there is a GPU: run.sh would run")
    for target in gpu_build.TARGETS:
        (tmp_path / target).mkdir()
    done = subprocess.run(
        ["bash", GPU / "run.sh", tmp_path, tmp_path / "out"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "checks of sm_90a" in done.stdout
    assert "nothing was checked" in done.stdout and "the benchmark ended with status 1" in done.stdout
    assert {x.name for x in (tmp_path / "out").iterdir()} == {
        "machine.txt",
        "checks-sm_90.txt",
        "checks-sm_90a.txt",
        "speed.txt",
        "speed.err",
    }
