"""A mixture of windows: each query weighs what it finds near and what it finds far by gates of its own.

The gated sum of branches of Native Sparse Attention: Hardware-Aligned and Natively Trainable Sparse Attention, equation 5. Yuan,
Gao, Dai, et al., 2025, arXiv 2502.11089. (Here both branches are windows. Keys that are compressed are other keys: a call of their own.)
"""

import attnc as at


@at.attention
def mixed_windows(q, k, v, b, h, i, j, *, gates: at.Tensor["b", "h", "i", "n"], near: int = 512, far: int = 4096):
    """Σ_n g_n softmax_j(q_i · k_j / √d where p − window_n < j ≤ p) v_j, windows (near, far), g_n = gates_bhin, p = i + Lk − Lq."""
    p = i + at.kv_len - at.q_len
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    first, second = (at.softmax(s, where=(j <= p) & (p - j < window)) @ v for window in (near, far))
    return gates[b, h, i, 0] * first + gates[b, h, i, 1] * second


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(mixed_windows, {"gates": [[[[0.5, 0.5]] * 24]], "near": 4, "far": 12})
