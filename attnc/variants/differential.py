"""Differential attention: the difference of two softmaxes, which cancels what both attend to, then a norm of each head.

Differential Transformer. Ye, Dong, Xia, Sun, Zhu, Huang, Wei, 2024, arXiv 2410.05258.
"""

import attnc as at


@at.attention
def differential(
    q, k, v, b, h, i, j, *, q2: at.Tensor["b", "h", "i", "d"], k2: at.Tensor["b", "g", "j", "d"], lam: at.Tensor["h"],
    norm: at.Tensor["e"] | None = None, lam_init: float = 0.8, eps: float = 1e-5,
):  # fmt: skip
    """o_i = softmax_j(q_i · k_j / √d) v_j − λ_h softmax_j(q2_i · k2_j / √d) v_j over j ≤ p, p = i + Lk − Lq.

    With `norm`, the weights of the paper's RMS norm: (1 − λ_init) o_i / √(mean_e(o_i²) + eps) ∘ norm. λ = exp(λ_q1 · λ_k1)
    − exp(λ_q2 · λ_k2) + λ_init is the caller's.
    """
    scale, seen = at.rsqrt(at.size(q)), j <= i + at.kv_len - at.q_len
    first = at.softmax(at.dot(q, k) * scale, where=seen) @ v
    second = at.softmax(at.dot(q2[b, h, i], k2[b, h // at.group, j]) * scale, where=seen) @ v
    o = first - lam[h] * second
    if norm is None:
        return o
    return (1 - lam_init) * o * at.rsqrt(at.sum(o * o, over="e") / at.size(v) + eps) * norm


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    other = [[[[0.3 * ((n + d) % 3 - 1) for d in range(4)] for n in range(24)]]]
    draw(differential, {"q2": other, "k2": other, "lam": [0.5]})
