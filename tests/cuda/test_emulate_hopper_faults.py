"""What the emulator refuses of kernels for sm_90a: in a few lines each, and planted in a whole kernel."""

import textwrap

import numpy as np
import pytest
from queued_kernel import SOURCE, error
from snippets import run

from attnc.backends.cuda.emulate import Deadlock, Fault, Memory, Misaligned, OutOfBounds, Race
from attnc.backends.cuda.tensor_map import Geometry

# ---- two groups: threads 0..31 and 32..63; `bar` counts one arrival, `two` counts two

START = """
s, lane = shared(), t & 31
bar, two = s + 4096, s + 4104
mbar_init_if(t == 0, bar, 1)
mbar_init_if(t == 0, two, 2)
mbar_fence()
barrier()
"""
LOAD = "mbar_expect_if(t == 0, bar, 512)\ntma_load_if(t == 0, s, x_map, bar, 0, 0, 0, 0)\n"
STORE = "tma_store_if(t == 0, x_map, s, 0, 0, 0, 0)\n"
HIDDEN = "store_shared_4(s + 16 * (t ^ 32), t, t, t, t)\n"
SEEN = f"{HIDDEN}async_fence()\nbarrier()\n"


def apart(first: str, second: str) -> str:
    """A body per group."""
    return f"if t < 32:\n{textwrap.indent(first, '    ')}\nelse:\n{textwrap.indent(second, '    ')}"


