"""BigBird: a window, global blocks and random blocks, all in blocks of positions.

Big Bird: Transformers for Longer Sequences, section 2 and appendix D. Zaheer, Guruganesh, Dubey, Ainslie, Alberti,
Ontanon, Pham, Ravula, Wang, Yang, Ahmed, 2020, arXiv 2007.14062.
"""

import attnc as at


@at.attention
def bigbird(
    q,
    k,
    v,
    h,
    i,
    j,
    *,
    random: at.Tensor["h", "n", "r", int],
    block: int = 64,
    window: int = 3,
    global_blocks: int = 1,
    random_blocks: at.Const[int] = 3,
):
    """softmax_j(q_i · k_j / √d where the blocks of p and j are linked) v_j, p = i + Lk − Lq.

    Block x = p // block is linked to y = j // block where |x − y| ≤ window/2, or one of them is among the first
    `global_blocks`, or y is one of `random[h, x, :random_blocks]`. `random` holds key blocks, drawn once: a row for each
    block of Lk positions (a negative entry links to nothing), and one set of rows for each head or 1 for all.
    """
    p = i + at.kv_len - at.q_len
    x, y = p // block, j // block
    linked = (at.abs(x - y) <= window // 2) | ((x >= 0) & (x < global_blocks)) | (y < global_blocks)
    for n in range(random_blocks):
        linked = linked | ((x >= 0) & (random[h, x, n] == y))
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=linked) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    draw(bigbird, {"random": [[[n * 5 % 8] for n in range(8)]], "block": 3, "random_blocks": 1})
