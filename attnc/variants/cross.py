"""Cross-attention: a decoder's queries over an encoder's keys, whose sequences have different lengths.

Attention Is All You Need, section 3.2.3. Vaswani et al., 2017, arXiv 1706.03762. After Neural Machine Translation by
Jointly Learning to Align and Translate. Bahdanau, Cho, Bengio, 2014, arXiv 1409.0473.
"""

import attnc as at


@at.attention
def cross(q, k, v, b, j, *, lengths: at.Tensor["b", int]):
    """softmax_j(q_i · k_j / √d where j < lengths_b) v_j. `lengths`: the keys of each sequence that are not padding."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=j < lengths[b]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(cross, {"lengths": [17]}, q_len=12)