SYNCHRONISATION = {
    "an end instead of a barrier": (apart("pass", "barrier()"), Deadlock, "threads 0..31 have ended; threads 32..63 wait in line"),
    "different barriers": (apart("barrier()", "named_barrier(1, 64)"), Deadlock, "barrier 0, where 32 of 64 threads.*barrier 1"),
    "a vote and none": (apart("barrier()", "x = barrier_or(t == 3)"), Fault, "64 that vote"),
    "a barrier of two groups": (apart("named_barrier(1, 32)", "named_barrier(1, 32)"), Fault, "where other groups met"),
    "threads that differ": (apart("named_barrier(1, 32)", "named_arrive(1, 64)"), Fault, "come to one of 32 threads"),
    "too many threads": ("named_arrive(1, 32)", Fault, "64 threads come, it is one of 32"),
    "an arrival twice": (apart("named_arrive(1, 64)\nnamed_arrive(1, 64)", "pass"), Fault, "twice before the others"),
    "barrier 0 by number": ("named_barrier(0, 64)", Fault, "those with numbers are 1..15"),
    "a barrier of half a warp": ("named_barrier(1, 48)", Fault, "whole warps"),
    "no barrier between groups": (apart("store_shared_r(s + 4 * t, t)", "y = load_shared_r(s + 4 * lane)"), Race, "another warp read it"),
    "an arrival before the write": (
        apart("named_arrive(1, 64)\nstore_shared_r(s + 4 * t, t)", "named_barrier(1, 64)\ny = load_shared_r(s + 4 * lane)"),
        Race, "another warp wrote it"),
    "an arrival orders one side only": (
        apart("named_arrive(1, 64)\ny = load_shared_r(s + 4 * lane)", "store_shared_r(s + 4 * lane, t)\nnamed_barrier(1, 64)"),
        Race, "another warp read it|another warp wrote it"),
    "a write after an early release": (
        apart("mbar_arrive_if(t == 0, bar)\ny = load_shared_r(s + 4 * t)", "mbar_wait(bar, 0)\nstore_shared_r(s + 4 * lane, t)"),
        Race, "another warp read it"),
    "one lane arrives for two warps": (
        "store_shared_r(s + 4 * t, t)\nmbar_arrive_if(t == 0, bar)\nmbar_wait(bar, 0)\ny = load_shared_r(s + 4 * (t ^ 32))",
        Race, "another warp wrote it"),
    "what nobody releases": (apart("mbar_wait(two, 0)", "mbar_arrive_if(t == 32, two)"), Deadlock, "phase 0 awaits 1 of 2 arrivals"),
    "too many arrivals": ("mbar_arrive_if(t < 3, two)", Fault, "3 arrive, 2 are awaited"),
    "an arrival while bytes are missing": (f"{LOAD}mbar_arrive_if(t == 0, bar)", Fault, "1 arrive, 0 are awaited"),
    "a barrier that is not there": ("mbar_wait(s + 4112, 0)", Fault, "was not initialised"),
    "a barrier at an uneven place": ("mbar_wait(bar + 4, 0)", Misaligned, "multiples of 8"),
    "a barrier made at an uneven place": ("mbar_init_if(t == 0, bar + 20, 1)", Misaligned, "no multiple of the 8 bytes"),
    "a barrier made twice": ("mbar_init_if(t == 0, bar, 1)", Fault, "initialised twice"),
    "a barrier of no arrivals": ("mbar_init_if(t == 0, bar + 16, 0)", Fault, "count 0 arrivals"),
    "a barrier without a fence": ("mbar_init_if(t == 0, bar + 16, 1)\nbarrier()\nmbar_wait(bar + 16, 1)", Fault, "no mbar_fence"),
    "a barrier of another warp": (
        apart("mbar_wait(bar + 16, 1)", "mbar_init_if(t == 32, bar + 16, 1)\nbarrier()"), Fault, "no mbar_fence"),
    "a barrier seen too early": (
        apart("mbar_wait(bar + 16, 1)", "mbar_init_if(t == 32, bar + 16, 1)\nmbar_fence()"),
        Fault, "no barrier came between its mbar_fence"),
    "a barrier overwritten": ("store_shared_r(bar, 1)", Race, "an mbarrier uses it"),
    "parity 2": ("mbar_wait(bar, 2)", Fault, "it is 0 or 1"),
    "bytes that another group awaits": (
        apart("y = load_shared_r(s + 4 * lane)", f"{LOAD.replace('t == 0', 't == 32')}mbar_wait(bar, 0)"),
        Race, "another warp wrote it"),
    "registers that nobody gives back": (
        "registers_more(256)", Deadlock, "256 registers per thread of the block's 16320, of which 16320"),
    "registers of some warps": (apart("registers_less(24)", "pass"), Fault, "they change them together"),
    "registers in odd numbers": ("registers_less(100)", Fault, "not one of the constants"),
    "less that is more": ("registers_less(24)\nregisters_less(32)", Fault, "have 24 registers"),
    "more that is less": ("registers_more(24)", Fault, "have 255 registers"),
    "wgmma by one warp": ('wgmma_ss(registers((8,), "f"), 0, 0, 0, "f16", 0)', Fault, "it takes four warps"),
    "a wait for wgmma by one warp": ("wgmma_wait(0)", Fault, "it takes four warps"),
}  # fmt: skip

