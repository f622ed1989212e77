"""Soft-capped scores: a tanh keeps every score within ±cap.

Gemma 2: Improving Open Language Models at a Practical Size, section 2. Gemma Team, 2024, arXiv 2408.00118. After Neural
Combinatorial Optimization with Reinforcement Learning. Bello, Pham, Le, Norouzi, Bengio, 2016, arXiv 1611.09940.
"""

import attnc as at


@at.attention
def soft_cap(q, k, v, i, j, *, cap: float = 50.0):
    """softmax_j(cap · tanh(q_i · k_j / (√d cap)) where j ≤ p) v_j, p = i + Lk − Lq."""
    p = i + at.kv_len - at.q_len
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    return at.softmax(cap * at.tanh(s / cap), where=j <= p) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(soft_cap, {"cap": 2.0})
