"""ALiBi: scores fall linearly with the distance, at a slope per head; no position embeddings.

Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation. Press, Smith, Lewis, 2021,
arXiv 2108.12409.
"""

import math

import attnc as at


@at.attention
def alibi(q, k, v, h, i, j, *, slopes: at.Tensor["h"]):
    """softmax_j(q_i · k_j / √d − slopes_h (p − j) where j ≤ p) v_j, p = i + Lk − Lq. See `standard_slopes`."""
    p = i + at.kv_len - at.q_len
    s = at.dot(q, k) * at.rsqrt(at.size(q)) - slopes[h] * (p - j)
    return at.softmax(s, where=j <= p) @ v


def standard_slopes(heads: int) -> list[float]:
    """The paper's slopes for `heads` ≥ 1 heads: 2^(−8/n), 2^(−16/n), … where n = heads is a power of two.

    Otherwise, as the authors' code does: those of the power of two below, then every other one of the power of two above.
    """
    below = 2 ** math.floor(math.log2(heads))
    rest = [2 ** (-4 * n / below) for n in range(1, 2 * (heads - below), 2)]
    return [2 ** (-8 * n / below) for n in range(1, below + 1)] + rest


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(alibi, {"slopes": standard_slopes(4)}, heads=4)
