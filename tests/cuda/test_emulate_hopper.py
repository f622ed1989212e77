"""The emulator's rules for sm_90a, each against NumPy, and groups of threads that wait for each other."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from queued_kernel import SOURCE, error
from snippets import floats, run, words

KINDS = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}
WIDTHS = (128, 64, 32)
GROUPS = (32, 32)


def permuted(image: np.ndarray, width: int) -> np.ndarray:
    """Rows of `width` bytes with their chunks of 16 bytes as the copy engine places them, as the formula of its manual says."""
    rows = image.reshape(-1, width // 16, 8)
    row, chunk = np.arange(len(rows))[:, None], np.arange(width // 16)
    shift = {128: 0, 64: 1, 32: 2}[width]
    found = np.empty_like(rows)
    found[row, chunk ^ (row >> shift & (width // 16 - 1))] = rows
    return found


# ---- the copy engine


TO_SHARED = """
bar = shared() + 4096
mbar_init_if(t == 0, bar, 1)
mbar_fence()
barrier()
mbar_expect_if(t == 0, bar, BYTES)
tma_load_if(t == 0, shared(), x_map, bar, FEATURE, ROW, 1, 2)
mbar_wait(bar, 0)
"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("row", "feature"), [(4, 0), (-3, 8), (30, -1), (2, 40), (99, 0)])
def test_boxes_come_with_chunks_permuted_and_zeros_from_outside(width: int, row: int, feature: int) -> None:
    x = np.random.default_rng(0).integers(1, 2**15, (3, 2, 37, 72)).astype(np.int16)
    columns, rows = width // 2, 24
    padded = np.zeros((rows + 200, 300), np.int16)
    padded[50:87, 50:122] = x[2, 1]
    expected = permuted(padded[50 + row :, 50 + feature :][:rows, :columns].copy(), width)
    text = TO_SHARED.replace("BYTES", str(rows * width)).replace("FEATURE", str(feature)).replace("ROW", str(row))
    out = np.zeros((256, 8), np.int16)
    run(f"""{text}
for i in range(4):
    w0, w1, w2, w3 = load_shared_4(shared() + 16 * (t + 64 * i))
    store_r128_if(True, out + 16 * (t + 64 * i), w0, w1, w2, w3)
    """, {"out": out}, shared_bytes=4112, maps={"x_map": (x, rows, columns)})  # fmt: skip
    np.testing.assert_array_equal(out[: rows * width // 16], expected.reshape(-1, 8))
    assert (out[rows * width // 16 :] == -1).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_boxes_go_back_and_nothing_is_written_outside(width: int) -> None:
    x = np.random.default_rng(1).integers(1, 2**15, (3, 2, 24, width // 2)).astype(np.int16)
    out = np.zeros((1, 2, 20, width // 2 - 8), np.int16)
    text = TO_SHARED.replace("BYTES", str(24 * width)).replace("FEATURE", "0").replace("ROW", "0")
    run(f"{text}\ntma_store_if(t == 33, out_map, shared(), 0, 5, 1, 0)\ntma_commit()\ntma_wait_read(0)\n", {}, shared_bytes=4112,
        maps={"x_map": (x, 24, width // 2), "out_map": (out, 24, width // 2)})  # fmt: skip
    expected = np.zeros_like(out)
    expected[0, 1, 5:] = x[2, 1, :15, : width // 2 - 8]
    np.testing.assert_array_equal(out, expected)


def test_what_is_stored_is_read_after_the_wait() -> None:
    """Groups of stores end in turn, and shared memory that was read may be written again."""
    y = np.zeros((1, 1, 32, 16), np.int16)
    found = words("""
        for i in range(2):
            store_shared_4(shared() + 16 * t, i + 1, i + 1, i + 1, i + 1)
            async_fence()
            barrier()
            tma_store_if(t == 0, y_map, shared(), 0, 16 * i, 0, 0)
            tma_commit()
            tma_wait_read(0)
            barrier()
        tma_wait(1)
        store_r_if(t == 0, out, load_i32(y))
        store_r_if(t == 1, out + 4, load_i32(y + 512))
        tma_wait(0)
        store_r_if(t == 2, out + 8, load_i32(y + 512))
    """, y=y, options={"maps": {"y_map": (y, 16, 16)}})  # fmt: skip
    assert found[:3].tolist() == [1, 0, 2]


# ---- wgmma


def k_major(matrix: np.ndarray, width: int) -> np.ndarray:
    """Rows of 16 numbers, at the start of rows of `width` bytes."""
    image = np.full((len(matrix), width // 2), -1, np.int16)
    image[:, :16] = matrix.view(np.int16)
    return permuted(image, width)


def mn_major(matrix: np.ndarray, width: int) -> np.ndarray:
    """16 rows of n numbers, in panels of `width` bytes."""
    n = matrix.shape[1]
    panels = -(-2 * n // width)
    image = np.full((16, panels * width // 2), -1, np.int16)
    image[:, :n] = matrix.view(np.int16)
    return permuted(image.reshape(16, panels, -1).swapaxes(0, 1).copy(), width)


PRODUCT = """
for i in range(SIZE // 2048):
    w0, w1, w2, w3 = load_r128(image + 16 * (t + 128 * i))
    store_shared_4(shared() + 16 * (t + 128 * i), w0, w1, w2, w3)
async_fence()
barrier()
c = registers((1, N // 8, 4), "f")
for i in range(N // 8):
    for e in range(4):
        c[0, i, e] = load_f32(start + 4 * (N // 2 * t + 4 * i + e))
hold(c)
LOAD
wgmma_fence()
a_desc = (shared() & 0x3FFFF) >> 4 | PATTERN >> 4 << 32 | KIND
b_desc = ((shared() + 8192) & 0x3FFFF) >> 4 | LEADING >> 4 << 16 | PATTERN >> 4 << 32 | KIND
for k in unrolled(2):
    CALL
wgmma_commit()
wgmma_wait(0)
hold(c)
for i in range(N // 8):
    for e in range(4):
        store_f32_if(True, out + 4 * (N // 2 * t + 4 * i + e), c[0, i, e])
"""
FROM_REGISTERS = """
a = registers((1, 2, 4), "r")
a[0, 1, 0], a[0, 1, 1], a[0, 1, 2], a[0, 1, 3] = load_r128(fragment + 16 * t)
for e in range(4):
    a[0, 0, e] = 0
hold(a)
"""


def spread_rows(matrix: np.ndarray) -> np.ndarray:
    """Of 64 rows, what each of 128 threads holds as accumulators."""
    n = matrix.shape[1]
    found = np.empty((128, n // 2), matrix.dtype)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        for i in range(n // 2):
            column, half, e = i // 4, i // 2 % 2, i % 2
            found[thread, i] = matrix[16 * warp + lane // 4 + 8 * half, 8 * column + 2 * (lane % 4) + e]
    return found


def fragment(matrix: np.ndarray) -> np.ndarray:
    """Of a left operand (64, 16), four registers of each thread."""
    return np.ascontiguousarray(spread_rows(matrix.view(np.int16))).view(np.int32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n", [8, 24, 64, 136, 256])
def test_products_of_four_warps(kind: str, transposed: int, width: int, n: int) -> None:
    """c + a b twice with both operands in shared memory, and once with the left one in registers."""
    rng = np.random.default_rng(n + width)
    a, b = (rng.integers(-9, 9, shape).astype(KINDS[kind]) for shape in ((64, 16), (16, n)))
    c = rng.integers(-99, 99, (64, n)).astype(np.float32)
    product = a.astype(np.float32) @ b.astype(np.float32)  # whole numbers: exact in any order
    right = mn_major(b, width) if transposed else k_major(b.T.copy(), width)
    image = np.full(8192 + -(-right.nbytes // 2048) * 2048, -1, np.int8)
    left = k_major(a, width)
    image[: left.nbytes], image[8192 : 8192 + right.nbytes] = left.view(np.int8).ravel(), right.view(np.int8).ravel()
    code = {128: 1 << 62, 64: -2 << 62, 32: -1 << 62}[width]  # as int64
    constants = f"SIZE, N, PATTERN, LEADING, KIND = {image.nbytes}, {n}, {8 * width}, {16 * width}, {code}"
    text = constants + PRODUCT
    arrays = {"image": image, "start": spread_rows(c), "fragment": fragment(a)}
    sizes: dict[str, Any] = {"threads": 128, "shared_bytes": image.nbytes}
    both = text.replace("CALL", f'wgmma_ss(c, a_desc, b_desc, 1 - k, "{kind}", {transposed})').replace("LOAD", "")
    found = floats(both, 64 * n, sizes, **arrays)
    np.testing.assert_array_equal(found.reshape(128, -1), spread_rows(product))
    one = text.replace("CALL", f'wgmma_rs(c, a, k, b_desc, 1, "{kind}", {transposed})').replace("LOAD", FROM_REGISTERS)
    found = floats(one, 64 * n, sizes, **arrays)
    np.testing.assert_array_equal(found.reshape(128, -1), spread_rows(product + c))


# ---- groups


def test_groups_have_control_flow_of_their_own() -> None:
    found = words("""
        if t < 32:
            for i in range(3):
                store_shared_r(shared() + 128 * i + 4 * t, t + 100 * i)
                named_arrive(1 + i, 64)
        else:
            for i in range(3):
                named_barrier(1 + i, 64)
                store_r_if(i == 2, out + 4 * t, load_shared_r(shared() + 128 * i + 4 * (63 - t)))
        store_r_if(t < 32, out + 4 * t, 7)
    """, options={"groups": GROUPS})  # fmt: skip
    t = np.arange(64)
    np.testing.assert_array_equal(found, np.where(t < 32, 7, 263 - t))


def test_barriers_of_the_block_join_all_groups() -> None:
    found = words("""
        store_shared_r(shared() + 4 * t, t)
        if t < 32:
            barrier()
            x = barrier_or(t == 5)
            y = barrier_or(False)
        else:
            barrier()
            x = barrier_or(False)
            y = barrier_or(False)
        store_r_if(x and not y, out + 4 * t, load_shared_r(shared() + 4 * (63 - t)))
    """, options={"groups": GROUPS})  # fmt: skip
    np.testing.assert_array_equal(found, 63 - np.arange(64))


RING = """
full, empty = shared() + 2048, shared() + 2064
for i in range(2):
    mbar_init_if(t == 0, full + 8 * i, 1)
    mbar_init_if(t == 0, empty + 8 * i, 1)
mbar_fence()
barrier()
if t < 32:
    for j in range(5):
        mbar_wait(empty + 8 * (j & 1), (j >> 1 & 1) ^ 1)
        mbar_expect_if(t == 0, full + 8 * (j & 1), 512)
        tma_load_if(t == 0, shared() + 1024 * (j & 1), x_map, full + 8 * (j & 1), 0, 16 * j, 0, 0)
else:
    total = 0
    for j in range(5):
        mbar_wait(full + 8 * (j & 1), j >> 1 & 1)
        total = total + load_shared_r(shared() + 1024 * (j & 1) + 16 * (t & 31))
        mbar_arrive_if(t == 32, empty + 8 * (j & 1))
    store_r_if(True, out + 4 * t, total)
"""


def test_a_ring_between_two_warps() -> None:
    x = np.random.default_rng(5).integers(0, 2**10, (1, 1, 80, 16)).astype(np.int16)
    found = words(RING, options={"groups": GROUPS, "maps": {"x_map": (x, 16, 16)}})
    tiles = np.stack([permuted(tile.copy(), 32) for tile in x.reshape(5, 16, 16)])
    expected = np.ascontiguousarray(tiles.reshape(5, 32, 8)).view(np.int32)[:, :, 0].sum(axis=0)
    np.testing.assert_array_equal(found, [-77] * 32 + expected.tolist())


def test_a_queue_hands_out_numbers() -> None:
    queue, found = np.array([3, 9], np.int32), np.zeros(2 * 64, np.int32)
    run("""
        x = atomic_next((t & 31) == 0, queue)
        store_r_if(True, out + 4 * (64 * block() + t), 100 * x + broadcast(x))
    """, {"queue": queue, "out": found}, grid=2)  # fmt: skip
    expected = np.zeros((4, 32)) + np.arange(3, 7)[:, None]
    expected[:, 0] *= 101
    np.testing.assert_array_equal(found.reshape(4, 32), expected)
    assert queue.tolist() == [7, 9]


def test_registers_are_taken_when_others_have_given_them() -> None:
    """1024 threads start with 64 each, which is all there are."""
    options = {"threads": 1024, "groups": (512, 512)}
    found = words("""
        if t < 512:
            registers_more(104)
            store_r_if(t == 0, out, load_i32(out + 4))
        else:
            store_r_if(t == 512, out + 4, 5)
            registers_less(24)
    """, options=options)  # fmt: skip
    assert found[0] == 5


# ---- a whole kernel


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(128, 512), (1, 1), (65, 300), (300, 260)])
def test_attention_agrees_with_numpy(lengths: tuple[int, int], causal: bool) -> None:
    assert error(SOURCE, *lengths, causal) < 0.004


def test_blocks_share_a_queue() -> None:
    assert error(SOURCE, 140, 200, True, heads=3, grid=3) < 0.004


@pytest.mark.parametrize("groups", [(384,), (128, 128, 128), (32, 96, 256)])
def test_groups_that_differ_are_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match=r"differs in the block|takes four warps"):
        error(SOURCE, 1, 1, False, groups=groups)
