"""`f.explain(..., device="cuda")`: the plan with the kernel's resources, without a GPU."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pretended
import pytest

import attnc as at
from attnc import variants
from attnc.backends.cuda.toolchain import toolchain, versions
from attnc.errors import UnsupportedError
from attnc.schedule.mma import Mma
from attnc.schedule.wgmma import Wgmma

numba_cuda = pytest.mark.skipif(not versions()["numba-cuda"], reason="pip install 'attnc[cuda-build]'")


def arrays(dtype=np.float16, D=64, L=300):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 2, L, D)).astype(dtype) for _ in range(3)]


@numba_cuda
def test_the_plan_has_the_kernel_and_its_tiles():
    text = variants.causal.explain(*arrays(), device="cuda", target="sm_80")
    found = variants.causal.blocks(*arrays(), tile=(128, 64))
    assert "mma for sm_80, tiles of 128 queries x 64 keys, 4 warps of 32 queries" in text
    assert f"{found.visited} of {found.total} tiles visited ({found.full} full, {found.partial} partial)" in text
    kernel = re.search(
        r"main kernel: (\d+) registers, no spills, (\d+) bytes .*, 2 blocks of 128 threads .*; [\d.]+ s to compile",
        text,
    )
    queries, keys, notes = 128 * 64 * 2, 2 * 2 * 64 * 64 * 2, 24 * 64
    assert kernel and 128 < int(kernel[1]) <= 255 and int(kernel[2]) == queries + keys + notes
    assert variants.causal.explain(*arrays(), device="cuda", target="sm_80") == text
    assert "lanes" not in text and "lanes" in variants.causal.explain(*arrays(), device="cpu")


@numba_cuda
def test_the_plan_says_which_schedule_gave_way(monkeypatch):
    monkeypatch.setattr("attnc.backends.cuda.plan.candidates", lambda features: iter((Mma(4, 4, 64), Mma(4, 1, 32))))
    text = variants.full.explain(*arrays(), device="cuda", target="sm_80")
    assert "tiles of 64 queries x 32 keys, 4 warps of 16 queries" in text and "no spills" in text
    assert re.search(r"not in 256 x 64 with 4 warps: 255 registers, \d+ \+ \d+ bytes of spill", text)
    assert "100 of 100 tiles visited" in text  # 5 by 10 of each head


@numba_cuda
def test_tables_that_are_searched_have_a_kernel_of_their_own():
    doc = np.arange(300)[None] // 100
    text = variants.document.explain(*arrays(), doc=doc, device="cuda")
    assert re.search(r"summary kernel: \d+ registers, no spills, 0 bytes .* blocks of 256 threads", text)
    assert "mma for sm_90" in text and text.index("summary kernel") < text.index("main kernel")


def test_the_plan_says_why_the_fastest_kind_of_kernel_does_not_serve(monkeypatch):
    why = "weights are signed"

    def executable(*call, reason, schedule, **options):
        made = pretended.hopper(*call, **options)
        passed = ((Mma(4, 4, 64), pretended.REPORT),)
        return replace(made, rows=schedule.rows, schedule=schedule, passed=passed, reason=reason)

    def explained():
        return variants.full.explain(*arrays(), device="cuda", target="sm_90a")

    monkeypatch.setattr("attnc.explain.cuda_executable", partial(executable, reason=why, schedule=Mma(8, 1, 64)))
    text = explained()
    assert "schedule: mma for sm_90a, tiles of 128 queries x 64 keys, 8 warps of 16 queries\n" in text
    assert f"\n  mma, not wgmma: {why}\n" in text and "not in 256 x 64 with 4 warps: 100 registers" in text
    assert re.search(r"main kernel: 100 registers.*384 threads on", text) and "repair kernel: 100 registers" in text
    monkeypatch.setattr("attnc.explain.cuda_executable", partial(executable, reason="", schedule=Wgmma(2, 128)))
    text = explained()
    assert "schedule: wgmma for sm_90a, tiles of 128 queries x 128 keys, 2 groups of 4 warps" in text
    assert "not wgmma" not in text


def test_an_operand_called_device_goes_first():
    @at.attention
    def scaled(q, k, v, *, device: float):
        return at.softmax(at.dot(q, k) * device) @ v

    assert "lanes" in scaled.explain(*arrays(), device=0.5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: variants.full.explain(*arrays(), device="tpu"), "a plan for 'tpu'"),
        (lambda: variants.full.explain(*arrays(), device="cuda", target="sm_70"), "sm_80"),
        (lambda: variants.full.explain(*arrays(np.float64), device="cuda"), "float64"),
    ],
    ids=["device", "target", "dtype"],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(UnsupportedError, match=words):
        call()


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("attnc.backends.cuda.toolchain.versions", lambda: {"numba-cuda": ""})
    monkeypatch.setattr("attnc.backends.cuda.compile.toolchain", toolchain.__wrapped__)
    with pytest.raises(UnsupportedError, match=r"numba-cuda is not installed(.|\n)*attnc\[cuda\]"):
        variants.full.explain(*arrays(), device="cuda")
