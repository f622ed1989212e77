"""Factorized positional attention: the scores of positions are products of short vectors.

Synthesizer: Rethinking Self-Attention in Transformer Models, section 3.1.4. Tay, Bahri, Metzler, Juan, Zhao, Zheng, 2020,
arXiv 2005.00743.
"""

import attnc as at


@at.attention
def factorized_positional(v, h, i, j, *, rows: at.Tensor["h", "i", "r"], columns: at.Tensor["h", "j", "r"]):
    """softmax_j(rows_hi · columns_hj) v_j."""
    return at.softmax(at.dot(rows[h, i], columns[h, j])) @ v


if __name__ == "__main__":
    import math

    from attnc.viz.heatmap import draw

    circle = [[math.cos(n / 4), math.sin(n / 4)] for n in range(24)]
    draw(factorized_positional, {"rows": [circle], "columns": [circle]})
