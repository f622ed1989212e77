"""The checks of `gpu_checks.py` under pytest. ATTNC_KERNELS: a directory of `gpu_build.py`; without it kernels are compiled here."""

import os

import gpu_checks
import pytest

REASON = gpu_checks.missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in gpu_checks.checks()])
def test_on_a_gpu(check):
    check(gpu_checks.machine(os.environ.get("ATTNC_KERNELS")))
