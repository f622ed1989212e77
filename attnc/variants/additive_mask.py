"""Additive mask: any matrix of biases, −∞ where a pair must not attend.

Attention Is All You Need, section 3.2.3. Vaswani et al., 2017, arXiv 1706.03762.
"""

import math

import attnc as at


@at.attention
def additive_mask(q, k, v, b, h, i, j, *, M: at.Tensor["b", "h", "i", "j"]):
    """softmax_j(q_i · k_j / √d + M_bhij) v_j.

    `M` has an extent of 1 along each axis that it is shared over. −∞, and values below −1e38, mask.
    """
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) + M[b, h, i, j]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(additive_mask, {"M": [[[[-math.inf if (i + j) % 5 == 0 else i / 8 for j in range(24)] for i in range(24)]]]})
