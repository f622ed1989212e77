"""State space duality: a selective state space model as attention, each step of which lets the past decay by a factor of its own. Mamba-2.

Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality, sections 3 and 7. Dao, Gu,
2024, arXiv 2405.21060. (The projections, the convolution and the skip connection around it are the caller's.)
"""

import attnc as at


@at.attention
def ssd(q, k, v, b, h, i, j, *, A: at.Tensor["b", "h", "j"]):
    """Σ_j exp(A_p − A_j) q_i · k_j v_j over j ≤ p, p = i + Lk − Lq; A is the running sum of the steps' log decays, each ≤ 0."""
    p = i + at.kv_len - at.q_len
    return at.where(j <= p, at.exp(A[b, h, p] - A[b, h, j]) * at.dot(q, k), 0.0) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(ssd, {"A": [[[-0.2 * n for n in range(24)]]]})
