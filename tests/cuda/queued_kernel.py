"""A kernel by hand in the manner of FlashAttention-3: a producer warp, two warpgroups that compute, 64 features, 128 keys per tile.

Blocks take items of 128 queries from a queue. Softmax and products do not overlap.
"""

import math
from typing import Any

import ml_dtypes
import numpy as np
from snippets import geometry

from attnc.backends.cuda.emulate import Memory, launch

THREADS, GROUPS = 384, (32, 96, 128, 128)
TILE = 128 * 128  # bytes
SHARED = 5 * TILE + 128

SOURCE = """
from attnc.backends.cuda.elementwise import eq, fma, maximum_fast, minimum, where
from attnc.backends.cuda.intrinsics import (
    async_fence, atomic_next, barrier, broadcast, fast_ex2, fast_rcp, hold, load_shared_r, mbar_arrive_if, mbar_expect_if,
    mbar_fence, mbar_init_if, mbar_wait, named_barrier, pack_bf16, registers, registers_less, registers_more, scalar, shared,
    shuffle_f, store_shared_r, thread, tma_commit, tma_load_if, tma_store_if, tma_wait_read, unrolled, wgmma_commit,
    wgmma_fence, wgmma_rs, wgmma_ss, wgmma_wait,
)

TILE = 128 * 128
STEP = TILE >> 4
K_MAJOR = 1 << 62 | 64 << 32
MN_MAJOR = 1 << 62 | 64 << 32


def kernel(q_map, k_map, v_map, out_map, scratch, items, per_head, q_len, kv_len, causal, scale_bits):
    start = shared()
    tid = thread()
    lane, warp = tid & 31, (tid >> 5) - 4
    scale = scalar(scale_bits)
    k_tiles = start + TILE
    v_tiles = start + 3 * TILE
    bars = start + 5 * TILE
    q_full, q_empty, k_full, k_empty, v_full, v_empty, slot = (
        bars, bars + 8, bars + 16, bars + 32, bars + 48, bars + 64, bars + 80
    )
    mbar_init_if(eq(tid, 0), q_full, 1)
    mbar_init_if(eq(tid, 0), q_empty, 2)
    for i in range(2):
        mbar_init_if(eq(tid, 0), k_full + 8 * i, 1)
        mbar_init_if(eq(tid, 0), v_full + 8 * i, 1)
        mbar_init_if(eq(tid, 0), k_empty + 8 * i, 8)
        mbar_init_if(eq(tid, 0), v_empty + 8 * i, 8)
    mbar_fence()
    barrier()
    stage = 0
    parity = 0
    turn = 0
    if warp < 0:
        registers_less(24)
        if warp == -4:
            first = eq(lane, 0)
            while True:
                item = broadcast(atomic_next(first, scratch))
                mbar_wait(q_empty, turn ^ 1)
                store_shared_r(slot, item)
                turn = turn ^ 1
                if item >= items:
                    mbar_arrive_if(first, q_full)
                    break
                head = item // per_head
                row0 = item % per_head * 128
                last = min(kv_len, row0 + 128 + kv_len - q_len) if causal else kv_len
                mbar_expect_if(first, q_full, TILE)
                tma_load_if(first, start, q_map, q_full, 0, row0, head, 0)
                for j in range((last + 127) // 128):
                    mbar_wait(k_empty + 8 * stage, parity ^ 1)
                    mbar_expect_if(first, k_full + 8 * stage, TILE)
                    tma_load_if(first, k_tiles + stage * TILE, k_map, k_full + 8 * stage, 0, j * 128, head, 0)
                    mbar_wait(v_empty + 8 * stage, parity ^ 1)
                    mbar_expect_if(first, v_full + 8 * stage, TILE)
                    tma_load_if(first, v_tiles + stage * TILE, v_map, v_full + 8 * stage, 0, j * 128, head, 0)
                    stage = stage + 1
                    if stage == 2:
                        stage = 0
                        parity = parity ^ 1
    else:
        registers_more(240)
        group = warp >> 2
        s = registers((16, 4), "f")
        acc = registers((8, 4), "f")
        p = registers((8, 4), "r")
        top = registers((2,), "f")
        total = registers((2,), "f")
        limit = registers((2,), "r")
        q_desc = K_MAJOR | ((start + group * (TILE // 2)) & 0x3FFFF) >> 4
        k_desc = K_MAJOR | (k_tiles & 0x3FFFF) >> 4
        v_desc = MN_MAJOR | (v_tiles & 0x3FFFF) >> 4
        while True:
            mbar_wait(q_full, turn)
            turn = turn ^ 1
            item = load_shared_r(slot)
            if item >= items:
                break
            row0 = item % per_head * 128
            last = min(kv_len, row0 + 128 + kv_len - q_len) if causal else kv_len
            for h in range(2):
                top[h] = -1.0e30
                total[h] = 0.0
                row = row0 + 16 * warp + 8 * h + (lane >> 2)
                limit[h] = minimum(kv_len, row + 1 + kv_len - q_len) if causal else kv_len
            for n in range(8):
                for e in range(4):
                    acc[n, e] = 0.0
            for j in range((last + 127) // 128):
                mbar_wait(k_full + 8 * stage, parity)
                hold(s)
                wgmma_fence()
                for kk in unrolled(4):
                    wgmma_ss(s, q_desc + 2 * kk, k_desc + stage * STEP + 2 * kk, kk, "bf16", 0)
                wgmma_commit()
                wgmma_wait(0)
                hold(s)
                mbar_arrive_if(eq(lane, 0), k_empty + 8 * stage)
                for h in range(2):
                    x = top[h]
                    for n in range(16):
                        for e in range(2):
                            column = j * 128 + 8 * n + 2 * (lane & 3) + e
                            s[n, 2 * h + e] = where(column < limit[h], s[n, 2 * h + e] * scale, float("-inf"))
                            x = maximum_fast(x, s[n, 2 * h + e])
                    x = maximum_fast(x, shuffle_f(x, 1))
                    x = maximum_fast(x, shuffle_f(x, 2))
                    factor = fast_ex2(top[h] - x)
                    top[h] = x
                    y = total[h] * factor
                    for n in range(16):
                        for e in range(2):
                            s[n, 2 * h + e] = fast_ex2(s[n, 2 * h + e] - x)
                            y = y + s[n, 2 * h + e]
                    total[h] = y
                    for n in range(8):
                        for e in range(2):
                            acc[n, 2 * h + e] = acc[n, 2 * h + e] * factor
                for n in range(16):
                    for h in range(2):
                        p[n >> 1, 2 * (n & 1) + h] = pack_bf16(s[n, 2 * h], s[n, 2 * h + 1])
                mbar_wait(v_full + 8 * stage, parity)
                hold(acc)
                hold(p)
                wgmma_fence()
                for kk in unrolled(8):
                    wgmma_rs(acc, p, kk, v_desc + stage * STEP + 128 * kk, 1, "bf16", 1)
                wgmma_commit()
                wgmma_wait(0)
                hold(acc)
                mbar_arrive_if(eq(lane, 0), v_empty + 8 * stage)
                stage = stage + 1
                if stage == 2:
                    stage = 0
                    parity = parity ^ 1
            named_barrier(1 + group, 128)
            for h in range(2):
                y = total[h]
                y = y + shuffle_f(y, 1)
                y = y + shuffle_f(y, 2)
                y = where(y > 0.0, fast_rcp(y), 0.0)
                row = 16 * warp + 8 * h + (lane >> 2)
                for n in range(8):
                    to = start + row * 128 + ((n ^ (row & 7)) << 4) + 4 * (lane & 3)
                    store_shared_r(to, pack_bf16(acc[n, 2 * h] * y, acc[n, 2 * h + 1] * y))
            async_fence()
            named_barrier(1 + group, 128)
            leader = eq(tid & 127, 0)
            tma_store_if(leader, out_map, start + group * (TILE // 2), 0, row0 + 64 * group, item // per_head, 0)
            tma_commit()
            tma_wait_read(0)
            mbar_arrive_if(leader, q_empty)
"""


