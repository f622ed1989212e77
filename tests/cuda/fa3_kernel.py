"""A kernel by hand, in the names that emitted kernels use: FlashAttention-3 for sm_90a, 64 queries a consumer.

A producer copies tiles of keys and values into stages of shared memory; the weights of a tile are computed while the matrix
instructions of the scores of the next tile, and of this one's output before, go on.
"""

from __future__ import annotations

import re
import textwrap

PARTS = {
    "SCORES": """
mbar_wait(k_full + 8 * stage, parity)
hold(S)
wgmma_fence()
for kk in unrolled(FEATURES_16):
    step = (kk >> 2) * PANEL + (kk & 3) * 2
    wgmma_ss(S, q_at + (kk >> 2) * Q_PANEL + (kk & 3) * 2, k_at + stage * TILE_16 + step, kk, "bf16", 0)
wgmma_commit()
""",
    "OUTPUT": """
mbar_wait(v_full + 8 * last, last_parity)
hold(acc)
hold(a)
wgmma_fence()
for kk in unrolled(KEYS_16):
    wgmma_rs(acc, a, kk, v_at + last * TILE_16 + 128 * kk, 1, "bf16", 1)
wgmma_commit()
""",
    "WEIGHTS": """
if (j + 1) * KEYS > kv_len:
    for ct in unrolled(KEYS_8):
        for e in unrolled(4):
            S[0, ct, e] = where(j * KEYS + 8 * ct + 2 * (lane & 3) + (e & 1) < kv_len, S[0, ct, e], NINF)
for h in unrolled(2):
    x = top[h]
    for ct in unrolled(KEYS_8):
        x = maximum_fast(x, maximum_fast(S[0, ct, 2 * h], S[0, ct, 2 * h + 1]))
    x = maximum_fast(x, shuffle_f(x, 1))
    x = maximum_fast(x, shuffle_f(x, 2))
    shrink[h] = fast_ex2((top[h] - x) * scale)
    top[h] = x
    shift = -(x * scale)
    y = total[h] * shrink[h]
    for ct in unrolled(KEYS_8):
        p0 = fast_ex2(fma(S[0, ct, 2 * h], scale, shift))
        p1 = fast_ex2(fma(S[0, ct, 2 * h + 1], scale, shift))
        S[0, ct, 2 * h] = p0
        S[0, ct, 2 * h + 1] = p1
        y = y + (p0 + p1)
    total[h] = y
""",
}
KERNEL = """
def kernel(q_map, k_map, v_map, o_map, p, kv_len, heads, group, tiles, scale_bits):
    start, lane, warp = shared(), thread() & 31, (thread() >> 5) - 4
    tiles, heads, group = resize(tiles, 32), resize(heads, 32), resize(group, 32)
    head, batch = mod(floordiv(block(), tiles), heads), floordiv(floordiv(block(), tiles), heads)
    row0 = mod(block(), tiles) * ROWS
    keys, values, q_full = start + Q_BYTES, start + Q_BYTES + STAGES * TILE, start + Q_BYTES + 2 * STAGES * TILE
    k_full, v_full, k_empty = q_full + 16, q_full + 16 + 8 * STAGES, q_full + 16 + 16 * STAGES
    v_empty = k_empty + 8 * STAGES
    mbar_init_if(thread() == 0, q_full, 1)
    for i in unrolled(STAGES):
        mbar_init_if(thread() == 0, k_full + 8 * i, 1)
        mbar_init_if(thread() == 0, v_full + 8 * i, 1)
        mbar_init_if(thread() == 0, k_empty + 8 * i, 4 * CONSUMERS)
        mbar_init_if(thread() == 0, v_empty + 8 * i, 4 * CONSUMERS)
    mbar_fence()
    barrier()
    tile = (kv_len + KEYS - 1) // KEYS
    if warp < 0:
        registers_less(LESS)
        if warp == -4:
            mbar_expect_if(lane == 0, q_full, Q_BYTES)
            for w in unrolled(CONSUMERS):
                for f in unrolled(FEATURES_64):
                    to = start + (w * FEATURES_64 + f) * 8192
                    tma_load_if(lane == 0, to, q_map, q_full, 64 * f, row0 + 64 * w, head, batch)
            stage, parity, kv_head = 0, 1, floordiv(head, group)
            for n in range(tile):
                j = tile - 1 - n
                WORK
                mbar_wait(k_empty + 8 * stage, parity)
                mbar_expect_if(lane == 0, k_full + 8 * stage, TILE)
                for f in unrolled(FEATURES_64):
                    to = keys + stage * TILE + f * KEYS * 128
                    tma_load_if(lane == 0, to, k_map, k_full + 8 * stage, 64 * f, j * KEYS, kv_head, batch)
                mbar_wait(v_empty + 8 * stage, parity)
                mbar_expect_if(lane == 0, v_full + 8 * stage, TILE)
                for f in unrolled(FEATURES_64):
                    to = values + stage * TILE + f * KEYS * 128
                    tma_load_if(lane == 0, to, v_map, v_full + 8 * stage, 64 * f, j * KEYS, kv_head, batch)
                stage = where(stage == STAGES - 1, 0, stage + 1)
                parity = parity ^ where(stage == 0, 1, 0)
    else:
        registers_more(MORE)
        w, scale, NINF = warp >> 2, scalar(scale_bits), float("-inf")
        S, acc, a = registers((1, KEYS_8, 4), "f"), registers((1, FEATURES_8, 4), "f"), registers((1, KEYS_8, 2), "r")
        top, total, shrink = registers(2, "f"), registers(2, "f"), registers(2, "f")
        for ct in unrolled(FEATURES_8):
            for e in unrolled(4):
                acc[0, ct, e] = 0.0
        for ct in unrolled(KEYS_8):
            for e in unrolled(4):
                S[0, ct, e] = 0.0
        for h in unrolled(2):
            top[h] = -1.0e30
            total[h] = 0.0
        q_at = ((start + w * FEATURES_64 * 8192) & 0x3FFFF) >> 4 | K_MAJOR
        k_at, v_at = (keys & 0x3FFFF) >> 4 | K_MAJOR, (values & 0x3FFFF) >> 4 | MN_MAJOR
        mbar_wait(q_full, 0)
        stage, parity, last, last_parity, j = 0, 0, 0, 0, tile - 1
        if j >= 0:
            @SCORES
            wgmma_wait(0)
            hold(S)
            mbar_arrive_if(lane == 0, k_empty)
            @WEIGHTS
            started = False
            while True:
                wgmma_wait(0)  # at the loop's top: the assembler moves it up, but not over a branch back
                hold(acc)
                hold(a)
                mbar_arrive_if(and_(lane == 0, started), v_empty + 8 * last)
                started = True
                for ct in unrolled(FEATURES_8):
                    for e in unrolled(4):
                        acc[0, ct, e] = acc[0, ct, e] * shrink[e >> 1]
                for ct in unrolled(KEYS_8):
                    for h in unrolled(2):
                        a[0, ct, h] = pack_bf16(S[0, ct, 2 * h], S[0, ct, 2 * h + 1])
                last, last_parity, j = stage, parity, j - 1
                if j < 0:
                    break
                stage = where(stage == STAGES - 1, 0, stage + 1)
                parity = parity ^ where(stage == 0, 1, 0)
                @SCORES
                @OUTPUT
                wgmma_wait(1)
                hold(S)
                mbar_arrive_if(lane == 0, k_empty + 8 * stage)
                @WEIGHTS
            @OUTPUT
            wgmma_wait(0)
            hold(acc)
        for h in unrolled(2):
            x = total[h] + shuffle_f(total[h], 1)
            x = x + shuffle_f(x, 2)
            x = where(x > 0.0, fast_rcp(x), 0.0)
            row = (warp & 3) * 16 + (lane >> 2) + 8 * h
            for ct in unrolled(FEATURES_8):
                to = start + (w * FEATURES_64 + (ct >> 3)) * 8192 + row * 128 + (((ct & 7) ^ (row & 7)) << 4)
                store_shared_r(to + 4 * (lane & 3), pack_bf16(acc[0, ct, 2 * h] * x, acc[0, ct, 2 * h + 1] * x))
        async_fence()
        named_barrier(1 + w, 128)
        for f in unrolled(FEATURES_64):
            chosen, at = (thread() & 127) == 0, start + (w * FEATURES_64 + f) * 8192
            tma_store_if(chosen, o_map, at, 64 * f, row0 + 64 * w, head, batch)
        tma_commit()
        tma_wait(0)
"""


