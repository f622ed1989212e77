"""Which bodies are freed of unfinished reductions, in how many sweeps, and that the numbers stay those of the formula."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.compile import fuse, lower
from attnc.dsl.trace import trace
from attnc.fuzz.compare import farthest
from attnc.interp import interpret
from attnc.ir.graph import Graph
from attnc.passes.signs import nonnegative
from attnc.runtime.binding import bind
from attnc.tile.interp import run

N = 16
Body = Callable[[SimpleNamespace], Any]


def made(body: Body) -> at.Attention:
    """A variant of scores s, keys' numbers t, finished values m (maximum), n (sum of powers), a (mean), p (softmax)."""

    @at.attention
    def variant(q, k, v, i, j, *, t: at.Tensor["j"], r: at.Tensor["i", "j"]):
        s = at.dot(q, k)
        e = at.exp(s)
        x = SimpleNamespace(q=q, k=k, v=v, i=i, j=j, s=s, t=t[j], r=r[i, j], mask=j <= i + 1)
        x.m, x.n, x.a = at.max(s, over="j"), at.sum(e, over="j"), at.sum(s, over="j") / at.maximum(at.kv_len, 1)
        x.p, x.e = e / x.n, e
        return body(x)

    return variant


def traced(variant: at.Attention, seed: int, q_len: int = 5, kv_len: int = 7, scale: float = 1.0) -> tuple[Graph, Any]:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((1, 1, n, d)) for n, d in ((q_len, 3), (kv_len, 3), (kv_len, 2)))
    operands = {"t": rng.standard_normal(kv_len), "r": rng.standard_normal((q_len, kv_len))}
    call = bind(variant.signature, scale * q, k, v, operands, "bhld")
    graph = trace(variant.function, variant.signature, kinds=call.kinds, constants={}, absent=frozenset())
    return graph, call.inputs


def total(x: Any) -> Any:
    return at.sum(x, over="j")


