"""T5: a learned bias per head and bucket of relative distance; exact buckets near by, logarithmic ones further away.

Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, section 2.1. Raffel, Shazeer,
Roberts, Lee, Narang, Matena, Zhou, Li, Liu, 2019, arXiv 1910.10683. The buckets are those of the authors' code
(_relative_position_bucket of mesh_tensorflow/transformer/transformer_layers.py).
"""

from typing import Any

import attnc as at


@at.attention
def t5(
    q,
    k,
    v,
    h,
    i,
    j,
    *,
    table: at.Tensor["h", "n"],
    max_distance: at.Const[int] = 128,
    buckets: at.Const[int] = 32,
    bidirectional: at.Const[bool] = True,
):
    """softmax_j(q_i · k_j + table[h, bucket(j − p)]) v_j, p = i + Lk − Lq; unscaled scores, as in T5.

    `table` has `buckets` entries per head. The encoder is `bidirectional`; the decoder is not, and sees j ≤ p only.
    """
    p = i + at.kv_len - at.q_len
    s = at.dot(q, k) + table[h, bucket(j - p, buckets, max_distance, bidirectional)]
    return at.softmax(s, where=None if bidirectional else j <= p) @ v


def bucket(relative: Any, buckets: int = 32, max_distance: int = 128, bidirectional: bool = True) -> Any:
    """T5's bucket of a relative position (key minus query), an integer of 0 … buckets − 1.

    In both directions half of the buckets are for the keys after the query. Of one direction's n buckets the first n/2
    are the distances 0 … n/2 − 1, and the others reach logarithmically to `max_distance`; the last takes all beyond.
    """
    if bidirectional:
        buckets = buckets // 2
        after = (relative > 0) * buckets
        distance = at.abs(relative)
    else:
        after = 0
        distance = at.maximum(-relative, 0)
    exact = buckets // 2
    larger = (distance >= start for start in logarithmic_starts(exact, buckets - exact, max_distance))
    return after + at.minimum(distance, exact) + sum(larger)


def logarithmic_starts(exact: int, count: int, max_distance: int) -> list[int]:
    """The least distances x with ⌊count · log(x / exact) / log(max_distance / exact)⌋ ≥ 1, 2, … count − 1.

    Compared as x^count · exact^m ≥ exact^count · max_distance^m in integers: a rounded logarithm puts a distance that
    lies on a boundary (16, 32 and 64 do) into either bucket, depending on the precision.
    """
    starts = []
    x = exact
    for m in range(1, count):
        while x**count * exact**m < exact**count * max_distance**m:
            x += 1
        starts.append(x)
    return starts


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    table = [[-(n % 8) / 2 for n in range(16)], [3 * (n == 9) - n % 8 for n in range(16)]]
    draw(t5, {"table": table, "buckets": 16, "max_distance": 24}, heads=2)
