"""Shared prefix: several texts that begin alike lie in one row, behind one copy of their beginning.

Hydragen: High-Throughput LLM Inference with Shared Prefixes. Juravsky, Brown, Ehrlich, Fu, Ré, Mirhoseini, 2024,
arXiv 2402.05099. (The paper attends to the prefix and to the rest apart and merges; here both are one sweep.)
"""

import attnc as at


@at.attention
def shared_prefix(q, k, v, b, i, j, *, text: at.Tensor["b", "j", int], prefix: int):
    """softmax_j(q_i · k_j / √d where j ≤ p and (j < prefix or text[b, p] = text[b, j])) v_j, p = i + Lk − Lq.

    The first `prefix` keys belong to all texts; `text` says to which one each later position belongs.
    """
    p = i + at.kv_len - at.q_len
    same = (j <= p) & ((j < prefix) | (text[b, p] == text[b, j]))
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=same) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(shared_prefix, {"text": [[0] * 9 + [1] * 6 + [2] * 5 + [3] * 4], "prefix": 9})
