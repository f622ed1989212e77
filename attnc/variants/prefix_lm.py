"""Prefix language model: the prefix is read in both directions, what follows is written causally.

Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, section 3.2.1. Raffel, Shazeer,
Roberts, Lee, Narang, Matena, Zhou, Li, Liu, 2019, arXiv 1910.10683.
"""

import attnc as at


@at.attention
def prefix_lm(q, k, v, b, i, j, *, prefix: at.Tensor["b", int]):
    """softmax_j(q_i · k_j / √d where j < prefix_b or j ≤ p) v_j, p = i + Lk − Lq. `prefix`: its length per sequence."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=(j < prefix[b]) | (j <= p)) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(prefix_lm, {"prefix": [9]})
