"""Graph attention: scores of neighbours, a sum of a query's and a key's number through a leaky ReLU.

Graph Attention Networks. Veličković, Cucurull, Casanova, Romero, Liò, Bengio, 2017, arXiv 1710.10903.
"""

import attnc as at


@at.attention
def gat(
    q, k, v, b, h, i, j, *, aq: at.Tensor["h", "d"], ak: at.Tensor["h", "d"], edges: at.Tensor["b", "i", "j", bool],
    slope: float = 0.2,
):  # fmt: skip
    """softmax_j(leaky(aq_h · q_i + ak_h · k_j) where edges_ij) v_j, leaky(x) = max(x, slope x), slope ≤ 1.

    q, k and v are a layer's projections of the nodes; a node sees itself where edges_ii. A node without edges gives 0.
    """
    x = at.dot(q, aq[h]) + at.dot(k, ak[h])
    return at.softmax(at.maximum(x, slope * x), where=edges[b, i, j]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    ring = [[[(i - j) % 24 in (0, 1, 5, 23) for j in range(24)] for i in range(24)]]
    draw(gat, {"aq": [[1.0] * 4], "ak": [[1.0] * 4], "edges": ring})