def constants(features: int, keys: int, consumers: int, stages: int, registers: tuple[int, int]) -> dict[str, int]:
    """The numbers of the kernel; 16 at the end of a name: in units of 16 bytes, or per 16."""
    swizzled, rows = 1 << 62, 1024 >> 4 << 32  # rows of 128 bytes, 8 of them in 1024
    return {
        "ROWS": 64 * consumers, "KEYS": keys, "CONSUMERS": consumers, "STAGES": stages, "LESS": registers[0],
        "MORE": registers[1], "KEYS_8": keys // 8, "KEYS_16": keys // 16, "FEATURES_8": features // 8,
        "FEATURES_16": features // 16, "FEATURES_64": features // 64, "Q_BYTES": consumers * 128 * features,
        "TILE": 2 * keys * features, "TILE_16": 2 * keys * features >> 4, "PANEL": keys * 128 >> 4, "Q_PANEL": 8192 >> 4,
        "K_MAJOR": swizzled | rows, "MN_MAJOR": swizzled | rows | keys * 128 >> 4 << 16,
    }  # fmt: skip


def source(
    features: int = 128,
    keys: int = 128,
    consumers: int = 2,
    stages: int = 2,
    less: int = 24,
    more: int = 240,
    work: str = "",
) -> str:
    """The kernel, without imports. work: statements for the producer, for each tile j of keys."""
    numbers = constants(features, keys, consumers, stages, (less, more))
    text = re.sub(r"^( *)@(\w+)$", lambda found: textwrap.indent(PARTS[found[2]].strip(), found[1]), KERNEL, flags=re.M)
    text = re.sub(
        r"^( *)WORK\n", lambda found: textwrap.indent(work, found[1]) + "\n" if work else "", text, flags=re.M
    )
    return "".join(f"{name} = {number}\n" for name, number in numbers.items()) + text
