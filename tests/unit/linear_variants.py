"""Variants that take linear time, and random ones."""

from collections.abc import Callable
from typing import Any

import numpy as np

import attnc as at


@at.attention
def mean_of_products(q, k, v):
    """Without a mask: all keys come before all queries."""
    return at.dot(q, k) @ v / at.maximum(at.kv_len, 1)


@at.attention
def positive(q, k, v, b, i, j, *, n: at.Tensor["b", int], keep: at.Tensor["i", bool]):
    """Features of q and k, a constant weight beside the product, masks of the key and of the query, a sum that is divided by."""
    w = at.where((j <= i + at.kv_len - at.q_len) & (j < n[b]) & keep[i], at.dot(at.exp(0.5 * q), at.abs(k)) + 0.25, 0.0)
    return w @ v / (at.sum(w, over="j") + 1e-3)


@at.attention
def gates(q, k, v, b, h, i, j, *, A: at.Tensor["b", "h", "j"]):
    """Steps with decays of their own, beside weights without one: two sums with exponents and one without."""
    p = i + at.kv_len - at.q_len
    seen = j <= p
    decay = at.exp(A[b, h, p] - A[b, h, j])
    w = at.where(seen, decay * at.dot(q, k), 0.0)
    return w @ v - 0.5 * (at.where(seen, at.dot(q, k), 0.0) @ v), at.sum(w, over="j")


@at.attention
def by_key(q, k, v, i, j, *, u: at.Tensor["d"]):
    """A softmax whose scores do not read the query: a rank of one."""
    return at.softmax(at.sum(u * k, over="d"), where=j < i) @ v


@at.attention
def by_both(
    q, k, v, i, j, *, u: at.Tensor["d"], W: at.Tensor["d", "r"], X: at.Tensor["d", "r"], keep: at.Tensor["i", bool]
):
    """An exponent of the query's part plus the key's, which some queries have not; features are projections."""
    e = at.sum(u * q, over="d") - at.sum(u * k, over="d")
    w = at.where((j <= i) & keep[i], at.exp(0.3 * e) * at.dot(q @ W, at.tanh(k @ X)), 0.0)
    return w @ v / (1 + at.abs(at.sum(w, over="j")))


@at.attention
def blocks(q, k, v, i, j):
    """A mask that rises in steps: a query sees all of its block of 8, and what is before it."""
    return at.where(j < i // 8 * 8 + 8, at.dot(q, k), 0.0) @ v


def operands(f: Any, rng: np.random.Generator, B: int, H: int, q_len: int, kv_len: int, d: int) -> dict[str, Any]:
    """Of a variant of this file."""
    match f.__name__:
        case "positive":
            return {"n": rng.integers(0, kv_len + 1, B), "keep": rng.random(q_len) < 0.8}
        case "gates":
            return {"A": -np.cumsum(rng.random((B, H, kv_len)), -1)}
        case "by_key":
            return {"u": rng.standard_normal(d)}
        case "by_both":
            return {
                "u": 0.3 * rng.standard_normal(d),
                "W": rng.standard_normal((d, 3)),
                "X": rng.standard_normal((d, 3)),
                "keep": rng.random(q_len) < 0.7,
            }
    return {}


VARIANTS = (mean_of_products, positive, gates, by_key, by_both, blocks)


def random(rng: np.random.Generator) -> Any:
    """A random variant that takes linear time; it reads A [b h j], t [j], s [i] and n [b]."""
    feature = FEATURES[rng.integers(len(FEATURES))]
    shift, width = int(rng.integers(-3, 4)), int(rng.integers(1, 6))
    aligned, second = rng.random(2) < 0.5
    form, power, masked = rng.integers((6, 5, 5))

    @at.attention
    def program(
        q,
        k,
        v,
        b,
        h,
        i,
        j,
        *,
        A: at.Tensor["b", "h", "j"],
        t: at.Tensor["j"],
        s: at.Tensor["i"],
        n: at.Tensor["b", int],
    ):
        p = i + at.kv_len - at.q_len if aligned else i + shift
        w = at.dot(feature(q), k)
        w = (w, w * t[j], w / (1 + at.abs(s[i])), w - t[j] * s[i], 2 - w, w * t[j] + 0.5 * s[i] - 1)[form]
        e = (0.0, -0.1 * (p - j), A[b, h, p] - A[b, h, j], t[j], 0.5 * s[i] - 0.2 * t[j] - (p - j) / 8)[power]
        short = j < n[b]
        seen = (j <= p, j < p, (j <= p) & short, short & (s[i] < 1), j < p // width * width + width)[masked]
        w = at.where(seen, at.exp(e) * w if power else w, 0.0)
        out = w @ v
        return (
            (out / at.maximum(at.abs(at.sum(w, over="j")), 1), at.sum(at.where(seen, w * t[j], 0.0), over="j"))
            if second
            else out
        )

    return program


FEATURES: tuple[Callable[[Any], Any], ...] = (lambda x: x, at.abs, lambda x: at.exp(0.4 * x), lambda x: x * x - 0.5)


def random_operands(rng: np.random.Generator, B: int, H: int, q_len: int, kv_len: int) -> dict[str, Any]:
    """Of a random variant."""
    t, s = rng.standard_normal(kv_len), rng.standard_normal(q_len)
    return {"A": -np.cumsum(rng.random((B, H, kv_len)), -1), "t": t, "s": s, "n": rng.integers(0, kv_len + 1, B)}
