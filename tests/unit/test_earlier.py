"""Tiles whose weights are relative to the maximum of earlier tiles: scores that rise, jump, and begin late."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.compile import lower
from attnc.tile.earlier import earlier
from attnc.tile.program import DotAcc, Map, Reduce, RowMap, SetRow, reads
from attnc.variants import alibi, causal, differential, full, learned_sink, mixed_windows, soft_cap

KEYS = 128  # of a tile, or more
LANES = Map | Reduce | RowMap | SetRow


def bodies(variant: at.Attention):  # type: ignore[no-untyped-def]
    """The bodies of the sweeps of a variant, as (statements on pairs, products)."""
    for keys in lower(variant.graph).sweeps:
        for body in (keys.full, keys.partial):
            if body:
                yield [s for s in body if isinstance(s, LANES)], [s for s in body if isinstance(s, DotAcc)]


@at.attention
def with_largest(q, k, v):
    p = at.softmax(at.dot(q, k))
    return p @ v, at.max(p, over="j")


@at.attention
def by_hand(q, k, v):
    w = at.exp(at.dot(q, k))
    return w @ v / at.sum(w, over="j")


@at.attention
def two_softmaxes(q, k, v, i, j):
    s = at.dot(q, k)
    return at.softmax(s, where=j <= i) @ v - 0.5 * at.softmax(0.3 * s) @ v


@at.attention
def plain_sums(q, k, v):
    return at.sigmoid(at.dot(q, k)) @ v


@pytest.mark.parametrize("variant", [full, causal, soft_cap, alibi, learned_sink, by_hand, differential, mixed_windows])
def test_bodies_of_a_softmax_need_no_maximum_of_their_own(variant: at.Attention) -> None:
    for statements, products in bodies(variant):
        found = earlier(statements, products)
        assert found is not None
        names = {x.top for x in found.exponents}
        assert not any(names & reads(s) for s in (*found.before, *found.loop, *found.after))
        assert {name for x in found.exponents for name in x.products} == {s.accumulator for s in products}
        assert all(x.sums for x in found.exponents)


@pytest.mark.parametrize("variant", [with_largest, plain_sums])
def test_other_sums_take_the_maximum_of_each_tile(variant: at.Attention) -> None:
    assert all(earlier(*body) is None for body in bodies(variant))


def scored(scores: np.ndarray, dtype: str = "float32", features: int = 8):  # type: ignore[no-untyped-def]
    """q, k, v of one head whose scores are the given ones for each key, for queries that see them 1, 1 - 1/64, ... fold."""
    rng = np.random.default_rng(0)
    n = len(scores)
    q, k = np.zeros((1, 1, 70, features)), np.zeros((1, 1, n, features))
    q[0, 0, :, 0] = 1 - np.arange(70) / 128
    k[0, 0, :, 0] = scores * np.sqrt(features)
    v = rng.standard_normal((1, 1, n, features))
    return [x.astype(dtype) for x in (q, k, v)]


def agrees(variant: at.Attention, *inputs: np.ndarray, **operands: object) -> None:
    if inputs[0].dtype == "float64":  # the naive program is the reference there, and has no errors to compare with
        assert np.abs(variant(*inputs, **operands) - variant.reference(*inputs, **operands)).max() < 1e-10
        return
    report = variant.verify(*inputs, **operands)
    assert report.ok, report


STEPS = [0.0, 3.0, 5.6, 30.0, 44.0, 45.0, 61.0, 400.0, 3e4, -20.0, -300.0]  # near, far and beyond, in nats


@pytest.mark.parametrize(
    ("dtype", "step"), [(dtype, x) for dtype in ("float32", "float64") for x in STEPS] + [("float16", 45.0)]
)
def test_scores_that_rise_from_tile_to_tile(dtype: str, step: float) -> None:
    n = 6 * KEYS + 17
    scores = step * (np.arange(n) // KEYS) + np.sin(np.arange(n))
    for variant in (full, causal):
        agrees(variant, *scored(scores, dtype))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-60.0, -8.0, 0.0, 2.0, 6.0, 20.0, 43.0, 46.0, 70.0, 700.0]), min_size=2, max_size=7),
    st.sampled_from(["float32", "float64"]), st.integers(1, KEYS), st.booleans(),
)  # fmt: skip
def test_scores_that_jump(steps: list[float], dtype: str, rest: int, ramp: bool) -> None:
    tiles = np.cumsum(steps)
    at_key = np.repeat(tiles, KEYS)[: (len(tiles) - 1) * KEYS + rest]
    if ramp:
        at_key = np.interp(np.arange(len(at_key)), np.arange(len(tiles)) * KEYS, tiles)
    q, k, v = scored(at_key + np.cos(np.arange(len(at_key))), dtype)
    agrees(full, q, k, v)
    out, lse = full(q, k, v, return_lse=True)
    assert np.isfinite(out).all()
    want = full.reference(q, k, v, return_lse=True)[1]
    assert np.abs(lse - want).max() <= 4e-6 * np.abs(want).max() + 1e-5


def test_rows_do_not_see_their_neighbours() -> None:
    """Whether a tile is done in one loop or two is decided by all its queries; the bits of a query do not tell."""
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((1, 2, n, 32)).astype("float32") for n in (64, 1000, 1000))
    base = full(q, k, v)
    for factor in (30, 300, 3000):
        other = q.copy()
        other[:, :, 1::2] *= factor
        assert (full(other, k, v)[:, :, ::2] == base[:, :, ::2]).all()


@pytest.mark.parametrize("step", [0.0, 20.0, 60.0, 500.0])
def test_values_that_leave_the_range_of_sums(step: float) -> None:
    """Weights up to 2**64 times values of 1e25 are infinite; the sweep is done again, each tile with its own maximum."""
    n = 5 * KEYS
    q, k, v = scored(step * (np.arange(n) // KEYS))
    agrees(full, q, k, (v * 1e25).astype("float32"))
    out = full(q, k, np.full_like(v, 1e35))
    assert np.isfinite(out).all()


def test_keys_that_begin_late() -> None:
    """Rows whose first tiles are masked have no reference yet; a score that is infinite or NaN spoils its own row."""

    @at.attention
    def late(q, k, v, i, j, *, begin: at.Tensor["i", int], live: at.Tensor["j", bool]):
        return at.softmax(at.dot(q, k), where=(begin[i] <= j) & live[j]) @ v

    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, 2, n, 16)).astype("float32") for n in (130, 900, 900))
    begin = rng.integers(0, 950, 130)
    live = np.ones(900, bool)
    live[: 2 * KEYS] = False
    agrees(late, q, k, v, begin=begin, live=live)
    assert (late(q, k, v, begin=np.full(130, 901), live=live) == 0).all()
    for odd in (np.nan, np.inf):
        bad = k.copy()
        bad[0, 0, 600] = odd
        agrees(late, q, bad, v, begin=begin, live=live)
        clean = begin > 600
        assert np.isfinite(late(q, bad, v, begin=begin, live=live)[0, 0, clean]).all()
        bad = v.copy()
        bad[0, 1, 700] = odd
        agrees(late, q, k, bad, begin=begin, live=live)


@pytest.mark.parametrize(("variant", "short"), [(full, True), (causal, True), (alibi, True), (soft_cap, False)])
def test_which_kernels_have_one_loop(variant: at.Attention, short: bool) -> None:
    x = np.zeros((1, 2, 300, 16), "float32")
    operands = {"slopes": np.ones(2)} if variant is alibi else {}
    assert ("if risen:" in variant.source(x, x, x, **operands)) == short


def test_several_softmaxes() -> None:
    rng = np.random.default_rng(7)
    n = 700
    q, k, v = (rng.standard_normal((1, 2, n, 32)).astype("float32") for _ in range(3))
    k *= np.repeat(np.linspace(0.2, 40, 7), 100)[:, None].astype("float32")
    agrees(two_softmaxes, q, k, v)
