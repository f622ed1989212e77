"""A variant that nobody has written before, in ten lines: scores fade with the distance, each head has its own reach."""

import sys

import numpy as np

import attnc as at


@at.attention
def reach(q, k, v, h, i, j, *, fade: at.Tensor["h"]):
    """softmax_j(q_i · k_j / √d − fade_h · log(1 + |i − j|) where j ≤ i) v_j."""
    s = at.dot(q, k) * at.rsqrt(at.size(q)) - fade[h] * at.log1p(at.abs(i - j))
    return at.softmax(s, where=j <= i) @ v


def main() -> int:
    """Compiles the variant, runs it, checks it; 1 if the kernel is wrong."""
    rng = np.random.default_rng(0)
    Q, K, V = (rng.standard_normal((1, 4, 300, 64), dtype=np.float32) for _ in range(3))
    fade = np.linspace(0.1, 2.0, 4)

    out = reach(Q, K, V, fade=fade)  # compiles at the first call; a later run of this program finds the kernel on disk
    print(f"{reach} gives {out.dtype} {out.shape}")
    print(reach.explain(Q, K, V, fade=fade))
    report = reach.verify(Q, K, V, fade=fade)  # the kernel against the formula, evaluated densely in float64
    print(report)
    print("OK" if report.ok else "WRONG")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
