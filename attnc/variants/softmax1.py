"""Softmax-off-by-one: a query may attend to nothing.

Attention Is Off By One. Miller, 2023, evanmiller.org/attention-is-off-by-one.html; named SoftMax-off-by-One in Efficient Streaming
Language Models with Attention Sinks. Xiao, Tian, Chen, Han, Lewis, 2023, arXiv 2309.17453.
"""

import attnc as at


@at.attention
def softmax1(q, k, v):
    """Σ_j exp(s_ij) v_j / (1 + Σ_j exp(s_ij)), s_ij = q_i · k_j / √d. Where all scores are low, the output is near 0."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), sink=0.0) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(softmax1)
