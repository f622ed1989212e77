"""The checks of `gpu_checks.py` under pytest. ATTNC_KERNELS: directories of `gpu_build.py`, one for each target, with colons between.

Without it kernels are compiled here, for the device's best target.
"""

import os

import gpu_checks
import pytest

FOLDERS = os.environ.get("ATTNC_KERNELS", "").split(os.pathsep)
REASON = gpu_checks.missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]


@pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in gpu_checks.checks()])
@pytest.mark.parametrize("folder", FOLDERS)
def test_on_a_gpu(check, folder):
    check(gpu_checks.machine(folder or None))
