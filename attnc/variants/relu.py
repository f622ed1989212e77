"""ReLU attention: weights without a softmax, divided by the number of keys.

Replacing softmax with ReLU in Vision Transformers. Wortsman, Lee, Gilmer, Kornblith, 2023, arXiv 2309.08586.
"""

import attnc as at


@at.attention
def relu(q, k, v):
    """Σ_j relu(q_i · k_j / √d) v_j / Lk."""
    return at.relu(at.dot(q, k) * at.rsqrt(at.size(q))) @ v / at.maximum(at.kv_len, 1)


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(relu)
