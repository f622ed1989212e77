"""A long sequence needs no matrix: what a 32k x 32k causal run takes beside its inputs and its output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LENGTH, DIM, LIMIT_MB = 32768, 64, 200
PROGRAM = f"""
import resource, sys
import numpy as np
import attnc as at

@at.attention
def causal(q, k, v, i, j):
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=j <= i + at.kv_len - at.q_len) @ v

def peak():
    # VmHWM begins anew with the program; ru_maxrss still holds the peak of the process that started it
    try:
        status = dict(x.split(":", 1) for x in open("/proc/self/status"))
        return int(status["VmHWM"].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

q, k, v = (np.random.default_rng(n).standard_normal(({LENGTH}, {DIM}), np.float32) for n in range(3))
if sys.argv[1] == "compile":
    causal(q[:8], k[:8], v[:8])
    sys.exit()
before = peak()
out = causal(q, k, v)
after = peak()
assert "numba" not in sys.modules, "this would measure the compiler"
for i in (0, 1, 95, 96, 20000, {LENGTH} - 1):
    s = k[: i + 1].astype(np.float64) @ q[i] / np.sqrt({DIM})
    w = np.exp(s - s.max())
    np.testing.assert_allclose(out[i], w @ v[: i + 1] / w.sum(), atol=1e-5)
print(after - before - out.nbytes)
"""


def run(mode: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ATTNC_NUM_THREADS": "2"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_32k_by_32k_stays_small() -> None:
    run("compile")
    extra = int(run("run"))
    assert extra < LIMIT_MB * 2**20, f"{extra / 2**20:.0f} MB above inputs and output"
