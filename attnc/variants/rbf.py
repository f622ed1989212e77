"""Gaussian kernel attention: weights without a softmax, each at most 1.

SOFT: Softmax-free Transformer with Linear Complexity, section 3.1. Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang, Zhang, 2021,
arXiv 2110.11945.
"""

import attnc as at


@at.attention
def rbf(q, k, v):
    """Σ_j exp(−‖q_i − k_j‖² / (2√d)) v_j."""
    return at.exp(-0.5 * at.sum((q - k) ** 2, over="d") * at.rsqrt(at.size(q))) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(rbf)
