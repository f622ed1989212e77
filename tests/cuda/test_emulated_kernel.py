"""The emulator on a whole kernel: right results at odd lengths, and every planted fault found."""

import pytest
from fa2_kernel import SHARED, SOURCE, THREADS, error

from attnc.backends.cuda.emulate import Divergence, Fault, Memory, Misaligned, OutOfBounds, Race, launch

GOOD = 0.01  # bfloat16 weights and outputs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(1, 1), (64, 64), (65, 127), (37, 200), (130, 70), (3, 257)])
def test_attention_agrees_with_numpy(lengths: tuple[int, int], causal: bool) -> None:
    assert error(SOURCE, *lengths, causal) < GOOD


WRONG = None  # the fault shows in the result
FAULTS = {
    "missing wait": ("        copy_wait(0)\n        barrier()\n", "        barrier()\n", Race),
    "wait for too little": (
        "        copy_wait(0)\n        barrier()\n",
        "        copy_wait(1)\n        barrier()\n",
        Race,
    ),
    "missing commit": ("        copy_commit()\n", "", Race),
    "missing barrier in the loop": ("        copy_wait(0)\n        barrier()\n", "        copy_wait(0)\n", Race),
    "missing barrier before the output": ("    barrier()\n    for i", "    for i", Race),
    "one stage for two tiles": ("stage = 1 - stage", "pass", Race),
    "wrong swizzle of V": ("(n2 << 5)) + kk", "(n2 << 4)) + kk", WRONG),
    "wrong swizzle of the copies": ("(tid & 7) ^ (copy_row & 7)", "(tid & 7) ^ (copy_row & 3)", WRONG),
    "wrong swizzle of K": ("((lane >> 3) & 1) ^ (lane & 7)", "((lane >> 4) & 1) ^ (lane & 7)", WRONG),
    "not transposed": ("= ldmatrix_t(", "= ldmatrix(", WRONG),
    "clobbered fragment": ("b0, b1, b2, b3 = ldmatrix(", "b0, b1, b2, b3 = a[0], a[1], a[2], a[3] = ldmatrix(", WRONG),
    "accumulator not cleared": ("                s[n, e] = 0.0\n", "                pass\n", WRONG),
    "divergent branch": (
        "    copy_wait(0)\n    for h",
        "    if lane == 0:\n        copy_wait(0)\n    for h",
        Divergence,
    ),
    "divergent loop": ("for kk in range(4)", "for kk in range(4 + (warp & 1))", Divergence),
    "wrong mask offset": ("row + 1 + kv_len", "row + kv_len", WRONG),
    "no mask at the last key": ("if causal else kv_len", "if causal else kv_len + 1", WRONG),
    "maximum over two lanes": ("maximum_fast(x, shuffle_f(x, 2))", "x", WRONG),
    "keys read past the end": ("where(row < kv_len, 16, 0)", "16", OutOfBounds),
    "queries written past the end": ("store_r128_if(row < q_len", "store_r128_if(True", OutOfBounds),
    "shared memory that is not there": ("to + 2 * TILE", "to + 3 * TILE", OutOfBounds),
    "uneven address": ("a_at = (", "a_at = 8 | (", Misaligned),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(name: str) -> None:
    old, new, expected = FAULTS[name]
    assert old in SOURCE
    source = SOURCE.replace(old, new)
    if expected is WRONG:
        assert not all(error(source, *call) < 2 * GOOD for call in ((69, 133, True), (40, 13, False)))
    else:
        with pytest.raises(expected):
            error(source, 69, 133, True)


def test_a_fault_is_noted_with_block_and_line() -> None:
    source = SOURCE.replace("row < q_len, 16, 0", "True, 16, 0")
    with pytest.raises(Fault) as caught:
        error(source, 69, 133, False)
    assert "byte 8832 of q, which has 8832" in str(caught.value)
    line = next(k for k, text in enumerate(source.splitlines(), 1) if "True, 16, 0" in text)
    text = "copy16(start + copy_to + i * 16 * ROW, q + row * ROW + chunk, where(True, 16, 0))"
    assert caught.value.__notes__ == [f"block 1, line {line} of the kernel: {text}"]


def test_blocks_may_be_chosen() -> None:
    source = "from attnc.backends.cuda.intrinsics import block\ndef kernel():\n    assert block() == 2\n"
    launch(source, [], 5, THREADS, SHARED, Memory(), only=[2])
    with pytest.raises(AssertionError):
        launch(source, [], 5, THREADS, SHARED, Memory())
