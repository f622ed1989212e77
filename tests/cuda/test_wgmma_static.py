"""What the compiler makes of kernels of the schedule `wgmma`: registers, counts, and what comes before what in the main loop."""

import re

import pytest

from attnc.backends.cuda import sass
from attnc.backends.cuda.toolchain import versions
from attnc.bench.cuda_static import NAMES, StaticRow, bench_cuda_static, table
from attnc.schedule.wgmma import Wgmma

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)
SCORES = r"HGMMA\.64x\d+x16\.F32\.BF16 R\d+, gdesc"
PRODUCT = r"HGMMA\.64x\d+x16\.F32\.BF16 R\d+, R\d+, gdesc\[UR\d+\]\.tnspB"
WEIGHT = r"MUFU\.EX2"
KERNELS = [(name, dim) for name in NAMES for dim in (64, 128)]


def places(code, pattern: str) -> list[int]:
    return [n for n, x in enumerate(code) if re.search(pattern, x.text)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), KERNELS)
def test_a_kernel_is_what_the_schedule_says(name: str, dim: int) -> None:
    (row,) = bench_cuda_static([name], [dim], ["sm_90a"])
    resources(row)
    matrix_instructions(row)
    parts(row)
    order(row)
    if (name, dim) == ("causal", 128):
        shown(row)


def resources(row: StaticRow) -> None:
    """The first schedule holds: nothing goes to memory, and the assembler has nothing to say."""
    keys = 176 if (row.name, row.dim) == ("full", 128) else 128
    assert isinstance(row.schedule, Wgmma) and row.passed == 0
    assert (row.schedule.consumers, row.schedule.keys) == (3 if row.dim == 64 else 2, keys)
    assert row.report.spilled == row.report.stack == 0 and row.report.warnings == ()
    assert not {"LDL", "STL"} & set(row.instructions)
    assert row.report.registers == 65536 // row.schedule.threads // 8 * 8 and row.resident == 1


def matrix_instructions(row: StaticRow) -> None:
    """In the main loop those of one tile; outside of it the scores of an item's first tile, and the product of its last."""
    loop, steps = sass.main_loop(row.code), (row.dim // 16, row.schedule.keys // 16)
    assert (len(places(loop, SCORES)), len(places(loop, PRODUCT))) == steps
    assert row.loop == sum(steps) and row.instructions["HGMMA"] == 2 * sum(steps)
    for pattern, columns in ((SCORES, row.schedule.keys), (PRODUCT, row.dim)):
        assert all(f"HGMMA.64x{columns}x16.F32.BF16" in row.code[n].text for n in places(row.code, pattern))
    assert not {"CALL", "STG", "STS", "UTMALDG"} & set(sass.histogram(loop))


def parts(row: StaticRow) -> None:
    """The producer has things copied and computes nothing; registers are enough for both."""
    fewer, more = row.schedule.registers
    (less,), (add,) = places(row.code, "USETMAXREG.DEALLOC"), places(row.code, "USETMAXREG.TRY_ALLOC")
    assert row.code[less].text.endswith(f" {fewer:#x}") and row.code[add].text.endswith(f" {more:#x}")
    producer, consumer = sass.reached(row.code, less), sass.reached(row.code, add)
    copies = -(-row.dim * 2 // 128)  # boxes of a tile, in rows of 128 bytes
    count = sass.histogram(producer)
    assert count["UTMALDG"] == 3 * copies and not {"HGMMA", "UTMASTG"} & set(count)
    count = sass.histogram(consumer)
    assert count["UTMASTG"] == copies and count["HGMMA"] and not count["UTMALDG"]
    assert sass.registers(producer) <= fewer < sass.registers(consumer) <= more


def order(row: StaticRow) -> None:
    """Products are started, the scores waited for, weights computed, and only then the product of values is waited for."""
    loop = sass.turned(sass.main_loop(row.code), SCORES)
    scores, products, weights = (places(loop, x) for x in (SCORES, PRODUCT, WEIGHT))
    waits = [loop[n].text for n in places(loop, "WARPGROUP.DEPBAR")]
    assert [x.split(", ")[1] for x in waits] == ["0x1", "0x0"] and len(places(loop, "WARPGROUP.ARRIVE")) == 2
    for_scores, for_product = places(loop, "WARPGROUP.DEPBAR")
    assert scores[-1] < products[0] and products[-1] < for_scores < weights[0]
    late = sum(n > for_product for n in weights)  # the factor of a row's sums may come behind
    assert late <= 2 and len(weights) - late >= row.schedule.keys // 2
    released = [n for n in places(loop, r"SYNCS\.ARRIVE") if n < for_product]
    assert len(released) == 1 and for_scores < released[0] < weights[0], "keys are released before the weights"
    if row.schedule.pingpong:
        assert places(loop, r"BAR\.ARV")[0] < for_scores and places(loop, r"BAR\.SYNC")[-1] > for_product


def shown(row: StaticRow) -> None:
    """The table names the instructions and the registers. A test of its own would compile again, in another process."""
    columns, (cells,) = table([row])
    found = dict(zip(columns, cells, strict=True))
    assert (found["tensor cores in loop"], found["registers"]) == ("16 HGMMA", "168 -> 40, 232")
    assert (found["queries x keys"], found["warps"], found["spills"]) == ("128 x 128", "12", "0")
