"""Causal attention: a query sees the keys up to its own position.

Attention Is All You Need, section 3.2.3. Vaswani et al., 2017, arXiv 1706.03762.
"""

import attnc as at


@at.attention
def causal(q, k, v, i, j):
    """softmax_j(q_i · k_j / √d where j ≤ p) v_j.

    p = i + Lk − Lq: the queries are the last Lq positions, as in decoding with a cache of keys. Queries before the first
    key (Lq > Lk) see nothing and give 0.
    """
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=j <= p) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(causal)
