"""Rotary position embedding: pairs of features turn with the position, so that scores depend on the distance.

RoFormer: Enhanced Transformer with Rotary Position Embedding. Su, Lu, Pan, Murtadha, Wen, Liu, 2021, arXiv 2104.09864.
"""

import attnc as at


@at.attention
def rope(q, k, v, i, j, *, frequency: at.Tensor["d"], turn: at.Tensor["d", "d"]):
    """softmax_j(R(p) q_i · R(j) k_j / √d where j ≤ p) v_j, p = i + Lk − Lq, R(n) x = x cos(nθ) + (x turn) sin(nθ).

    θ = `frequency`, see `frequencies`; `turn`: see `quarter_turn`. Q and K are given unrotated, and turned inside the kernel.
    """
    p = i + at.kv_len - at.q_len
    x = q * at.cos(p * frequency) + (q @ turn) * at.sin(p * frequency)
    y = k * at.cos(j * frequency) + (k @ turn) * at.sin(j * frequency)
    return at.softmax(at.dot(x, y) * at.rsqrt(at.size(q)), where=j <= p) @ v


def frequencies(dim: int, base: float = 10000.0) -> list[float]:
    """The paper's angles per position, `dim` of them: base^(−2n/dim) for features n and n + dim // 2; 0 for an odd last one."""
    half = dim // 2
    angles = [base ** (-2 * n / dim) for n in range(half)]
    return angles + angles + [0.0] * (dim % 2)


def quarter_turn(dim: int) -> list[list[float]]:
    """The matrix (dim, dim) that turns each pair (n, n + dim // 2) by 90°: x @ quarter_turn is (−x₂, x₁)."""
    half = dim // 2
    result = [[0.0] * dim for _ in range(dim)]
    for n in range(half):
        result[n + half][n], result[n][n + half] = -1.0, 1.0
    return result


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(rope, {"frequency": frequencies(4), "turn": quarter_turn(4)})
