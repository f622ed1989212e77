"""A kernel by hand, in the names that emitted kernels use: FlashAttention-2 for 64 queries, 64 features and 4 warps."""

import math
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate import Memory, launch

THREADS, SHARED = 128, 5 * 64 * 128  # a tile of Q, two stages of K and V

SOURCE = """
from attnc.backends.cuda.elementwise import fma, maximum_fast, minimum, where
from attnc.backends.cuda.intrinsics import (
    barrier, block, copy16, copy_commit, copy_wait, fast_ex2, fast_rcp, ldmatrix, ldmatrix_t, load_shared_4, mma_bf16,
    pack_bf16, registers, scalar, shared, shuffle_f, store_f32_if, store_r128_if, store_shared_r, thread,
)

ROW = 128  # bytes
TILE = 64 * ROW
NINF = float("-inf")


def kernel(q, k, v, o, lse, q_len, kv_len, causal, scale_bits):
    tid = thread()
    lane = tid & 31
    warp = tid >> 5
    start = shared()
    scale = scalar(scale_bits)
    row0 = block() * 64
    copy_row = tid >> 3
    copy_to = copy_row * ROW + (((tid & 7) ^ (copy_row & 7)) << 4)
    chunk = (tid & 7) * 16
    a_row = lane & 15
    a_at = ((lane >> 4) ^ (lane & 7)) << 4
    b_row = (lane & 7) + ((lane >> 4) << 3)
    q_at = start + (warp * 16 + a_row) * ROW + a_at
    k_at = start + TILE + b_row * ROW + ((((lane >> 3) & 1) ^ (lane & 7)) << 4)
    v_at = start + 3 * TILE + a_row * ROW + a_at
    last = kv_len
    if causal:
        last = min(kv_len, row0 + 64 + kv_len - q_len)
    blocks = (last + 63) // 64
    s = registers((8, 4), "f")
    acc = registers((8, 4), "f")
    top = registers((2,), "f")
    total = registers((2,), "f")
    limit = registers((2,), "r")
    a = registers((4,), "r")
    for n in range(8):
        for e in range(4):
            acc[n, e] = 0.0
    for h in range(2):
        top[h] = -1.0e30
        total[h] = 0.0
        row = row0 + warp * 16 + h * 8 + (lane >> 2)
        limit[h] = minimum(kv_len, row + 1 + kv_len - q_len) if causal else kv_len
    for i in range(4):
        row = row0 + copy_row + i * 16
        copy16(start + copy_to + i * 16 * ROW, q + row * ROW + chunk, where(row < q_len, 16, 0))
    if blocks > 0:
        for i in range(4):
            row = copy_row + i * 16
            copy16(start + TILE + copy_to + i * 16 * ROW, k + row * ROW + chunk, where(row < kv_len, 16, 0))
            copy16(start + 3 * TILE + copy_to + i * 16 * ROW, v + row * ROW + chunk, where(row < kv_len, 16, 0))
    copy_commit()
    stage = 0
    j = 0
    while j < blocks:
        copy_wait(0)
        barrier()
        k_tile = k_at + stage * TILE
        v_tile = v_at + stage * TILE
        stage = 1 - stage
        if j + 1 < blocks:
            for i in range(4):
                row = (j + 1) * 64 + copy_row + i * 16
                to = start + TILE + stage * TILE + copy_to + i * 16 * ROW
                copy16(to, k + row * ROW + chunk, where(row < kv_len, 16, 0))
                copy16(to + 2 * TILE, v + row * ROW + chunk, where(row < kv_len, 16, 0))
        copy_commit()
        # scores
        for n in range(8):
            for e in range(4):
                s[n, e] = 0.0
        for kk in range(4):
            a[0], a[1], a[2], a[3] = ldmatrix(q_at ^ (kk << 5))
            for n2 in range(4):
                b0, b1, b2, b3 = ldmatrix((k_tile ^ (kk << 5)) + n2 * 16 * ROW)
                n = n2 * 2
                s[n, 0], s[n, 1], s[n, 2], s[n, 3] = mma_bf16(
                    a[0], a[1], a[2], a[3], b0, b1, s[n, 0], s[n, 1], s[n, 2], s[n, 3])
                n = n2 * 2 + 1
                s[n, 0], s[n, 1], s[n, 2], s[n, 3] = mma_bf16(
                    a[0], a[1], a[2], a[3], b2, b3, s[n, 0], s[n, 1], s[n, 2], s[n, 3])
        # mask
        if (j + 1) * 64 > kv_len or causal:
            for n in range(8):
                for e in range(4):
                    key = j * 64 + n * 8 + (lane & 3) * 2 + (e & 1)
                    s[n, e] = where(key < limit[e >> 1], s[n, e], NINF)
        # softmax
        for h in range(2):
            x = top[h]
            for n in range(8):
                x = maximum_fast(x, maximum_fast(s[n, 2 * h], s[n, 2 * h + 1]))
            x = maximum_fast(x, shuffle_f(x, 1))
            x = maximum_fast(x, shuffle_f(x, 2))
            shrink = fast_ex2((top[h] - x) * scale)
            top[h] = x
            shift = -(x * scale)
            y = total[h] * shrink
            for n in range(8):
                p0 = fast_ex2(fma(s[n, 2 * h], scale, shift))
                p1 = fast_ex2(fma(s[n, 2 * h + 1], scale, shift))
                s[n, 2 * h] = p0
                s[n, 2 * h + 1] = p1
                y = y + (p0 + p1)
                acc[n, 2 * h] = acc[n, 2 * h] * shrink
                acc[n, 2 * h + 1] = acc[n, 2 * h + 1] * shrink
            total[h] = y
        # values
        for kk in range(4):
            a[0] = pack_bf16(s[2 * kk, 0], s[2 * kk, 1])
            a[1] = pack_bf16(s[2 * kk, 2], s[2 * kk, 3])
            a[2] = pack_bf16(s[2 * kk + 1, 0], s[2 * kk + 1, 1])
            a[3] = pack_bf16(s[2 * kk + 1, 2], s[2 * kk + 1, 3])
            for n2 in range(4):
                b0, b1, b2, b3 = ldmatrix_t((v_tile ^ (n2 << 5)) + kk * 16 * ROW)
                n = n2 * 2
                acc[n, 0], acc[n, 1], acc[n, 2], acc[n, 3] = mma_bf16(
                    a[0], a[1], a[2], a[3], b0, b1, acc[n, 0], acc[n, 1], acc[n, 2], acc[n, 3])
                n = n2 * 2 + 1
                acc[n, 0], acc[n, 1], acc[n, 2], acc[n, 3] = mma_bf16(
                    a[0], a[1], a[2], a[3], b2, b3, acc[n, 0], acc[n, 1], acc[n, 2], acc[n, 3])
        j += 1
    # the output goes through the tile of Q: each warp over its own rows
    copy_wait(0)
    for h in range(2):
        t = total[h]
        t = t + shuffle_f(t, 1)
        t = t + shuffle_f(t, 2)
        inverse = where(t > 0.0, fast_rcp(t), 0.0)
        row = warp * 16 + h * 8 + (lane >> 2)
        for n in range(8):
            to = start + row * ROW + (lane & 3) * 4 + ((n ^ (row & 7)) << 4)
            store_shared_r(to, pack_bf16(acc[n, 2 * h] * inverse, acc[n, 2 * h + 1] * inverse))
        store_f32_if(((lane & 3) == 0) & (row0 + row < q_len), lse + (row0 + row) * 4, t)
    barrier()
    for i in range(4):
        row = row0 + copy_row + i * 16
        w0, w1, w2, w3 = load_shared_4(start + copy_to + i * 16 * ROW)
        store_r128_if(row < q_len, o + row * ROW + chunk, w0, w1, w2, w3)
"""


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 as the bits of the nearest bfloat16, uint16."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def bits(x: float) -> int:
    """The word of a float argument."""
    return int(np.float64(x).view(np.int64))


