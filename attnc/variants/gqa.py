"""Grouped-query attention: several query heads share a key-value head.

GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints. Ainslie, Lee-Thorp, de Jong,
Zemlyanskiy, Lebrón, Sanghai, 2023, arXiv 2305.13245. One key-value head for all (multi-query attention): Fast
Transformer Decoding: One Write-Head is All You Need. Shazeer, 2019, arXiv 1911.02150.
"""

import attnc as at


@at.attention
def gqa(q, k, v):
    """softmax_j(q_hi · k_gj / √d) v_gj, g = h // (Hq / Hkv): query head h reads key-value head g.

    The language says this for every variant: k and v at query head h are those of its group, whenever Q has a multiple of
    K's heads. K and V are never repeated in memory.
    """
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q))) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(gqa, heads=4, kv_heads=2)
