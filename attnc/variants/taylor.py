"""Taylor softmax: the exponential's series up to the square, which is positive everywhere.

An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family, section 3. de Brébisson, Vincent, 2015,
arXiv 1511.05042.
"""

import attnc as at


@at.attention
def taylor(q, k, v):
    """Σ_j t_ij v_j / Σ_j t_ij, t_ij = 1 + s_ij + s_ij² / 2, s_ij = q_i · k_j / √d."""
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    t = 1 + s + 0.5 * s * s
    return t @ v / at.maximum(at.sum(t, over="j"), 0.5)  # each t is at least 1/2: this is the sum, but for no keys


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(taylor)