def attend(source: str, q_len: int, kv_len: int, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's output on random bfloat16 inputs, and what it should be: (q_len, 64) each."""
    rng = np.random.default_rng(q_len * 1000 + kv_len)
    q, k, v = (to_bf16(rng.standard_normal((n, 64))) for n in (q_len, kv_len, kv_len))
    o, total = np.full((q_len, 64), 0x7FC0, np.uint16), np.full(q_len, np.nan, np.float32)
    memory, scale = Memory(), 0.125
    words: list[Any] = [
        memory.address(x, name) for x, name in zip((q, k, v, o, total), ["q", "k", "v", "o", "lse"], strict=True)
    ]
    words += [q_len, kv_len, int(causal), bits(scale / math.log(2))]
    launch(source, words, -(-q_len // 64), THREADS, SHARED, memory)
    scores = from_bf16(q).astype(float) @ from_bf16(k).astype(float).T * scale
    if causal:
        i, j = np.indices(scores.shape)
        scores = np.where(j <= i + kv_len - q_len, scores, -np.inf)
    weights = np.exp(scores - np.maximum(scores.max(axis=1, keepdims=True), -1e30))
    sums = weights.sum(axis=1, keepdims=True)
    return from_bf16(o), weights @ from_bf16(v).astype(float) / np.where(sums == 0, 1, sums)


def error(source: str, q_len: int, kv_len: int, causal: bool) -> float:
    """The largest error of an output relative to the largest output; NaN where one is NaN."""
    found, expected = attend(source, q_len, kv_len, causal)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-9))
