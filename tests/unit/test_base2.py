"""Exponents in base 2: the factor log2(e) goes where it costs nothing for each pair, and -1e38 still hides a score."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.interp import MASKED, Inputs, Interpreter, align
from attnc.ir.graph import Node, const, node, topological
from attnc.passes.base2 import LOG2E, MASKED2, base2

Q, K = node("role", name="q"), node("role", name="k")
I, J = node("index", name="i"), node("index", name="j")
S = node("dot", Q, K, axis="d")
PER_ROW = [node("scalar", name="c", kind="float"), node("cast", I, kind="float"), const(-0.75)]
PER_PAIR = [S, node("tanh", S), node("cast", node("sub", J, I), kind="float"), node("gather", J, name="t", dims=("j",), features=(), kind="float")]  # fmt: skip
MASK = node("le", J, I)
INPUTS = Inputs(
    *(np.random.default_rng(0).standard_normal((1, 2, n, 3)) for n in (5, 7, 7)), {"c": 1.5, "t": np.arange(7.0)}
)


def scores(leaves: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    two = st.tuples(st.sampled_from(["add", "sub", "mul"]), leaves, leaves).map(lambda x: node(*x))
    one = leaves.map(lambda x: node("neg", x))
    return st.one_of(two, one, st.tuples(leaves, leaves).map(lambda x: node("where", MASK, *x)))


expressions = st.recursive(st.sampled_from(PER_ROW + PER_PAIR), scores, max_leaves=6)


def value(*nodes: Node) -> list[np.ndarray]:
    """In float64, over all of b, h, i and j."""
    found = Interpreter(INPUTS, np.float64, 0, 5).run(nodes)
    return [np.broadcast_to(align(x, ("b", "h", "i", "j")), (1, 2, 5, 7)) for x in found]


def pair_work(x: Node) -> int:
    return sum(bool(y.operands) and "j" in y.axes for y in topological([x]))


@given(expressions)
def test_it_is_the_exponent_times_log2_e(x: Node) -> None:
    scaled, masked = base2(x)
    assert masked == -math.inf and pair_work(scaled) <= pair_work(x) + ("j" in x.axes)
    found, natural = value(scaled, x)
    np.testing.assert_allclose(found, natural * LOG2E, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("score", [node("mul", S, PER_ROW[0]), node("add", node("mul", S, const(2.0)), node("mul", PER_PAIR[2], PER_ROW[0]))], ids=["scaled", "alibi"])  # fmt: skip
def test_scores_that_are_scaled_cost_nothing_more(score: Node) -> None:
    assert pair_work(base2(score)[0]) == pair_work(score)


@pytest.mark.parametrize("masked", [False, True])
def test_hidden_scores_are_left_to_the_weight(masked: bool) -> None:
    hidden = node("where", node("le", S, const(MASKED)), const(-math.inf), S)
    x = node("where", MASK, hidden, const(-math.inf)) if masked else hidden
    scaled, least = base2(x)
    assert least == MASKED2 and not any(y.op == "le" and y != MASK for y in topological([scaled]))
    assert np.float32(MASKED) * np.float32(LOG2E) < np.float32(least) < np.float32(0.9999 * MASKED) * np.float32(LOG2E)