COPIES = {
    "bytes that were not waited for": (f"{LOAD}y = load_shared_r(s + 4 * t)", Race, "while a copy to it is under way"),
    "a write to a copy under way": (f"{LOAD}store_shared_r(s + 4 * t, t)", Race, "while a copy to it is under way"),
    "two copies to one place": (f"{LOAD}tma_load_if(t == 0, s, x_map, bar, 0, 0, 0, 0)", Race, "another one to it"),
    "a copy over what others read": (f"y = load_shared_r(s + 4 * t)\n{LOAD}", Race, "another warp read it"),
    "a copy over what others wrote": (f"{HIDDEN}async_fence()\n{LOAD}", Race, "another warp wrote it"),
    "a copy over writes without a fence": (f"{HIDDEN}barrier()\n{LOAD}", Race, "no async_fence"),
    "a copy over a barrier": ("tma_load_if(t == 0, s + 3584, x_map, bar, 0, 0, 0, 0)\n"
                              "tma_load_if(t == 0, s + 4096, x_map, two, 0, 0, 0, 0)", Race, "an mbarrier uses it"),
    "too few bytes expected": (f"{LOAD.replace('512', '496')}mbar_wait(bar, 0)", Fault, "512 bytes come, 496 are expected"),
    "too many bytes expected": (f"{LOAD.replace('512', '528')}mbar_wait(bar, 0)", Deadlock, "528 bytes, of which 512 are under way"),
    "no bytes expected": ("tma_load_if(t == 0, s, x_map, bar, 0, 0, 0, 0)\nmbar_arrive_if(t == 0, bar)", Fault, "it does not expect"),
    "bytes without end": ("mbar_expect_if(t == 0, bar, 1 << 20)", Fault, "bytes more"),
    "a copy that nobody awaits": (LOAD, Fault, "the block ends while copies are under way"),
    "a box at an uneven place": (LOAD.replace("s, x_map", "s + 64, x_map"), Misaligned, "multiples of 128"),
    "a box outside": (LOAD.replace("s, x_map", "s + 8064, x_map"), OutOfBounds, "by the copy engine"),
    "a map that is none": (LOAD.replace("s, x_map", "s, x_map + 1"), Fault, "no tensor map"),
    "a store of what was not fenced": (f"{HIDDEN}barrier()\n{STORE}", Race, "no async_fence"),
    "a fence after the barrier": (f"{HIDDEN}barrier()\nasync_fence()\n{STORE}", Race, "no async_fence"),
    "a store without a barrier": (f"{HIDDEN}async_fence()\n{STORE}", Race, "another warp wrote it"),
    "a store of a copy under way": (f"{LOAD}{STORE}", Race, "while a copy to it is under way"),
    "a write under a store": (f"{SEEN}{STORE}tma_commit()\nstore_shared_r(s + 4 * t, 1)", Race, "a TMA store or an mbarrier uses it"),
    "a write after the wait of others": (
        f"{SEEN}{STORE}tma_commit()\ntma_wait_read(0)\nstore_shared_r(s + 4 * t, 1)", Race, "another warp read it"),
    "a wait that leaves the store": (f"{SEEN}{STORE}tma_commit()\ntma_wait_read(1)\nbarrier()\n{HIDDEN}", Race, "uses it"),
    "a store without a wait": (f"{SEEN}{STORE}tma_commit()", Fault, "without tma_commit and tma_wait_read"),
    "a store without a commit": (f"{SEEN}{STORE}tma_wait_read(0)", Fault, "without tma_commit and tma_wait_read"),
    "a wait for what is no constant": ("tma_wait(t - t)", Fault, "not one of the constants"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*SYNCHRONISATION, *COPIES])
def test_faults_of_two_groups(name: str) -> None:
    body, expected, text = {**SYNCHRONISATION, **COPIES}[name]
    x = np.zeros((1, 1, 16, 16), np.int16)
    one_group = name in (*COPIES, "one lane arrives for two warps", "too many threads")
    groups = (64,) if one_group else (32, 32)
    with pytest.raises(expected, match=text) as caught:
        run(START + body, {}, groups=groups, shared_bytes=8192, maps={"x_map": (x, 16, 16)})
    assert type(caught.value) is expected


# ---- one group of four warps with two products under way: c from shared memory, e from the registers a

