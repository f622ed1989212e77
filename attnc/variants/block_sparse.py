"""Block-sparse attention: a table says which blocks of keys the queries of a block read.

MoBA: Mixture of Block Attention for Long-Context LLMs. Lu, Jiang, Liu, et al., 2025, arXiv 2502.13189. Native Sparse
Attention: Hardware-Aligned and Natively Trainable Sparse Attention. Yuan, Gao, Dai, et al., 2025, arXiv 2502.11089. (Both
choose by scores of pooled keys; the choice is made before the call and given as the table.)
"""

import attnc as at


@at.attention
def block_sparse(q, k, v, b, h, i, j, *, chosen: at.Tensor["b", "h", "x", "y", bool], rows: int = 64, block: int = 64):
    """softmax_j(q_i · k_j / √d where j ≤ p and chosen[b, h, ⌊p / rows⌋, ⌊j / block⌋]) v_j, p = i + Lk − Lq.

    `chosen` marks blocks of `block` keys for blocks of `rows` queries, counted from the first of Lk positions; `rows` = 1 lets
    every query choose for itself, as in the papers.
    """
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=(j <= p) & chosen[b, h, p // rows, j // block]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    marks = [[x == y or (x * 5 + y * 3) % 4 == 0 for y in range(6)] for x in range(6)]
    draw(block_sparse, {"chosen": [[marks]], "rows": 4, "block": 4})
