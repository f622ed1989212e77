"""Linear attention: the exponential of the score gives way to a product of positive features of query and key.

Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention. Katharopoulos, Vyas, Pappas, Fleuret, 2020,
arXiv 2006.16236.
"""

from typing import Any

import attnc as at


@at.attention
def linear(q, k, v, i, j):
    """Σ_j φ(q_i) · φ(k_j) v_j / Σ_j φ(q_i) · φ(k_j) over j ≤ p, φ(x) = elu(x) + 1, p = i + Lk − Lq."""
    p = i + at.kv_len - at.q_len
    w = at.where(j <= p, at.dot(phi(q), phi(k)), 0.0)
    return w @ v / at.maximum(at.sum(w, over="j"), 1e-12)


def phi(x: Any) -> Any:
    """elu(x) + 1: above 0 everywhere."""
    return at.where(x > 0, x + 1, at.exp(at.minimum(x, 0)))


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(linear)