PRODUCTS = """
s = shared()
for i in range(4):
    store_shared_4(s + 16 * (t + 128 * i), 0, 0, 0, 0)
BEFORE
barrier()
c, e, a = registers((8, 4), "f"), registers((8, 4), "f"), registers((4,), "r")
for i in range(4):
    a[i] = 0
    e[0, i] = 0.0
hold(a)
hold(e)
wgmma_fence()
AFTER_FENCE
x = (s & 0x3FFFF) >> 4 | 64 << 32 | 1 << 62
wgmma_ss(c, x, x, 0, "bf16", 0)
wgmma_commit()
wgmma_rs(e, a, 0, x, 1, "bf16", 0)
wgmma_commit()
FLYING
wgmma_wait(1)
ONE_DONE
wgmma_wait(0)
BOTH_DONE
hold(c)
hold(e)
y = c[0, 0] + e[0, 0]
AGAIN
"""
FENCE = "async_fence()"
WGMMA = {
    "results under way are read": ("FLYING", "y = c[0, 0]", Race, "are read while wgmma is under way"),
    "results under way are written": ("FLYING", "c[0, 0] = 0.0", Race, "are written while wgmma is under way"),
    "the wait leaves results under way": ("ONE_DONE", "y = e[0, 0]", Race, "are read while wgmma is under way"),
    "results are read without a hold": ("BOTH_DONE", "y = e[0, 0]", Fault, "without a hold after the wgmma_wait"),
    "a hold before the wait": ("ONE_DONE", "hold(e)\nwgmma_wait(0)\ny = e[0, 0]", Fault, "without a hold after the wgmma_wait"),
    "operands under way are written": ("FLYING", "a[3] = 1", Race, "and it reads them"),
    "shared memory is written": ("ONE_DONE", "store_shared_r(s + 4 * t, 1)", Race, "while wgmma"),
    "shared memory is written by a copy": ("FLYING", "copy16(s + 16 * t, out, 16)", Race, "while wgmma"),
    "others read the shared memory": ("AGAIN", "store_shared_r(s + 4 * t, 1)", Race, "another warp read it"),
    "no wait at all": ("AGAIN", "hold(c)\nwgmma_fence()\nwgmma_ss(c, x, x, 0, 'bf16', 0)\nwgmma_commit()", Fault, "the kernel ends without"),
    "no commit": ("AGAIN", "hold(c)\nwgmma_fence()\nwgmma_ss(c, x, x, 0, 'bf16', 0)\nwgmma_wait(0)", Fault, "the kernel ends without"),
    "accumulators after the fence": ("AFTER_FENCE", "c[0, 0] = 0.0\nhold(c)", Fault, "accumulators without a wgmma_fence"),
    "accumulators without a hold": ("AFTER_FENCE", "c[0, 0] = 0.0\nwgmma_fence()", Fault, "accumulators without a hold"),
    "operands after the fence": ("AFTER_FENCE", "a[0] = 0\nhold(a)", Fault, "left operand without a wgmma_fence"),
    "read accumulators without a fence": ("AGAIN", "hold(c)\nwgmma_ss(c, x, x, 1, 'bf16', 0)", Fault, "without a wgmma_fence"),
    "writes without async_fence": ("BEFORE", "", Race, "no async_fence"),
    "async_fence of some writes": ("BEFORE", "async_fence()\nstore_shared_r(s + 4 * t, 0)", Race, "no async_fence"),
    "async_fence after the barrier": ("AFTER_FENCE", "async_fence()", Race, "no async_fence"),
    "writes after the barrier": ("AFTER_FENCE", "store_shared_r(s + 4 * t, 0)\nasync_fence()", Race, "another warp wrote it"),
    "a plain layout": ("x = x & 0xFFFFFFFFFFFFFF", "", Fault, "rows are not swizzled"),
    "bits that are to be 0": ("x = x | 1 << 49", "", Fault, "bits that are to be 0"),
    "a start between patterns": ("x = x + 8", "", Fault, "do not lie in the first row of a pattern"),
    "a start behind the row": ("x = x + 7", "", Fault, "do not lie in the first row of a pattern"),
    "a stride between patterns": ("x = x + (8 << 32)", "", Fault, "its stride of 1152 bytes"),
    "shared memory that is not there": ("x = x + 512", "", OutOfBounds, "by wgmma"),
    "shared memory before the first byte": ("x = x - 64", "", OutOfBounds, "by wgmma"),
    "a leading offset between patterns": ('wgmma_ss(registers((64,), "f"), x, x, 0, "f16", 1)', "", Fault, "its leading offset of 0 bytes"),
    "another kind": ('wgmma_ss(c, x, x, 0, "tf32", 0)', "", Fault, "multiplies bf16 or f16"),
    "too many columns": ('wgmma_ss(registers((132,), "f"), x, x, 0, "f16", 0)', "", Fault, "264 columns"),
    "columns in odd numbers": ('wgmma_ss(registers((6,), "f"), x, x, 0, "f16", 0)', "", Fault, "12 columns"),
    "a transposition in question": ('wgmma_ss(c, x, x, 0, "f16", 2)', "", Fault, "the constant 0 or 1"),
    "descriptors that differ": ('wgmma_ss(c, x + t, x, 0, "f16", 0)', "", Fault, "differs in the block"),
    "integers as accumulators": ('wgmma_ss(a, x, x, 0, "f16", 0)', "", TypeError, "float32 registers"),
    "floats as operands": ('wgmma_rs(c, e, 0, x, 0, "f16", 0)', "", TypeError, "int32 registers"),
    "operands that are not there": ('wgmma_rs(c, a, 1, x, 0, "f16", 0)', "", IndexError, "registers 4..7"),
    "a hold of no registers": ("hold(x)", "", TypeError, "hold takes"),
}  # fmt: skip


