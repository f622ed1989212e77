"""FlexAttention's two functions as a variant (https://pytorch.org/blog/flexattention)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnc.dsl import functions as f
from attnc.variant import Attention


def from_flex(score_mod: Callable[..., Any] | None = None, mask_mod: Callable[..., Any] | None = None) -> Attention:
    """A variant from FlexAttention's functions, written with operators and at.*.

    score_mod(score, b, h, q_idx, kv_idx) -> score; mask_mod(b, h, q_idx, kv_idx) -> bool. Scores are scaled by 1/sqrt(D).
    """

    def flex(q, k, v, b, h, i, j):  # type: ignore[no-untyped-def]
        score = f.dot(q, k) * f.rsqrt(f.size(q))
        if score_mod is not None:
            score = score_mod(score, b, h, i, j)
        mask = None if mask_mod is None else mask_mod(b, h, i, j)
        return f.softmax(score, where=mask) @ v

    return Attention(flex)
