"""Untied positional attention: words and positions have scores of their own, which are added.

Rethinking Positional Encoding in Language Pre-training, section 3.1. Ke, He, Liu, 2020, arXiv 2006.15595.
"""

import attnc as at


@at.attention
def tupe(q, k, v, h, i, j, *, pq: at.Tensor["h", "i", "r"], pk: at.Tensor["h", "j", "r"]):
    """softmax_j((q_i · k_j + pq_hi · pk_hj) / √(2d)) v_j. `pq`, `pk`: the projected embeddings of positions."""
    return at.softmax((at.dot(q, k) + at.dot(pq[h, i], pk[h, j])) * at.rsqrt(2 * at.size(q))) @ v


if __name__ == "__main__":
    import math

    from attnc.viz.heatmap import draw

    circle = [[2 * math.cos(n / 4), 2 * math.sin(n / 4)] for n in range(24)]
    draw(tupe, {"pq": [circle], "pk": [circle]})
