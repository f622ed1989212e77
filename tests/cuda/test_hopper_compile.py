"""What the compiler makes of kernels for sm_90a, without a GPU: a whole one by hand, and small ones."""

from __future__ import annotations

import functools
import re

import pytest
from compiling import compiled, with_imports
from fa3_kernel import source

from attnc.backends.cuda import sass
from attnc.backends.cuda.compile import Cubin, compile_cubin
from attnc.backends.cuda.toolchain import versions
from attnc.schedule.cuda_target import named

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)
LOOP = {
    "scores": r"HGMMA\.64x\d+x16\.F32\.BF16 R\d+, gdesc",
    "output": r"HGMMA\.64x\d+x16\.F32\.BF16 R\d+, R\d+, gdesc\[UR\d+\]\.tnspB",
    "wait for scores": r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1",
    "wait for output": r"WARPGROUP\.DEPBAR\.LE gsb0, 0x0",
    "arrive": r"SYNCS\.ARRIVE",
    "weights": r"MUFU\.EX2",
    "pack": r"F2FP",
}


@functools.cache
def hopper(body: str, threads: int = 128) -> Cubin:
    return compile_cubin(with_imports(body), "/nowhere/emitted.py", threads, named("sm_90a"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "threads", "allowed"),
    [({}, 384, 168), ({"features": 64, "consumers": 3, "less": 32, "more": 160}, 512, 128)],
    ids=["two consumers", "three consumers"],
)
def test_a_flash_attention_3_kernel(sizes: dict[str, int], threads: int, allowed: int) -> None:
    cubin = hopper(source(**sizes), threads)
    report, code = cubin.report, sass.disassemble(cubin.code)
    assert not report.spills and report.warnings == () and report.registers == allowed == 65536 // threads // 8 * 8
    steps = sizes.get("features", 128) // 16 + 128 // 16  # matrix instructions for a tile of 128 keys
    count = sass.histogram(code)
    assert count["HGMMA"] == 2 * steps and not {"LDL", "STL", "CALL"} & set(count)
    assert [x.text for x in code if x.matches("USETMAXREG")] == [
        f"USETMAXREG.TRY_ALLOC.CTAPOOL UP0, {sizes.get('more', 240):#x}",
        f"USETMAXREG.DEALLOC.CTAPOOL {sizes.get('less', 24):#x}",
    ]
    loop = sass.main_loop(code)
    assert sass.histogram(loop)["HGMMA"] == steps
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


@pytest.mark.slow
def test_a_producer_that_computes_more_than_its_registers_hold_spills() -> None:
    numbers = range(20)
    work = "".join(f"x{n} = load_i64(p + {8 * n} + 8 * j)\n" for n in numbers) + "warp_sync()\nx = 0\n"
    work += "".join(f"x = (x ^ (x{n} * x{7 * n % 20})) >> 1\n" for n in numbers) + "store_l_if(lane == 0, p, x)\n"
    few, more = hopper(source(work=work), 384).report, hopper(source(work=work, less=40), 384).report
    assert few.spilled and not more.spills and few.registers == more.registers == 168


PRODUCT = """
def kernel(p, a, b):
    acc = registers((1, N_8, 4), "f")
    for x in unrolled(N_8):
        for e in unrolled(4):
            acc[0, x, e] = 0.0
    hold(acc)
    wgmma_fence()
    for x in unrolled(4):
        wgmma_ss(acc, a + 2 * x, b + 2 * x, x, "f16", 1)
    wgmma_commit()
    BETWEEN
    wgmma_wait(0)
    hold(acc)
    for x in unrolled(N_8):
        for e in unrolled(4):
            store_f32_if(True, p + 512 * (4 * x + e) + 4 * thread(), acc[0, x, e])
"""


def product(columns: int, between: str = "") -> str:
    return f"N_8 = {columns // 8}\n" + PRODUCT.replace("BETWEEN", between)


@pytest.mark.parametrize("columns", [8, 40, 64, 256])
def test_accumulators_are_registers(columns: int) -> None:
    cubin = hopper(product(columns))
    code = sass.disassemble(cubin.code)
    assert not cubin.report.spills and cubin.report.warnings == ()
    names = [x.name for x in code if x.opcode == "HGMMA"]
    assert len(names) == 4 and all(name.startswith(f"HGMMA.64x{columns}x16.F32") for name in names)
    assert columns // 2 <= sass.registers(code) <= cubin.report.registers


LATE = "if b > 7:\n        wgmma_wait(0)\n        hold(acc)\n        acc[0, 0, 0] = 7.0\n        hold(acc)\n        wgmma_fence()"


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        (product(64, "store_f32_if(True, p, acc[0, 0, 0])"), r"C7517.*wait is injected"),
        (product(64, "acc[0, 0, 0] = acc[0, 0, 0] + 1.0"), r"C7517.*wait is injected"),
        (product(64).replace("    wgmma_fence()\n", ""), r"C7519.*arrive is injected"),
        (product(64, LATE), r"C7515.*serialized"),
    ],
)
def test_what_the_assembler_says_of_slow_matrix_instructions_is_in_the_report(source: str, warning: str) -> None:
    report = hopper(source).report
    assert len(report.warnings) == 1 and re.search(warning, report.warnings[0]) and report.warnings[0] in str(report)


MAPS = """
def kernel(in_map, n, out_map, p):
    start = shared()
    tma_load_if(thread() == 0, start + 1024, in_map, start, 0, n, 0, 0)
    mbar_wait(start, 0)
    tma_store_if(thread() == 0, out_map, start + 1024, 0, n, 0, 0)
    tma_commit()
    tma_wait(0)
    store_l_if(thread() == 0, p, n)
"""


def test_parameters_that_are_maps_are_read_where_they_lie() -> None:
    text, cubin = compiled(with_imports(MAPS), "sm_90a")
    maps = [f".param .align 64 .b8 kernel_param_{n}[128]" for n in (0, 2)]
    assert re.findall(r"\.param [^\n,]*", text)[:4] == [
        maps[0],
        ".param .u64 kernel_param_1",
        maps[1],
        ".param .u64 kernel_param_3",
    ]
    assert (
        text.count("cvta.param.u64") == 2
        and ".local" not in text
        and not re.search(r"ld\.param\S* \S+, \[kernel_param_[02]", text)
    )
    code = sass.disassemble(cubin)
    assert any("c[0x0][0x198]" in x.text for x in code), "where all parameters lie, for the copy engine"
    assert sass.in_order(code, "UTMALDG", "UTMASTG") and not {"LDL", "STL"} & set(sass.histogram(code))
    words = compiled(with_imports(MAPS.replace("_map", "_word")), "sm_90a")[1]
    # The first map begins at the next multiple of 64.
    assert sass.resources(cubin)["CONSTANT[0]"] - sass.resources(words)["CONSTANT[0]"] == 0x240 - 0x210 + 2 * 120 + 56
