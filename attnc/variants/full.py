"""Full attention: every query sees every key.

Attention Is All You Need. Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, 2017, arXiv 1706.03762.
"""

import attnc as at


@at.attention
def full(q, k, v):
    """softmax_j(q_i · k_j / √d) v_j."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q))) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(full)