def with_line(where: str, line: str) -> str:
    """The products with a line at a mark, or with `where` itself as a line behind the descriptor."""
    text = PRODUCTS
    if where not in text:
        text = text.replace("1 << 62\n", f"1 << 62\n{where}\n")
    elif where == "BEFORE":
        text = text.replace("BEFORE", line)
    else:
        text = text.replace(where + "\n", line + "\n", 1)
    text = text.replace("BEFORE", "" if line == FENCE else FENCE)
    for mark in ("AFTER_FENCE", "FLYING", "ONE_DONE", "BOTH_DONE", "AGAIN"):
        text = text.replace(f"\n{mark}\n", "\n")
    return text


@pytest.mark.parametrize("name", WGMMA)
def test_faults_of_products(name: str) -> None:
    where, line, expected, text = WGMMA[name]
    out = np.zeros(1024, np.int32)
    options = {"threads": 128, "shared_bytes": 8192}
    run(with_line("AGAIN", "pass"), {"out": out}, **options)
    with pytest.raises(expected, match=text):
        run(with_line(where, line), {"out": out}, **options)


def test_products_take_four_warps_from_a_multiple_of_four() -> None:
    text = with_line("AGAIN", "pass")
    for groups in ((256,), (64, 128, 64)):
        with pytest.raises(Fault, match="it takes four warps"):
            run(text, {"out": np.zeros(1024, np.int32)}, threads=256, groups=groups, shared_bytes=16384)


def test_a_group_alone_waits_for_nobody() -> None:
    with pytest.raises(Deadlock, match=r"threads 0..63 wait in line 13 for the mbarrier at byte 4096, parity 0"):
        run(START + "mbar_wait(bar, 0)", {}, shared_bytes=8192)


def test_groups_make_the_block() -> None:
    for groups in ((32,), (32, 48), (16, 48), (0, 64)):
        with pytest.raises(ValueError, match="no whole warps that make a block of 64"):
            run("pass", {}, groups=groups)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"address": 8}, "its address is no multiple of 16"),
        ({"strides": (32, 72, 64)}, "a stride is no multiple of 16"),
        ({"strides": (2**40, 64, 64)}, "strides are"),
        ({"strides": (-32, 64, 64)}, "strides are"),
        ({"extents": (16, 0, 1, 1)}, "extents"),
        ({"rows": 257}, "1..256 rows"),
        ({"columns": 128}, "64, 32 or 16 columns"),
    ],
)
def test_maps_that_no_driver_encodes(change: dict, text: str) -> None:
    good = {"address": 0, "extents": (16, 16, 1, 1), "strides": (32, 512, 512), "rows": 16, "columns": 16}
    memory = Memory()
    assert memory.geometry(memory.tensor_map(Geometry(**good))) == Geometry(**good)
    with pytest.raises(Fault, match=text):
        memory.tensor_map(Geometry(**{**good, **change}))