def error(
    source: str, q_len: int, kv_len: int, causal: bool, heads: int = 1, grid: int = 1, groups: tuple[int, ...] = GROUPS
) -> float:
    """The relative error of a kernel's outputs; NaN or infinite where it wrote nonsense."""
    rng = np.random.default_rng(q_len + kv_len)
    shapes = [(1, heads, n, 64) for n in (q_len, kv_len, kv_len)]
    q, k, v = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in shapes)
    out, memory, scratch = np.full_like(q, np.nan), Memory(), np.zeros(4, np.int32)
    maps = [memory.tensor_map(geometry(memory, x, rows, 64)) for x, rows in ((q, 128), (k, 128), (v, 128), (out, 64))]
    per_head = -(-q_len // 128)
    scale = np.float64(math.log2(math.e) / 8).view(np.int64)
    words = [*maps, memory.address(scratch), heads * per_head, per_head, q_len, kv_len, int(causal), int(scale)]
    launch(source, words, grid, THREADS, SHARED, memory, groups=groups)
    assert scratch[0] == heads * per_head + grid
    expected = _attention(*(x[0].astype(np.float64) for x in (q, k, v)), causal)
    return float(np.linalg.norm(out[0].astype(np.float64) - expected) / np.linalg.norm(expected))


def _attention(q: Any, k: Any, v: Any, causal: bool) -> Any:
    scores = q @ k.swapaxes(1, 2) / 8
    if causal:
        row, column = np.arange(q.shape[1])[:, None], np.arange(k.shape[1])
        scores = np.where(column <= row + k.shape[1] - q.shape[1], scores, -np.inf)
    top = scores.max(axis=2, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(axis=2, keepdims=True)
    return weights @ v / np.where(total, total, 1)
