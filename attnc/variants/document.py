"""Packed sequences: several documents in one row, each of which sees only itself.

Efficient Sequence Packing without Cross-contamination: Accelerating Large Language Models without Impacting
Performance. Krell, Kosec, Perez, Fitzgibbon, 2021, arXiv 2107.02027.
"""

import attnc as at


@at.attention
def document(q, k, v, b, i, j, *, doc: at.Tensor["b", "j", int]):
    """softmax_j(q_i · k_j / √d where doc[b, p] = doc[b, j] ≥ 0) v_j, p = i + Lk − Lq.

    `doc` numbers the documents from 0; a negative number marks padding, which sees nothing and is seen by nothing.
    """
    p = i + at.kv_len - at.q_len
    same = (p >= 0) & (doc[b, p] == doc[b, j]) & (doc[b, j] >= 0)  # a query before the first key is in no document
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=same) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(document, {"doc": [[0] * 6 + [1] * 9 + [2] * 5 + [-1] * 4]})
