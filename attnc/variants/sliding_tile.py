"""Sliding tile attention: tokens of an image or video lie tile by tile, and a tile sees whole tiles around it.

Fast Video Generation with Sliding Tile Attention. Zhang, Chen, Su, Ding, Stoica, Liu, Zhang, 2025,
arXiv 2502.04507. (The paper's videos have a third axis; here the canvas is flat.)
"""

import attnc as at


@at.attention
def sliding_tile(q, k, v, i, j, *, tile: int = 64, width: int = 8, rows: int = 3, columns: int = 3):
    """softmax_j(q_i · k_j / √d where the tile of j is in the window of the tile of i) v_j.

    A tile is `tile` tokens in a row; the canvas is `width` tiles wide. The window of `rows` × `columns` tiles, odd numbers, is
    centred on the query's tile and moved inwards at the border.
    """
    x, y = i // tile, j // tile
    height = (at.kv_len + tile * width - 1) // (tile * width)
    row = at.clip(x // width, rows // 2, height - 1 - rows // 2)
    column = at.clip(x % width, columns // 2, width - 1 - columns // 2)
    near = (at.abs(row - y // width) <= rows // 2) & (at.abs(column - y % width) <= columns // 2)
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=near) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(sliding_tile, {"tile": 2, "width": 4, "rows": 1, "columns": 3})
