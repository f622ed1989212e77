"""Polynomial attention: an even power of the score in the place of its exponential.

PolySketchFormer: Fast Transformers via Sketching Polynomial Kernels, section 2. Kacham, Mirrokni, Zhong, 2023, arXiv 2310.01655.
"""

import attnc as at


@at.attention
def polynomial(q, k, v, i, j, *, degree: at.Const[int] = 4):
    """Σ_j s_ij^degree v_j / (1 + Σ_j s_ij^degree) over j ≤ p, s_ij = q_i · k_j / √d, p = i + Lk − Lq, degree even."""
    p = i + at.kv_len - at.q_len
    w = at.where(j <= p, (at.dot(q, k) * at.rsqrt(at.size(q))) ** degree, 0.0)
    return w @ v / (1 + at.sum(w, over="j"))


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(polynomial)
