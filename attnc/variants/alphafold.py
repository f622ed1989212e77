"""Pair bias and gated output: the row attention of AlphaFold 2's Evoformer.

Highly accurate protein structure prediction with AlphaFold, supplementary algorithm 7. Jumper, Evans, Pritzel, et al., 2021,
doi 10.1038/s41586-021-03819-2.
"""

import attnc as at


@at.attention
def alphafold(
    q, k, v, b, h, i, j, *, pair: at.Tensor["b", "h", "i", "j"], gate: at.Tensor["b", "h", "i", "e"] | None = None
):
    """softmax_j(q_i · k_j / √d + pair_hij) v_j ∘ σ(gate_hi). `pair`: projected from the pair representation; `gate`: of the query."""
    out = at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) + pair[b, h, i, j]) @ v
    return out if gate is None else at.sigmoid(gate[b, h, i]) * out


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(alphafold, {"pair": [[[[-abs(i - j) / 4 for j in range(24)] for i in range(24)]]]})
