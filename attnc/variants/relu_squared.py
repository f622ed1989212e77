"""Squared ReLU attention: the gated attention unit's weights.

Transformer Quality in Linear Time, section 3.1. Hua, Dai, Liu, Le, 2022, arXiv 2202.10447.
"""

import attnc as at


@at.attention
def relu_squared(q, k, v):
    """Σ_j relu(q_i · k_j / √d)² v_j / Lk."""
    return at.relu(at.dot(q, k) * at.rsqrt(at.size(q))) ** 2 @ v / at.maximum(at.kv_len, 1)


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(relu_squared)
