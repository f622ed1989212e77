"""Bahdanau's additive score; the concat form, u · tanh(W [q; k]), is the same with the two halves of W.

Neural Machine Translation by Jointly Learning to Align and Translate. Bahdanau, Cho, Bengio, 2014, arXiv 1409.0473. (Concat:
Effective Approaches to Attention-based Neural Machine Translation. Luong, Pham, Manning, 2015, arXiv 1508.04025.)
"""

import attnc as at


@at.attention
def bahdanau(q, k, v, *, Wq: at.Tensor["d", "r"], Wk: at.Tensor["d", "r"], u: at.Tensor["r"]):
    """softmax_j(u · tanh(q_i Wq + k_j Wk)) v_j. The projections are computed once for each query and key."""
    return at.softmax(at.sum(u * at.tanh(q @ Wq + k @ Wk), over="r")) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    identity = [[float(x == y) for y in range(4)] for x in range(4)]
    draw(bahdanau, {"Wq": identity, "Wk": identity, "u": [1.0, 1.0, 2.0, 2.0]})
