"""What the compiler makes of kernels for sm_90a, without a GPU: a whole one by hand, and small ones."""

from __future__ import annotations

import functools

import pytest
from compiling import with_imports
from fa3_kernel import source

from attnc.backends.cuda import sass
from attnc.backends.cuda.compile import Cubin, compile_cubin
from attnc.backends.cuda.toolchain import versions
from attnc.schedule.cuda_target import named

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)
STEPS = 2 * 128 // 16  # matrix instructions for a tile of 128 keys at 128 features
LOOP = {
    "scores": r"HGMMA\.64x128x16\.F32\.BF16 R\d+, gdesc",
    "output": r"HGMMA\.64x128x16\.F32\.BF16 R\d+, R\d+, gdesc\[UR\d+\]\.tnspB",
    "wait for scores": r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1",
    "wait for output": r"WARPGROUP\.DEPBAR\.LE gsb0, 0x0",
    "arrive": r"SYNCS\.ARRIVE",
    "weights": r"MUFU\.EX2",
    "pack": r"F2FP",
}


@functools.cache
def hopper(body: str, threads: int = 128) -> Cubin:
    return compile_cubin(with_imports(body), "/nowhere/emitted.py", threads, named("sm_90a"))


def test_a_flash_attention_3_kernel() -> None:
    cubin = hopper(source(), 384)
    report, code = cubin.report, sass.disassemble(cubin.code)
    assert not report.spills and report.warnings == () and report.registers == 168 == 65536 // 384 // 8 * 8
    count = sass.histogram(code)
    assert count["HGMMA"] == 2 * STEPS and not {"LDL", "STL", "CALL"} & set(count)
    assert [x.text for x in code if x.matches("USETMAXREG")] == [
        "USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xf0",
        "USETMAXREG.DEALLOC.CTAPOOL 0x18",
    ]
    loop = sass.main_loop(code)
    assert sass.histogram(loop)["HGMMA"] == STEPS
    assert sass.outline(sass.turned(loop, LOOP["scores"]), LOOP) == [
        "scores", "output", "wait for scores", "arrive", "weights", "wait for output", "arrive", "pack",
    ]  # fmt: skip


def test_the_producer_needs_few_registers() -> None:
    code = sass.disassemble(hopper(source(), 384).code)
    (less,) = sass.positions(code, "USETMAXREG.DEALLOC")
    (more,) = sass.positions(code, "USETMAXREG.TRY_ALLOC")
    producer, consumer = sass.reached(code, less), sass.reached(code, more)
    assert sass.histogram(producer)["UTMALDG"] and not sass.histogram(producer)["HGMMA"]
    assert sass.histogram(consumer)["HGMMA"] and not sass.histogram(consumer)["UTMALDG"]
    assert sass.registers(producer) <= 24 and 168 < sass.registers(consumer) <= 240
