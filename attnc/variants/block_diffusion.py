"""Block diffusion, as it is trained: a noisy copy of the text and the clean one, side by side, both in blocks.

Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models. Arriola, Gokaslan,
Chiu, Yang, Qi, Han, Sahoo, Kuleshov, 2025, arXiv 2503.09573.
"""

import attnc as at


@at.attention
def block_diffusion(q, k, v, i, j, *, block: int = 16):
    """softmax_j(q_i · k_j / √d where j is the own block, or an earlier clean one) v_j over 2n tokens, n noisy, then n clean.

    A noisy token sees its own noisy block and the clean blocks before it, a clean token the clean blocks up to its own.
    """
    n = at.kv_len // 2
    clean_query, clean_key = i >= n, j >= n
    x = at.where(clean_query, i - n, i) // block
    y = at.where(clean_key, j - n, j) // block
    own = (x == y) & (clean_query == clean_key)
    before = (x > y) & clean_key & ~clean_query
    causal = (x >= y) & clean_key & clean_query
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=own | before | causal) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(block_diffusion, {"block": 3})
