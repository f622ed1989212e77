"""QK-norm: queries and keys are normed by their root mean square, so that scores cannot grow. OLMo 2, Qwen 3.

2 OLMo 2 Furious. Team OLMo, 2025, arXiv 2501.00656. After Query-Key Normalization for Transformers. Henry, Dachapally, Pawar,
Chen, 2020, arXiv 2010.04245.
"""

from typing import Any

import attnc as at


@at.attention
def qk_norm(q, k, v, i, j, *, gq: at.Tensor["d"], gk: at.Tensor["d"], eps: float = 1e-6):
    """softmax_j(norm(q_i, gq) · norm(k_j, gk) / √d where j ≤ p) v_j, norm(x, g) = g x / √(mean x² + eps), p = i + Lk − Lq."""
    p = i + at.kv_len - at.q_len
    s = at.dot(norm(q, eps) * gq, norm(k, eps) * gk) * at.rsqrt(at.size(q))
    return at.softmax(s, where=j <= p) @ v


def norm(x: Any, eps: Any) -> Any:
    """x over its root mean square."""
    return x * at.rsqrt(at.sum(x * x, over="d") / at.size(x) + eps)


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(qk_norm, {"gq": [1.0] * 4, "gk": [1.0] * 4})
