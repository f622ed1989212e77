"""Passes: folding, separation, bounds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import attnc as at
from attnc.interp import Inputs, Interpreter, Value
from attnc.ir.graph import rewrite
from attnc.passes.bound import bound, corner
from attnc.passes.canonicalise import canonicalise
from attnc.passes.expand import expand
from attnc.passes.fold import fold, fold_node
from attnc.passes.merge_factors import merge_factors
from attnc.passes.plan_sweeps import plan_sweeps


def planned(variant):
    return plan_sweeps(fold(canonicalise(expand(variant.graph))))


def test_softmax_needs_one_sweep():
    plan = planned(at.attention(lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=j <= i) @ v))
    assert len(plan.sweeps) == 1
    weights, total = sorted(plan.sweeps[0], key=lambda a: len(a.features), reverse=True)
    assert weights.e == total.e and weights.features == {"e"} and total.k is None


def test_a_softmax_by_hand_needs_one_sweep_of_sums():
    def hand(q, k, v):
        s = at.dot(q, k)
        e = at.exp(s - at.max(s, over="j"))
        return e @ v / at.sum(e, over="j")

    plan = planned(at.attention(hand))
    assert len(plan.sweeps) == 1 and [a.how for a in plan.sweeps[0]].count("max") == 1


def test_an_inseparable_body_waits_and_says_why():
    def gated(q, k, v):
        s = at.dot(q, k)
        return at.tanh(s - at.max(s, over="j")) @ v

    plan = planned(at.attention(gated))
    assert len(plan.sweeps) == 2 and "NONHOM" in plan.reasons[0]


integers = st.integers(-6, 6)
leaf = st.one_of(st.sampled_from(["i", "j"]), integers)
expression = st.recursive(
    leaf,
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "min", "max", "//", "%"]), inner, inner),
    max_leaves=5,
)
mask = st.recursive(
    st.tuples(st.sampled_from(["<", "<=", "==", "!="]), expression, expression),
    lambda inner: st.one_of(st.tuples(st.sampled_from(["&", "|", "^"]), inner, inner), st.tuples(st.just("~"), inner)),
    max_leaves=4,
)


def build(tree, i, j):
    if not isinstance(tree, tuple):
        return {"i": i, "j": j}.get(tree, tree) if isinstance(tree, str) else tree + 0 * i
    sign, *parts = tree
    x = [build(part, i, j) for part in parts]
    functions = {
        "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "min": at.minimum, "max": at.maximum,
        "//": lambda a, b: a // b, "%": lambda a, b: a % b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "&": lambda a, b: a & b, "|": lambda a, b: a | b,
        "^": lambda a, b: a ^ b, "~": lambda a: ~a,
    }  # fmt: skip
    return functions[sign](*x)


@given(mask, st.integers(0, 9), st.integers(1, 6), st.integers(0, 9), st.integers(1, 6))
def test_no_tile_called_empty_or_full_is_wrong(tree, i0, rows, j0, columns):
    variant = at.attention(lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=build(tree, i, j) | (j < 0 * i)) @ v)
    graph = fold(canonicalise(variant.graph))
    softmax = next(x for x in graph.nodes() if x.op == "softmax")
    if not softmax["masked"]:
        return
    condition = softmax.operands[1]
    found = bound(condition)
    shape = (1, 1, 16, 1)
    run = Interpreter(Inputs(np.zeros(shape), np.zeros(shape), np.zeros(shape)), np.float64, 0, 16)
    dense = run.run([condition])[0]
    full = np.broadcast_to(dense.data.reshape([16 if a in dense.axes else 1 for a in "ij"]), (16, 16))
    tile = full[i0 : i0 + rows, j0 : j0 + columns]
    ends = {"i0": i0, "i1": i0 + rows - 1, "j0": j0, "j1": j0 + columns - 1}
    leaves = {corner(name): Value(np.asarray(x), ()) for name, x in ends.items()}
    scalar = Interpreter(run.inputs, np.float64, 0, 1, bindings=leaves)
    possible, certain = (bool(x.data) for x in scalar.run([found.possible, found.certain]))
    assert possible or not tile.any()
    assert not certain or tile.all()
    ends = found.run or found.hull
    if ends is not None:
        first, last = (int(x.data) for x in scalar.run(ends))
        keys = np.flatnonzero(full[i0 : i0 + rows].any(axis=0))
        assert ((first <= keys) & (keys <= last)).all()
        assert not found.run or first > last or list(keys) == list(range(max(first, 0), min(last, 15) + 1))


@pytest.mark.parametrize(
    ("condition", "i0", "i1", "ends"),
    [
        (lambda i, j: j <= i, 4, 7, (0, 7)),
        (lambda i, j: (j <= i) & (i - j < 3), 4, 7, (2, 7)),
        (lambda i, j: (at.abs(i - j) <= 2) & (j > 3) & (i < 6), 4, 7, (4, 7)),
        (lambda i, j: 2 * j < i, 4, 7, None),
        (lambda i, j: (j < 2) | (j == i), 4, 7, None),
    ],
)
def test_a_mask_of_one_clause_is_a_run_of_keys(condition, i0, i1, ends):
    variant = at.attention(lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=condition(i, j)) @ v)
    (mask,) = rewrite(next(x for x in variant.graph.nodes() if x.op == "softmax").operands[1:2], fold_node)
    found = bound(mask)
    assert (found.run is None) == (ends is None)
    if ends is not None:
        shape = (1, 1, 16, 1)
        leaves = {corner(name): Value(np.asarray(x), ()) for name, x in (("i0", i0), ("i1", i1))}
        run = Interpreter(Inputs(*(np.zeros(shape) for _ in range(3))), np.float64, 0, 1, bindings=leaves)
        assert tuple(int(x.data) for x in run.run(found.run)) == ends


@example([("*", 3), ("/", 3)], "tanh")
@given(
    st.lists(st.tuples(st.sampled_from(["*", "r*", "/"]), st.integers(0, 3)), max_size=4),
    st.sampled_from(["tanh", "sigmoid", "erf"]),
)
def test_factors_below_a_smooth_function_become_one(steps, name):
    def weights(q, k, v, h, i, *, cap: float = 3.0, slopes: at.Tensor["h"], rows: at.Tensor["i"]):
        s, factors = at.dot(q, k), [cap, slopes[h], rows[i], 0.25]
        for sign, n in steps:
            s = s * factors[n] if sign == "*" else factors[n] * s if sign == "r*" else s / factors[n]
        return getattr(at, name)(s) @ v

    graph = at.attention(weights).graph
    merged = merge_factors(graph)
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((1, 2, 5, 4)), rng.standard_normal((1, 2, 6, 4))
    operands = {"cap": 3.0, "slopes": rng.uniform(0.5, 2, 2), "rows": rng.uniform(0.5, 2, 5)}
    found = [Interpreter(Inputs(q, k, k, operands), np.float64, 0, 5).run(x.outputs)[0].data for x in (graph, merged)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    (inner,) = next(x for x in merged.nodes() if x.op == name).operands
    if len(steps) > 1 or any(sign == "/" for sign, _ in steps):
        factors = () if inner.op == "dot" else inner.operands  # they may cancel
        assert inner.op in ("dot", "mul") and [x.op for x in (inner, *factors)].count("dot") == 1
