"""GATv2: the leaky ReLU comes before the sum over features, so that the order of the neighbours depends on the query.

How Attentive are Graph Attention Networks? Brody, Alon, Yahav, 2021, arXiv 2105.14491.
"""

import attnc as at


@at.attention
def gatv2(
    q, k, v, b, i, j, *, Wq: at.Tensor["d", "r"], Wk: at.Tensor["d", "r"], a: at.Tensor["r"],
    edges: at.Tensor["b", "i", "j", bool], slope: float = 0.2,
):  # fmt: skip
    """softmax_j(a · leaky(q_i Wq + k_j Wk) where edges_ij) v_j, leaky(x) = max(x, slope x), slope ≤ 1."""
    x = q @ Wq + k @ Wk
    return at.softmax(at.sum(a * at.maximum(x, slope * x), over="r"), where=edges[b, i, j]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    ring = [[[(i - j) % 24 in (0, 1, 5, 23) for j in range(24)] for i in range(24)]]
    identity = [[float(x == y) for y in range(4)] for x in range(4)]
    draw(gatv2, {"Wq": identity, "Wk": identity, "a": [1.0] * 4, "edges": ring})