SEPARATE: dict[str, Body] = {
    "a row factor": lambda x: total(x.s * x.m),
    "p(1 - p)": lambda x: (x.p * (1 - x.p)) @ x.v,
    "powers": lambda x: total(x.p**3),
    "a root": lambda x: total(at.sqrt(x.p)),
    "a real power": lambda x: total(x.p**1.7),
    "one over a root": lambda x: total(at.rsqrt(x.p)),
    "rank 4": lambda x: total(x.s * x.m + x.t * x.n + x.r * at.tanh(x.m) + at.cos(x.s) * x.a),
    "abs": lambda x: total(at.abs(x.s * x.m)),
    "sign": lambda x: total(at.sign(x.s * x.a) * x.t),
    "relu of a product": lambda x: total(at.relu(x.s * at.abs(x.m))),
    "the larger product": lambda x: total(at.maximum(x.s * x.n, x.t * x.n)),
    "the smaller sum": lambda x: total(at.minimum(x.s - x.m, x.t - x.m)),
    "powers of two": lambda x: total(at.exp2(x.s - x.m)),
    "a quotient": lambda x: total((x.s + x.m) / x.p),
    "where in an exponent": lambda x: total(at.exp(at.where(x.mask, x.s - x.m, x.t - x.a))),
    "where in a root": lambda x: total(at.sqrt(at.where(x.mask, x.p, x.n))),
    "a row condition and a mask": lambda x: total(at.where(x.mask & (x.m > 0.5), x.s, 1.0)),
    "whole numbers": lambda x: total((x.j + total(x.j * 0 + x.mask)) * 1.0),
    "a mean of keys": lambda x: total(at.dot(x.q, x.k - (x.s @ x.k))),
    "centred values": lambda x: x.p @ (x.v - x.p @ x.v),
    "a sum of features": lambda x: total(at.sum(x.k * x.m, over="d")),
    "max of a sum": lambda x: at.max(x.s - x.m, over="j"),
    "min of a product": lambda x: at.min(x.s * x.a, over="j"),
    "max of p": lambda x: at.max(x.p, over="j"),
    "max of a capped score": lambda x: at.max(at.tanh(x.s - x.a), over="j"),
    "min under a mask": lambda x: at.min(at.where(x.mask, at.sigmoid(-(x.s - x.a)), at.inf), over="j"),
    "max of two branches": lambda x: at.max(at.where(x.mask, x.s * x.a, x.t / x.a), over="j"),
    "max of a cube": lambda x: at.max((x.s - x.a) ** 3, over="j"),
    "max of a clamp": lambda x: at.max(at.maximum(at.tanh(x.s + x.m), x.t), over="j"),
    "variance": lambda x: total((x.s - x.a) ** 2),
    "entropy": lambda x: total(x.p * at.log(x.p)),
    "three levels": lambda x: total(x.s * total(x.p * x.t) + x.t),
}  # fmt: skip
WAITS: dict[str, tuple[str, Body]] = {
    "covariance": ("CANCEL", lambda x: total((x.s - x.a) * (x.t - x.a))),
    "log p of no p": ("CANCEL", lambda x: total(at.log(x.p))),
    "temperature": ("CROSS", lambda x: total(at.exp(x.s * x.a))),
    "max of a square": ("MONO", lambda x: at.max((x.s - x.a) * (x.t - x.s), over="j")),
    "tanh": ("NONHOM", lambda x: total(at.tanh(x.s - x.m))),
    "log of a sum": ("NONHOM", lambda x: total(at.log(at.exp(x.s) + x.n))),
    "five terms": ("RANK", lambda x: total(x.s * x.m + x.t * x.n + x.r * at.tanh(x.m) + at.cos(x.s) * x.a + x.i * x.m * x.s * x.t)),
    "a root of what may be negative": ("SIGN", lambda x: total(at.log(x.s * x.m))),
    "above the mean": ("THRESHOLD", lambda x: total(at.where(x.s > x.a, x.s, 0.0))),
    "features against features": ("RANK", lambda x: total(at.dot(x.k, x.p @ x.k))),
}  # fmt: skip


def check(body: Body, tolerance: float = 1e-10) -> None:
    for seed, (q_len, kv_len) in enumerate([(5, 7), (4, 1), (1, 9), (3, 0)]):
        graph, inputs = traced(made(body), seed, q_len, kv_len)
        assert farthest(interpret(graph, inputs), run(lower(graph), inputs, tile=(2, 3))) <= tolerance


@pytest.mark.parametrize("name", SEPARATE)
def test_one_sweep(name: str) -> None:
    graph, _ = traced(made(SEPARATE[name]), 0)
    plan = fuse(graph)
    assert len(plan.sweeps) == 1 and not plan.reasons, plan.reasons
    check(SEPARATE[name])


@pytest.mark.parametrize("name", WAITS)
def test_a_further_sweep_for_a_reason(name: str) -> None:
    code, body = WAITS[name]
    graph, _ = traced(made(body), 0)
    plan = fuse(graph)
    assert len(plan.sweeps) == 2 and len(plan.reasons) == 1
    assert plan.reasons[0].split(": ")[-1].startswith(f"{code}, ")
    assert "test_separate.py" in plan.reasons[0], "the user's line"
    check(body)


MIXED: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / (1.5 + at.abs(b)),
    "max": at.maximum, "min": at.minimum, "exp": lambda a: at.exp(0.2 * a), "abs": at.abs, "tanh": at.tanh, "relu": at.relu,
    "log": lambda a: at.log(1 + at.abs(a)), "root": lambda a: at.sqrt(at.abs(a)), "power": lambda a: at.abs(a) ** 1.5, "neg": lambda a: -a,
    "where": lambda a, b: at.where(a > 0, a, b),
}  # fmt: skip
LEAVES = st.sampled_from(["s", "t", "r", "m", "n", "a", "p", "e", "mask"])
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "+", "*", "/", "max", "min"]), inner, inner),
        st.tuples(st.sampled_from(["exp", "abs", "tanh", "relu", "log", "root", "power", "neg"]), inner),
        st.tuples(st.just("choose"), inner, inner),
    ),
    max_leaves=6,
)


