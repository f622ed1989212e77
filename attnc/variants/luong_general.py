"""Luong's general score: a learned bilinear form of query and key.

Effective Approaches to Attention-based Neural Machine Translation, section 3.1. Luong, Pham, Manning, 2015, arXiv 1508.04025.
"""

import attnc as at


@at.attention
def luong_general(q, k, v, h, *, W: at.Tensor["h", "d", "d"]):
    """softmax_j(q_iᵀ W_h k_j) v_j."""
    return at.softmax(at.dot(q @ W[h], k)) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(luong_general, {"W": [[[float(x == y) for y in range(4)] for x in range(4)]]})
