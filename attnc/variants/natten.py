"""Neighbourhood attention on an image: a pixel sees the pixels around it, as many at the border as inside.

Neighborhood Attention Transformer, section 3.1. Hassani, Walton, Li, Li, Shi, 2022, arXiv 2204.07143.
"""

import attnc as at


@at.attention
def natten(q, k, v, i, j, *, width: int = 64, kernel: int = 13):
    """softmax_j(q_i · k_j / √d where j is in the kernel × kernel window of i) v_j on an image of `width` columns, row by row.

    The window is centred on i and moved inwards at the border, so that it never leaves the image; `kernel` is odd.
    """
    height, r = (at.kv_len + width - 1) // width, kernel // 2
    row = at.clip(i // width, r, height - 1 - r)
    column = at.clip(i % width, r, width - 1 - r)
    near = (at.abs(row - j // width) <= r) & (at.abs(column - j % width) <= r)
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=near) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(natten, {"width": 6, "kernel": 3})