def build(tree: Any, x: SimpleNamespace) -> Any:
    if isinstance(tree, str):
        return at.where(x.mask, 0.5, 1.5) if tree == "mask" else getattr(x, tree)
    name, *parts = tree
    found = [build(part, x) for part in parts]
    return at.where(x.mask, *found) if name == "choose" else MIXED[name](*found)


@settings(max_examples=150, deadline=None)
@given(
    tree=TREES,
    how=st.sampled_from(["sum", "max", "min", "attend", "divided"]),
    shape=st.tuples(st.integers(1, 4), st.integers(0, 7)),
    tile=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    seed=st.integers(0, 10**6),
)
def test_random_mixed_bodies_are_what_their_graph_says(tree: Any, how: str, shape: Any, tile: Any, seed: int) -> None:
    def body(x: SimpleNamespace) -> Any:
        w = build(tree, x) + 0 * x.s
        if how == "attend":
            return w @ x.v
        if how == "divided":
            return at.where(x.mask, w * x.e, 0.0) @ x.v / (1 + total(at.abs(w) * x.e))
        return {"sum": at.sum, "max": at.max, "min": at.min}[how](w, over="j")

    graph, inputs = traced(made(body), seed, *shape)
    assert farthest(interpret(graph, inputs), run(lower(graph), inputs, tile=tile)) <= 1e-9


SIGNED = st.recursive(
    st.sampled_from(["s", "t", "r", "e", "mask"]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "*", "/", "max", "min", "-", "where"]), inner, inner),
        st.tuples(st.sampled_from(["exp", "abs", "tanh", "relu", "root", "neg"]), inner),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(tree=SIGNED, seed=st.integers(0, 10**6))
def test_what_is_called_nonnegative_is(tree: Any, seed: int) -> None:
    graph, inputs = traced(made(lambda x: at.min(build(tree, x) + at.where(x.mask, 0.0, 0.0), over="j")), seed, 4, 9)
    body = graph.outputs[0].operands[0].operands[0]
    assert not nonnegative(body) or (interpret(graph, inputs)[0] >= 0).all()


def test_a_sum_that_is_divided_by_keeps_the_range_of_its_own_support() -> None:
    """The largest score has no share of the second sum: as a factor of 0, as a mask, as 1e-30."""

    @at.attention
    def renormalised(q, k, v, j, *, r: at.Tensor["j"]):
        w = at.softmax(at.dot(q, k)) * r[j]
        return w @ v / at.sum(w, over="j")

    @at.attention
    def masked(q, k, v, j, *, r: at.Tensor["j"]):
        e = at.exp(at.dot(q, k)) * (r[j] != 0)
        return e @ v / at.sum(e, over="j")

    scores = np.array([2000.0, 0.0, 1.0, 2.0])
    k, v = scores[None, None, :, None], np.eye(4)[None, None]
    for variant, r, tolerance in (
        (renormalised, [0.0, 1.0, 1.0, 1.0], 1e-14),
        (masked, [0.0, 1.0, 1.0, 1.0], 1e-14),
        (renormalised, [0.0, 1e-30, -2e-30, 4e-30], 1e-14),
    ):
        call = bind(variant.signature, np.ones((1, 1, 1, 1)), k, v, {"r": np.array(r)}, "bhld")
        graph = trace(variant.function, variant.signature, kinds=call.kinds, constants={}, absent=frozenset())
        weights = np.exp(scores[1:] - 2) * np.array(r[1:])
        expected = np.array([0, *(weights / weights.sum())])
        for tile in (1, 2, 4):
            (found,) = run(lower(graph), call.inputs, tile=(1, tile))
            np.testing.assert_allclose(found[0, 0, 0], expected, rtol=tolerance, atol=0)
