"""Sigmoid attention: every weight on its own, none competes with another.

Theory, Analysis, and Best Practices for Sigmoid Self-Attention. Ramapuram, Danieli, Dhekane, et al., 2024, arXiv 2409.04431.
"""

import attnc as at


@at.attention
def sigmoid(q, k, v, *, bias: float | None = None):
    """Σ_j σ(q_i · k_j / √d + bias) v_j. Without `bias` it is −ln Lk, so that the weights of a row begin with a sum near 1."""
    shift = -at.log(at.kv_len) if bias is None else bias
    return at.sigmoid(at.dot(q, k) * at.rsqrt(at.size(q)) + shift) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(sigmoid)
