"""Retention, its parallel form: signed weights that decay with the distance, over max(|their sum|, 1).

Retentive Network: A Successor to Transformer for Large Language Models, sections 2.1 and 2.2. Sun, Dong, Huang, Ma, Xia, Xue,
Wang, Wei, 2023, arXiv 2307.08621. (The rotation of q and k and the group norm of the output are the caller's.)
"""

import math

import attnc as at


@at.attention
def retention(q, k, v, h, i, j, *, log_decay: at.Tensor["h"]):
    """Σ_j w_ij v_j / max(|Σ_j w_ij|, 1), w_ij = γ_h^(p − j) q_i · k_j / √d over j ≤ p, p = i + Lk − Lq, γ = exp(log_decay) ≤ 1."""
    p = i + at.kv_len - at.q_len
    gamma = at.maximum(log_decay[h], -1e4)  # its power is 0 as that of −∞ is, but −∞ · 0 is NaN
    w = at.where(j <= p, at.exp(gamma * (p - j)) * at.dot(q, k) * at.rsqrt(at.size(q)), 0.0)
    return w @ v / at.maximum(at.abs(at.sum(w, over="j")), 1)


def standard_decay(heads: int) -> list[float]:
    """The paper's log_decay for heads ≥ 1: ln(1 − 2^(−5 − h))."""
    return [math.log1p(-(2.0 ** (-5 - h))) for h in range(heads)]


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(retention, {"log_decay": standard_decay(4)}, heads=4)
