"""Which tiles a CUDA kernel visits: exactly those that `f.blocks` says are not empty; and faults that must be noticed."""

import importlib
import sys
from pathlib import Path

import ml_dtypes
import numba
import numpy as np
import pytest
from running import run

import attnc as at
import attnc.variants as library
from attnc.backends.cpu.boxes import box_last
from attnc.backends.cuda.emulate.faults import Fault
from attnc.backends.cuda.emulate.launch import launch
from attnc.backends.cuda.emulate.memory import Memory
from attnc.bench.analysis import counting
from attnc.variants.samples import examples_of

sys.path.append(str(Path(__file__).parents[1] / "unit"))
masks = importlib.import_module("masks")


@masks.masked
def per_head_window(h, i, j, *, width: at.Tensor["h", int]):
    return at.abs(i - j) < width[h]


RNG = np.random.default_rng(5)
DOCUMENTS = np.sort(RNG.integers(0, 5, (2, 300)))
MASKS = {
    "window": (library.sliding_window, {"window": 70}),
    "causal": (library.causal, {}),
    "prefix": (library.prefix_lm, None),
    "documents": (library.document, {"doc": DOCUMENTS}),
    "packed": (masks.packed_causal, {"doc": DOCUMENTS}),
    "natten": (library.natten, {"width": 20, "kernel": 7}),
    "block sparse": (library.block_sparse, None),
    "block diffusion": (library.block_diffusion, None),
    "BigBird": (library.bigbird, None),
    "per-head window": (per_head_window, {"width": np.array([3, 40, 90, 0])}),
    "dilated": (library.dilated_window, None),
    "chunked": (library.chunked, None),
}


def boxes_of(first, last, shift, radices, apart):
    """The ends of boxes, from the emulated function and from the CPU's."""
    memory, found = Memory(), np.zeros(1, np.int64)
    kernel = """
from attnc.backends.cuda.boxes import box_last
from attnc.backends.cuda.intrinsics import store_l_if, thread


def kernel(out, first, last, shift, narrow, wide, apart):
    store_l_if(thread() == 0, out, box_last(first, last, shift, (narrow, wide), apart))
"""
    launch(kernel, [memory.address(found, "out"), first, last, shift, *radices, apart], 1, 32, 0, memory)
    return int(found[0]), cpu_box_last(first, last, shift, radices, apart)


@numba.njit
def cpu_box_last(first, last, shift, radices, apart):
    return box_last(first, last, shift, radices, apart)


def test_boxes_end_where_those_of_the_cpu_do():
    for _ in range(300):
        first, shift = int(RNG.integers(0, 100)), int(RNG.integers(-50, 50))
        narrow = int(RNG.integers(-1, 9))
        case = (
            first,
            first + int(RNG.integers(0, 90)),
            shift,
            (narrow, narrow * int(RNG.integers(1, 5))),
            int(RNG.integers(0, 9)),
        )
        mine, theirs = boxes_of(*case)
        assert mine == theirs, case


@pytest.mark.parametrize("name", MASKS)
def test_the_tiles_that_are_not_empty_are_visited(name):
    variant, operands = MASKS[name]
    B, Hq, L = 2, 4, 300
    if operands is None:
        operands = examples_of(variant.__name__, np.random.default_rng(1), B, Hq, Hq, L, L, 16, 16, ml_dtypes.bfloat16)
    q, k, v = (RNG.standard_normal((B, Hq, L, 16)).astype(ml_dtypes.bfloat16) for _ in range(3))
    found = run(variant, q, k, v, operands, change=counting)
    rows, keys = found.schedule.rows, found.schedule.keys
    tiles = variant.blocks(q, k, v, tile=(rows, keys), **operands)
    full, some = (x[..., ::rows].astype(np.float64) for x in found.outputs)
    blocks = tiles.to_dense()
    assert ((full + some) == (blocks != 0).sum(-1)).all()
    assert 0 < tiles.visited < tiles.total or name in ("BigBird", "dilated")
    assert (
        full == (blocks[..., :-1] == 2).sum(-1)
    ).all()  # the last tile ends behind the last key: it has a mask of its own


def swap(old, new):
    """A change of one place of a source."""

    def edit(text):
        assert old in text, old
        return text.replace(old, new)

    return edit


FAULTS = {
    "missing wait": swap("            copy_wait(0)\n", ""),
    "missing barrier": swap("            copy_wait(0)\n            barrier()\n", "            copy_wait(0)\n"),
    "wrong swizzle": swap("((c ^ r & 7) << 4)", "((c ^ r & 3) << 4)"),
    "clobbered fragment": swap("b0, b1, b2, b3 = ldmatrix_t", "a[rt, 0], b1, b2, b3 = ldmatrix_t"),
    "divergence": swap("if not more:", "if not more or lane == 5:"),
    "wrong mask offset": swap("now + first_key + 8 * ct", "now + first_key + 1 + 8 * ct"),
    "forgotten rescaling": swap("] = mul(alpha[rt, hf], acc", "] = mul(1.0, acc"),
    "wrong stage": swap("K = K_shared + stage", "K = K_shared + (1 - stage)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name):
    q, k, v = (RNG.standard_normal((1, 1, 200, 64)).astype(ml_dtypes.bfloat16) for _ in range(3))
    v[...] = np.sign(v.astype(np.float32))  # what a row misses is as large as what it has
    assert run(library.causal, q, k, v, {}).report().ok
    try:
        found = run(library.causal, q, k, v, {}, edit=FAULTS[name])
    except (Fault, NameError):
        return
    assert not found.report().ok
