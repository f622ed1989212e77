"""Multi-head latent attention: scores of two parts, of which the rotary one reads a single key for all heads.

DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, section 2.1. DeepSeek-AI, 2024,
arXiv 2405.04434. (There D = 128 and 64 rotary features, 192 together, and Dv = 128.)
"""

import attnc as at


@at.attention
def mla(q, k, v, b, h, i, j, *, q_rope: at.Tensor["b", "h", "i", "r"], k_rope: at.Tensor["b", "j", "r"]):
    """softmax_j((q_i · k_j + q_rope_hi · k_rope_j) / √(d + r) where j ≤ p) v_j, p = i + Lk − Lq.

    `q_rope` and `k_rope` are already rotated, as the cache holds them; k_rope is shared by all heads, and never copied to them.
    """
    p = i + at.kv_len - at.q_len
    x, y = q_rope[b, h, i], k_rope[b, j]
    s = (at.dot(q, k) + at.dot(x, y)) * at.rsqrt(at.size(q) + at.size(x))
    return at.softmax(s, where=j <= p) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(mla, {"q_rope": [[[[0.0, 1.0]] * 24]], "k_rope": [[[0.0, j / 8] for j in range(24)]]})
