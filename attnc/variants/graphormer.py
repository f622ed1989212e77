"""Graphormer: biases by the distance of two nodes in the graph, and by the edges on the path between them.

Do Transformers Really Perform Bad for Graph Representation?, section 3.1. Ying, Cai, Luo, Zheng, Ke, He, Shen, Liu, 2021,
arXiv 2106.05234.
"""

import attnc as at


@at.attention
def graphormer(
    q, k, v, b, h, i, j, *, spatial: at.Tensor["h", "n"], distance: at.Tensor["b", "i", "j", int],
    path: at.Tensor["b", "h", "i", "j"],
):  # fmt: skip
    """softmax_j(q_i · k_j / √d + spatial[h, distance_ij] + path_hij) v_j.

    `distance`: the shortest path's length, an index into `spatial`; `path`: the mean over its edges of their weighted features.
    """
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    return at.softmax(s + spatial[h, distance[b, i, j]] + path[b, h, i, j]) @ v


if __name__ == "__main__":
    from attnc.viz.heatmap import draw

    distance = [[[min((i - j) % 24, (j - i) % 24) for j in range(24)] for i in range(24)]]
    draw(graphormer, {"spatial": [[-n / 3 for n in range(13)]], "distance": distance, "path": [[[[0.0]]]]})
