"""Scaled cosine attention with a bias per pair of positions. Swin Transformer V2.

Swin Transformer V2: Scaling Up Capacity and Resolution, section 3.2. Liu, Hu, Lin, Yao, Xie, Wei, Ning, Cao, Zhang, Dong, Wei,
Guo, 2021, arXiv 2111.09883.
"""

from typing import Any

import attnc as at


@at.attention
def cosine(q, k, v, h, i, j, *, tau: at.Tensor["h"], B: at.Tensor["h", "i", "j"]):
    """softmax_j(cos(q_i, k_j) / max(τ_h, 0.01) + B_hij) v_j. The cosine with a vector of zeros is 0."""
    return at.softmax(at.dot(unit(q), unit(k)) / at.maximum(tau[h], 0.01) + B[h, i, j]) @ v


def unit(x: Any) -> Any:
    """x over its length, zeros where that is 0."""
    return x / at.maximum(at.sqrt(at.sum(x * x, over="d")), 1e-12)


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(cosine, {"tau": [0.2], "B": [[[0.0] * 24] * 24]})
