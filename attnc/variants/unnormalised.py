"""No normaliser: causal linear attention, the memory of a fast weight programmer.

Linear Transformers Are Secretly Fast Weight Programmers. Schlag, Irie, Schmidhuber, 2021, arXiv 2102.11174.
"""

import attnc as at


@at.attention
def unnormalised(q, k, v, i, j):
    """Σ_j (q_i · k_j) / √d v_j over j ≤ p, p = i + Lk − Lq."""
    p = i + at.kv_len - at.q_len
    return at.where(j <= p, at.dot(q, k) * at.rsqrt(at.size(q)), 0.0) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(unnormalised)
