"""Global and local attention: a window, and a few tokens that see all and are seen by all.

Longformer: The Long-Document Transformer, section 3.1. Beltagy, Peters, Cohan, 2020, arXiv 2004.05150. (The paper
projects the global tokens' q, k and v by matrices of their own; here both kinds share them.)
"""

import attnc as at


@at.attention
def longformer(q, k, v, b, i, j, *, is_global: at.Tensor["b", "j", bool], window: int = 512):
    """softmax_j(q_i · k_j / √d where |p − j| ≤ window/2 or p is global or j is global) v_j, p = i + Lk − Lq.

    `is_global[b, j]` marks the global positions; `window // 2` keys on each side of the query are local.
    """
    p = i + at.kv_len - at.q_len
    local = at.abs(p - j) <= window // 2
    sees_all = (p >= 0) & is_global[b, p]  # a query before the first key has no mark of its own
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=local | sees_all | is_global[b, j]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(longformer, {"is_global": [[n in (0, 13) for n in range(24)]], "window": 6})
