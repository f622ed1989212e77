"""The variants whose stages are kept as files."""

import attnc as at


@at.attention
def soft_capped_window(q, k, v, i, j, *, cap: float = 50.0, window: int = 4096):
    """One sweep; tiles are empty, full or partial."""
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    s = cap * at.tanh(s / cap)
    return at.softmax(s, where=(j <= i) & (i - j < window)) @ v


@at.attention
def additive(q, k, v, *, u: at.Tensor["r"], wq: at.Tensor["d", "r"], wk: at.Tensor["d", "r"]):
    """Scores that are no dot products, projections of queries and keys, keys shared by groups of heads."""
    return at.softmax(at.sum(u * at.tanh(q @ wq + k @ wk), over="r")) @ v


@at.attention
def above_average(q, k, v, b, h, i, j, *, doc: at.Tensor["b", "j", int], slopes: at.Tensor["h"]):
    """Two sweeps: which keys take part depends on a sum over all keys. Tables by batch and by head."""
    s = at.dot(q, k) - slopes[h] * at.abs(i - j)
    total = at.sum(s, over="j")
    return at.softmax(s, where=(s * at.kv_len > total) & (doc[b, j] > 0)) @ v


@at.attention
def two_outputs(q, k, v):
    """No softmax: weights in half precision with their sum as a second output."""
    w = at.sigmoid(at.dot(q, k) * at.rsqrt(at.size(q)) - 1)
    total = at.sum(w, over="j")
    return w @ v / at.maximum(total, 1), total


@at.attention
def few_queries(q, k, v, h, i, j, *, slopes: at.Tensor["h"]):
    """A kernel for few queries: rows are (query, head of a group), keys are split into parts, features in the lanes."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) - slopes[h] * (p - j), where=j <= p) @ v


@at.attention
def decayed(q, k, v, h, i, j, *, slopes: at.Tensor["h"]):
    """Linear time: features of queries and keys, weights that fall with the distance, over their sum."""
    w = at.where(j <= i, at.exp(-slopes[h] * (i - j)) * at.dot(at.abs(q), at.abs(k)), 0.0)
    return w @ v / (1 + at.sum(w, over="j"))


@at.attention
def statistics(q, k, v, i, j):
    """Sums that move with the sweep: an entropy, a variance, the mean of what stands where the score is highest."""
    s, seen = at.dot(q, k) * at.rsqrt(at.size(q)), j <= i
    p = at.softmax(s, where=seen)
    place = at.sum(p * j, over="j")
    attained = seen & (s == at.max(at.where(seen, s, -at.inf), over="j"))
    return (
        at.where(attained, 1.0, 0.0) @ v / at.maximum(at.sum(attained, over="j"), 1),
        -at.sum(at.where(p == 0, 0.0, p * at.log(p)), over="j"),
        at.sum(p * (j - place) ** 2, over="j"),
    )
