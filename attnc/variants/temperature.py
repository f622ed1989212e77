"""Temperature per row: each query says how sharp its attention is.

Learning When to Concentrate or Divert Attention: Self-Adaptive Attention Temperature for Neural Machine Translation. Lin, Sun,
Ren, Li, Su, 2018, arXiv 1808.07374.
"""

import attnc as at


@at.attention
def temperature(q, k, v, b, h, i, *, tau: at.Tensor["b", "h", "i"]):
    """softmax_j(q_i · k_j / (√d τ_bhi)) v_j. A small τ > 0 concentrates, a large one spreads."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) / tau[b, h, i]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(temperature, {"tau": [[[0.1 + i / 8 for i in range(24)]]]})
