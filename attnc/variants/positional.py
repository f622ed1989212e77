"""Positional attention: learned scores of pairs of positions, whatever stands there. The random Synthesizer.

Synthesizer: Rethinking Self-Attention in Transformer Models, section 3.1.3. Tay, Bahri, Metzler, Juan, Zhao, Zheng, 2020,
arXiv 2005.00743.
"""

import attnc as at


@at.attention
def positional(v, h, i, j, *, R: at.Tensor["h", "i", "j"]):
    """softmax_j(R_hij) v_j."""
    return at.softmax(R[h, i, j]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(positional, {"R": [[[-abs(i - j) / 4 for j in range(24)] for i in range(24)]]})
