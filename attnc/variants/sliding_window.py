"""Sliding-window attention: a query sees itself and the keys just before it.

Mistral 7B. Jiang, Sablayrolles, Mensch, et al., 2023, arXiv 2310.06825.
"""

import attnc as at


@at.attention
def sliding_window(q, k, v, i, j, *, window: int = 4096):
    """softmax_j(q_i · k_j / √d where p − window < j ≤ p) v_j, p = i + Lk − Lq: `window` keys, the query's own included."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=(j <= p) & (p - j < window)) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(sliding_window, {"window": 6})
