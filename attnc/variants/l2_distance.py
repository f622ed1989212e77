"""L2 attention: near keys weigh more. Its output is Lipschitz where queries and keys share their projection.

The Lipschitz Constant of Self-Attention. Kim, Papamakarios, Mnih, 2020, arXiv 2006.04710.
"""

import attnc as at


@at.attention
def l2_distance(q, k, v):
    """softmax_j(−‖q_i − k_j‖² / √d) v_j."""
    return at.softmax(-at.sum((q - k) ** 2, over="d") * at.rsqrt(at.size(q))) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(l2_distance)
