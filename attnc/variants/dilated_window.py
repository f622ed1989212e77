"""Dilated sliding window: a window on both sides with gaps, which reaches further with as many keys.

Longformer: The Long-Document Transformer, section 3.1. Beltagy, Peters, Cohan, 2020, arXiv 2004.05150.
"""

import attnc as at


@at.attention
def dilated_window(q, k, v, i, j, *, window: int = 512, dilation: int = 2):
    """softmax_j(q_i · k_j / √d where |p − j| ≤ dilation · window/2 and dilation divides p − j) v_j, p = i + Lk − Lq.

    `window // 2` keys on each side and the query's own; `dilation` ≥ 1, where 1 is a plain window.
    """
    p = i + at.kv_len - at.q_len
    near = at.abs(p - j) <= dilation * (window // 2)
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=near & ((p - j) % dilation == 0)) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(dilated_window, {"window": 6, "dilation": 3})
