"""Axial rotary embedding of images: half of the features turn with the row, half with the column.

Rotary Position Embedding for Vision Transformer, section 3.2. Heo, Park, Han, Yun, 2024, arXiv 2403.13298.
"""

import attnc as at


@at.attention
def rope_2d(
    q, k, v, i, j, *, rows: at.Tensor["d"], columns: at.Tensor["d"], turn: at.Tensor["d", "d"], width: int = 64
):
    """softmax_j(R(i) q_i · R(j) k_j / √d) v_j, R(n) x = x cos(a) + (x turn) sin(a), a = ⌊n / width⌋ rows + (n mod width) columns.

    The image is `width` wide, its pixels are numbered row by row. `rows`, `columns`: angles per step, see `axial`; `turn`: the
    matrix that turns each pair of features by 90°, `attnc.variants.rope.quarter_turn`.
    """
    a, b = i // width * rows + i % width * columns, j // width * rows + j % width * columns
    x = q * at.cos(a) + (q @ turn) * at.sin(a)
    y = k * at.cos(b) + (k @ turn) * at.sin(b)
    return at.softmax(at.dot(x, y) * at.rsqrt(at.size(q))) @ v


def axial(dim: int, base: float = 100.0) -> tuple[list[float], list[float]]:
    """Angles per row and per column, `dim` of each: even pairs of features turn with the row, odd ones with the column."""
    half = dim // 2
    angles = [base ** (-2 * (n // 2) / half) for n in range(half)]
    rows = [0.0 if n % 2 else x for n, x in enumerate(angles)]
    columns = [x if n % 2 else 0.0 for n, x in enumerate(angles)]
    rest = [0.0] * (dim % 2)
    return rows + rows + rest, columns + columns + rest


if __name__ == "__main__":
    from attnc.variants.rope import quarter_turn
    from attnc.viz.heatmap import draw

    rows, columns = axial(4)
    operands = {"rows": rows, "columns": columns, "turn": quarter_turn(4), "width": 6}
    draw(rope_2d, operands)
