"""Emitted source to a cubin without a GPU: the report, the cache, and other compilers in the same process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_kernels import CROWDED, INDEXED, MATH, PRODUCT

from attnc.backends.block import Layout
from attnc.backends.cuda import kernel, sass
from attnc.backends.cuda.compile import Cubin, compile_cubin
from attnc.backends.cuda.toolchain import toolchain, versions
from attnc.errors import UnsupportedError
from attnc.runtime.cache import Cache
from attnc.schedule.cuda_target import TARGETS, CudaTarget, named

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)
ROOT = Path(__file__).parents[2]
LAYOUT = Layout({}, (), (), (), (), 0, ())


def compiled(source: str, threads: int, target: str = "sm_80") -> Cubin:
    return compile_cubin(source, "/nowhere/emitted.py", threads, named(target))


def headers(cubin: Cubin) -> dict[str, int]:
    """What NVIDIA's own tool reads from the cubin, in the names of the report."""
    found = sass.resources(cubin.code)
    return {"registers": found["REG"], "stack": found["STACK"], "constant": found["CONSTANT[0]"]}


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_a_tensor_core_kernel_compiles_without_spills(target: str) -> None:
    cubin = compiled(PRODUCT, 32, target)
    report = cubin.report
    assert 0 < report.registers < 64 and not report.spills and report.spill_stores == report.stack == 0
    assert headers(cubin) == {name: getattr(report, name) for name in ("registers", "stack", "constant")}
    assert report.warnings == () and report.shared == 0 and report.front > 0 < report.link
    assert report.versions["numba-cuda"] == metadata.version("numba-cuda") and "nvidia-nvjitlink" in report.versions
    whole = sass.disassemble(cubin.code)
    loop = sass.main_loop(whole)
    assert sass.histogram(loop)["HMMA"] == 2 == sass.histogram(whole)["HMMA"]
    assert sass.in_order(loop, "LDG.E", "HMMA.16816.F32.BF16") and not sass.positions(loop, "STG")
    assert sass.positions(whole, "STG") and not {"LDL", "STL", "CALL"} & set(sass.histogram(whole))


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_too_many_live_registers_are_reported_as_spills(target: str) -> None:
    crowded, roomy = compiled(CROWDED, 1024, target), compiled(CROWDED, 128, target)
    assert crowded.report.registers == 64 and crowded.report.spill_stores > 0 < crowded.report.spill_loads
    assert crowded.report.spills and headers(crowded)["stack"] == crowded.report.stack > 0
    assert sass.histogram(sass.disassemble(crowded.code))["STL"] > 0
    assert roomy.report.registers > 128 and not roomy.report.spills
    assert "spill stores" in str(crowded.report) and "no spills" in str(roomy.report)


def test_an_array_that_does_not_become_registers_counts_as_a_spill() -> None:
    report = compiled(INDEXED, 32).report
    assert report.spill_stores == report.spill_loads == 0 and report.stack >= 256 and report.spills


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_compiles(target: CudaTarget) -> None:
    cubin = compiled(MATH, 256, target.name)
    assert cubin.code[:4] == b"\x7fELF" and cubin.entry == "kernel" and b"kernel" in cubin.code
    assert cubin.report.shared == 1024 and not cubin.report.spills
    assert not {"CALL", "JCAL"} & set(sass.histogram(sass.disassemble(cubin.code))), "expf is linked in"


def test_every_argument_is_a_word() -> None:
    assert compiled(PRODUCT, 32).report.constant - compiled(MATH, 32).report.constant == 8 * (5 - 2)


def test_equal_sources_give_equal_bytes() -> None:
    first = compiled(PRODUCT, 32).code
    compiled(MATH, 32)
    assert compiled(PRODUCT, 32).code == first


def test_errors_in_emitted_source_show_its_file() -> None:
    with pytest.raises(Exception, match=r"nowhere.emitted\.py") as caught:
        compiled("def kernel(a):\n    return a.nothing\n", 32)
    assert "return a.nothing" in str(caught.value)


def test_bad_launches_are_refused() -> None:
    with pytest.raises(AssertionError, match="blocks of 2048 threads"):
        compiled(MATH, 2048)
    with pytest.raises(AssertionError, match="shared memory"):
        kernel.build(MATH, LAYOUT, 32, 200 * 1024, named("sm_80"), Cache("/nowhere"))