# ---- a whole kernel

WRONG = None  # the fault shows in the result
RELEASE = "                mbar_arrive_if(eq(lane, 0), v_empty + 8 * stage)\n"
WAIT_PV = "                wgmma_wait(0)\n                hold(acc)\n"
FENCE_O = "            async_fence()\n            named_barrier(1 + group, 128)\n"
PLANTED = {
    "no wait for S": ("                wgmma_wait(0)\n                hold(s)\n", "                hold(s)\n", Race),
    "no wait for the output": (WAIT_PV, "", Fault),
    "P is written while it is multiplied": (WAIT_PV, "                p[0, 0] = 0\n" + WAIT_PV, Race),
    "no fence": ("                hold(p)\n                wgmma_fence()\n", "                hold(p)\n", Fault),
    "no commit": ("                wgmma_commit()\n", "", Race),
    "a wrong step along the keys": ("128 * kk, 1", "64 * kk, 1", WRONG),
    "a step between patterns": ("128 * kk, 1", "8 * kk, 1", Fault),
    "a wrong step along the features": ("stage * STEP + 2 * kk", "stage * STEP + 4 * kk", Fault),
    "always the first stage": ("k_desc + stage * STEP", "k_desc", Race),
    "a stage that is never released": ("mbar_arrive_if(eq(lane, 0), k_empty + 8 * stage)", "pass", Deadlock),
    "queries that are never released": ("mbar_arrive_if(leader, q_empty)", "pass", Deadlock),
    "a release before the wait": (WAIT_PV + RELEASE, RELEASE + WAIT_PV, Race),
    "no wait for a release": ("mbar_wait(q_empty, turn ^ 1)", "pass", Race),
    "too few bytes": ("v_full + 8 * stage, TILE)", "v_full + 8 * stage, TILE // 2)", Fault),
    "too many bytes": ("v_full + 8 * stage, TILE)", "v_full + 8 * stage, TILE + 16)", Deadlock),
    "no wait for keys": ("                mbar_wait(k_full + 8 * stage, parity)\n", "", Race),
    "the other parity": ("mbar_wait(k_empty + 8 * stage, parity ^ 1)", "mbar_wait(k_empty + 8 * stage, parity)", Deadlock),
    "too few arrivals awaited": ("k_empty + 8 * i, 8", "k_empty + 8 * i, 2", Fault),
    "too many arrivals awaited": ("k_empty + 8 * i, 8", "k_empty + 8 * i, 9", Deadlock),
    "no async_fence": ("            async_fence()\n", "", Race),
    "async_fence behind the barrier": (FENCE_O, FENCE_O[FENCE_O.index("\n") + 1 :] + "            async_fence()\n", Race),
    "no barrier before the output": ("            named_barrier(1 + group, 128)\n            for h", "            for h", Race),
    "no barrier before the store": (FENCE_O, "            async_fence()\n", Race),
    "no wait for the store": ("tma_wait_read(0)", "pass", Race),
    "no mbar_fence": ("    mbar_fence()\n", "", Fault),
    "no barrier at the start": ("    mbar_fence()\n    barrier()\n", "    mbar_fence()\n", Fault),
    "more registers than there are": ("registers_more(240)", "registers_more(248)", Deadlock),
    "registers not given back": ("registers_less(24)", "pass", Deadlock),
    "V as if it lay by keys": ('1, "bf16", 1', '1, "bf16", 0', Race),
    "a wrong permutation of the output": ("(row & 7)) << 4", "(row & 3)) << 4", WRONG),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found(name: str) -> None:
    old, new, expected = PLANTED[name]
    assert old in SOURCE
    source = SOURCE.replace(old, new, 1)
    if expected is WRONG:
        assert not error(source, 200, 400, False) < 0.1
    else:
        with pytest.raises(expected) as caught:
            error(source, 200, 400, False)
        assert type(caught.value) is expected
