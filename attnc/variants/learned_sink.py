"""Learned sinks: each head has a logit that joins the denominator only. The layers of gpt-oss.

gpt-oss-120b & gpt-oss-20b Model Card. OpenAI, 2025, arXiv 2508.10925.
"""

import attnc as at


@at.attention
def learned_sink(q, k, v, h, i, j, *, sink: at.Tensor["h"]):
    """Σ_j exp(s_ij) v_j / (exp(sink_h) + Σ_j exp(s_ij)) over j ≤ p, s_ij = q_i · k_j / √d, p = i + Lk − Lq. The lse includes it."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=j <= p, sink=sink[h]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(learned_sink, {"sink": [0.0]})
