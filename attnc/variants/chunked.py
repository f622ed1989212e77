"""Chunked attention: the text is cut into chunks, and each is causal by itself. The local layers of Llama 4.

Generating Wikipedia by Summarizing Long Sequences, section 4.2.4 (local attention). Liu, Saleh, Pot, Goodrich, Sepassi,
Kaiser, Shazeer, 2018, arXiv 1801.10198.
"""

import attnc as at


@at.attention
def chunked(q, k, v, i, j, *, chunk: int = 8192):
    """softmax_j(q_i · k_j / √d where j ≤ p and ⌊j / chunk⌋ = ⌊p / chunk⌋) v_j, p = i + Lk − Lq."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=(j <= p) & (j // chunk == p // chunk)) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(chunked, {"chunk": 7})