@pytest.mark.parametrize("tool", ["NVVM", "nvJitLink"])
def test_a_target_that_the_compiler_does_not_know(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = CudaTarget((13, 7), "", 0, 0, 0)
    if tool == "nvJitLink":
        monkeypatch.setattr(CudaTarget, "compute", "compute_80")
    with pytest.raises(UnsupportedError, match=rf"installed {tool} does not compile for sm_137(.|\n)*attnc\[cuda\]"):
        compile_cubin(MATH, "/nowhere/emitted.py", 32, unknown)


def test_missing_packages_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh: Any = toolchain.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr("attnc.backends.cuda.toolchain.versions", lambda: {"numba-cuda": ""})
        with pytest.raises(UnsupportedError, match=r"numba-cuda is not installed(.|\n)*pip install 'attnc\[cuda\]'"):
            fresh()
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvjitlink", None)
    with pytest.raises(UnsupportedError, match=r"nvjitlink(.|\n)*pip install 'attnc\[cuda\]'"):
        fresh()


def run(program: str, *args: str, **environment: str) -> str:
    """The output of a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_simulator_is_refused() -> None:
    program = """
from attnc.backends.cuda.toolchain import toolchain
try:
    toolchain()
except Exception as error:
    print(type(error).__name__, error)
"""
    printed = run(program, NUMBA_ENABLE_CUDASIM="1")
    assert printed.startswith("UnsupportedError") and "unset NUMBA_ENABLE_CUDASIM" in printed


BOTH = """
import sys
import numpy as np
import attnc as at
from attnc.backends.cuda.compile import compile_cubin
from attnc.schedule.cuda_target import named
from attnc.variants import causal
from small_kernels import PRODUCT

q, k, v = (np.random.default_rng(n).standard_normal((1, 2, 40, 16)).astype(np.float32) for n in range(3))

def cpu():
    assert causal.verify(q, k, v).ok

def cuda():
    assert compile_cubin(PRODUCT, "/nowhere/emitted.py", 32, named("sm_80")).report.registers > 0

first, second = (cpu, cuda) if sys.argv[1] == "cpu" else (cuda, cpu)
first()
second()
assert at.attention(lambda q, k, v: (at.dot(q, k) * 0.5) @ v).verify(q, k, v).ok, "the CPU again"
print("done")
"""


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_both_backends_compile_in_one_process(first: str, tmp_path: Path) -> None:
    assert run(BOTH, first, ATTNC_CACHE_DIR=str(tmp_path)) == "done\n"


def test_a_numpy_without_row_stack_will_do_and_stays_without() -> None:
    program = """
import numba.np.arrayobj  # Numba's own, which asks for the name where this NumPy's version has it
import numpy as np
from attnc.backends.cuda.compile import compile_cubin
from attnc.schedule.cuda_target import named
from small_kernels import PRODUCT

if hasattr(np, "row_stack"):
    np.__all__.remove("row_stack")
    del np.row_stack
assert compile_cubin(PRODUCT, "/nowhere/emitted.py", 32, named("sm_80")).report.registers > 0
print(hasattr(np, "row_stack"))
"""
    assert run(program) == "False\n"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> kernel.Kernel:
    path = tmp_path_factory.mktemp("cubins")
    return kernel.build(PRODUCT, LAYOUT, 32, 1024, named("sm_80"), Cache(path))


def again(stored: kernel.Kernel, threads: int = 32, target: str = "sm_80") -> kernel.Kernel:
    assert stored.path is not None
    return kernel.build(PRODUCT, LAYOUT, threads, 1024, named(target), Cache(stored.path.parent))


def test_the_cache_gives_back_what_was_compiled(stored: kernel.Kernel) -> None:
    warm = again(stored)
    assert stored.seconds > 0 == warm.seconds and warm.cubin == stored.cubin and warm.path == stored.path
    assert stored.path is not None and stored.path.read_text() == PRODUCT
    assert again(stored, threads=64).seconds > 0 < again(stored, target="sm_90").seconds, "other kernels"


def test_a_warm_build_imports_no_numba(stored: kernel.Kernel) -> None:
    program = """
import sys
from attnc.backends.block import Layout
from attnc.backends.cuda.kernel import build
from attnc.runtime.cache import Cache
from attnc.schedule.cuda_target import named
from small_kernels import PRODUCT

found = build(PRODUCT, Layout({}, (), (), (), (), 0, ()), 32, 1024, named("sm_80"), Cache(sys.argv[1]))
print(found.seconds, found.cubin.report.registers, sorted({"numba", "llvmlite", "cuda"} & set(sys.modules)))
"""
    assert stored.path is not None
    assert run(program, str(stored.path.parent)) == f"0.0 {stored.cubin.report.registers} []\n"


DAMAGE = ("code is cut short", "code is another processor's", "report is cut short", "report lacks the resources")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_again(damage: str, stored: kernel.Kernel) -> None:
    assert stored.path is not None
    cache, file = Cache(stored.path.parent), stored.path
    entry = cache.get(file.stem)
    assert entry is not None
    match damage:
        case "code is cut short":
            file.with_suffix(".bin").write_bytes(entry.code[:100])
        case "code is another processor's":  # well kept, but not a cubin
            cache.put(entry.key, entry.source, Path(np.__file__).read_bytes(), entry.report)
        case "report is cut short":
            file.with_suffix(".json").write_text(file.with_suffix(".json").read_text()[:-20])
        case "report lacks the resources":
            cache.put(entry.key, entry.source, entry.code, {"backend": "cuda"})
    rebuilt = again(stored)
    assert rebuilt.seconds > 0 and rebuilt.cubin.code == stored.cubin.code
    assert again(stored).seconds == 0
