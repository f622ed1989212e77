"""What holds of many variants of the library at once: merges of split keys, symmetries, causality, hulls, shifts of scores."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_papers import EPS, FORMULAS, exact, kernel_call, sample

import attnc as at
from attnc import variants
from attnc.compile import lower
from attnc.fuzz.compare import farthest
from attnc.interp import interpret
from attnc.ir.graph import const, node, substitute
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.tile.merge import obstacle
from attnc.viz.catalogue import entry

SHAPE = (2, 4, 2, 7, 9, 4, 3)  # B, Hq, Hkv, Lq, Lk, D, Dv
NAMES = list(variants.__all__)
ANYWHERE = [name for name in NAMES if not {"i", "j"} & set(getattr(variants, name).signature.roles)]
# What a property does not hold for is listed, so that a new variant is asked for each until somebody says that it has not got it.
SEES_LATER = {
    "additive_mask", "alphafold", "bahdanau", "bigbird", "block_diffusion", "cosine", "cross", "dilated_window", "document",
    "factorized_positional", "full", "gat", "gatv2", "gqa", "graphormer", "l2_distance", "longformer", "luong_general", "natten",
    "positional", "prefix_lm", "rbf", "relu", "relu_squared", "rope_2d", "sigmoid", "sliding_tile", "softmax1", "taylor",
    "temperature", "tupe",
}  # fmt: skip
NO_MEAN = {
    "differential",
    "mixed_windows",
    "rbf",
    "relu",
    "relu_squared",
    "retention",
    "sigmoid",
    "ssd",
    "unnormalised",
}
CAUSAL = [name for name in NAMES if name not in SEES_LATER]
MEANS = [name for name in NAMES if name not in NO_MEAN]
SOFTMAXES = [
    name for name in NAMES
    if (found := [x for x in getattr(variants, name).graph.nodes() if x.op == "softmax"]) and not any(x["sink"] for x in found)
]  # fmt: skip
GATED = ("alphafold",)
SUNK = ("learned_sink", "softmax1", "polynomial")  # weights of less than 1 in all
WEIGHING = {  # normalisers and what else a sweep keeps, by the variants that have them
    "softmax": "full", "another softmax under a mask": "document", "softmax1": "softmax1", "sink": "learned_sink",
    "sigmoid": "sigmoid", "squared relu": "relu_squared", "retention's norm": "retention", "Taylor": "taylor",
    "polynomial": "polynomial", "none": "unnormalised", "two softmaxes": "differential", "two windows": "mixed_windows",
    "features": "linear", "decays of steps": "ssd",
}  # fmt: skip


def test_the_lists_are_those_of_the_library() -> None:
    """Names of the library, none of them because of what another list says; a few whose place is known."""
    assert set(NAMES) >= SEES_LATER | NO_MEAN | set(SUNK) | set(GATED) | set(WEIGHING.values())
    assert {"full", "l2_distance", "sigmoid", "softmax1", "bahdanau"} <= set(ANYWHERE)
    derived = {name for name in NAMES if entry(name).keys in ("up to its own", "window")}
    assert derived - {"t5"} <= set(CAUSAL), "the kernels themselves leave later keys out"
    assert {"block_sparse", "chunked", "mixed_windows", "shared_prefix", "t5"} <= set(CAUSAL)
    assert len(ANYWHERE) > 10 and len(SOFTMAXES) > 35 and not set(SUNK) & set(SOFTMAXES)


def merged(name: str, shape: tuple[int, ...], cuts: list[int], tile: tuple[int, int], seed: int) -> float:
    """How far the merged parts of a sweep are from the whole."""
    q, k, v, operands = sample(name, shape, seed=seed)
    variant = getattr(variants, name)
    call = bind(variant.signature, q, k, v, operands, "bhld")
    graph = variant._trace(call)
    program = lower(graph)
    assert obstacle(program) == ""
    return farthest(interpret(graph, call.inputs), run(program, call.inputs, tile=tile, part=cuts))


@pytest.mark.parametrize("count", range(2, 8))
@pytest.mark.parametrize("kind", WEIGHING)
def test_every_normaliser_merges_from_two_to_seven_parts(kind: str, count: int) -> None:
    """At random places; one part has no keys: the last of 3, 5, 7, the first of 4 and 6, of 2 by chance."""
    ends = np.sort(np.random.default_rng([count, *kind.encode()]).integers(0, 20, count - 1)).tolist()
    ends = [*ends, 19] if count == 2 else [*ends[1:], 19, 19] if count % 2 else [0, *ends[1:], 19]
    assert len(ends) == count
    assert merged(WEIGHING[kind], (1, 2, 1, 4, 19, 3, 2), ends, (2, 3), count) <= 1e-11


@at.attention
def extremes(q, k, v):
    """What a sweep keeps beside a softmax: a maximum, a minimum, sums of other powers."""
    s = at.dot(q, k)
    p = at.softmax(s)
    return p @ v, at.max(s, over="j"), at.min(s, over="j"), at.max(p, over="j"), at.sum(p * p, over="j")


@pytest.mark.parametrize("ends", [[0, 9], [4, 4, 9], [1, 2, 3, 4, 5, 8, 9], [9, 9]])
def test_maxima_minima_and_other_rows_merge(ends: list[int]) -> None:
    q, k, v, _ = sample("full", SHAPE)
    call = bind(extremes.signature, q, k, v, {}, "bhld")
    graph = extremes._trace(call)
    assert farthest(interpret(graph, call.inputs), run(lower(graph), call.inputs, tile=(3, 2), part=ends)) <= 1e-12


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    q_len=st.integers(1, 4),
    kv_len=st.integers(0, 12),
    count=st.integers(2, 7),
    tile=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 10**6),
)
def test_keys_split_anywhere_merge_to_the_whole(
    name: str, q_len: int, kv_len: int, count: int, tile: Any, seed: int
) -> None:
    """In 2 to 7 parts, some of them empty, with cuts inside of tiles."""
    shape = (1, 2, 1, q_len, max(q_len, kv_len) if name in ("natten", "sliding_tile") else kv_len, 3, 2)
    cuts = np.sort(np.random.default_rng(seed).integers(0, shape[4] + 1, count - 1))
    assert merged(name, shape, [*cuts.tolist(), shape[4]], tile, seed) <= 1e-11


@pytest.mark.parametrize("name", ANYWHERE)
def test_what_reads_no_position_does_not_care_for_the_order(name: str) -> None:
    """The order of keys changes nothing; the order of queries is that of the rows."""
    q, k, v, operands = sample(name, SHAPE)
    variant, rng = getattr(variants, name), np.random.default_rng(1)
    whole = variant.reference(q, k, v, **operands)
    keys, queries = rng.permutation(SHAPE[4]), rng.permutation(SHAPE[3])
    axes = {key: x.axes for key, x in variant.signature.operands.items()}
    moved = {key: np.take(x, queries, axes[key].index("i")) if "i" in axes[key] else x for key, x in operands.items()}
    np.testing.assert_allclose(
        variant.reference(q, k[:, :, keys], v[:, :, keys], **operands), whole, rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        variant.reference(q[:, :, queries], k, v, **moved), whole[:, :, queries], rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("name", CAUSAL)
def test_what_is_causal_does_not_see_later_keys(name: str) -> None:
    """Not even where they are NaN, in k, v and the operands of keys."""
    shape = (2, 4, 2, 9, 9, 4, 3)
    q, k, v, operands = sample(name, shape)
    operands |= {"bidirectional": False} if name == "t5" else {}
    variant = getattr(variants, name)
    whole = variant.reference(q, k, v, **operands)
    axes = {key: x.axes for key, x in variant.signature.operands.items()}
    for first in (1, 4, 8):
        worse = {}
        for key, x in operands.items():
            worse[key] = x
            if "j" in axes[key] and x.dtype.kind == "f":
                worse[key] = x.copy()
                np.moveaxis(worse[key], axes[key].index("j"), 0)[first:] = np.nan
        changed = [np.where(np.arange(9)[:, None] < first, x, np.nan) for x in (k, v)]
        found = variant.reference(q, *changed, **worse)
        np.testing.assert_array_equal(found[:, :, :first], whole[:, :, :first])
        assert np.isnan(found[:, :, first:]).any() or name in ("block_sparse", "shared_prefix")


@pytest.mark.parametrize("name", [name for name in MEANS if name not in GATED])
def test_outputs_are_in_the_hull_of_the_values(name: str) -> None:
    """Weights, the outputs for one-hot values, are not negative and sum to 1: less where a sink has its share, 0 in an empty row."""
    q, k, _, operands = sample(name, SHAPE if name not in ("natten", "sliding_tile") else (2, 4, 2, 9, 9, 4, 3))
    eye = np.broadcast_to(np.eye(k.shape[2]), (*k.shape[:2], k.shape[2], k.shape[2]))
    weights = getattr(variants, name).reference(q, k, eye, **operands)
    assert (weights >= 0).all()
    total = weights.sum(-1)
    if name in SUNK:
        assert (total < 1).all() and total.max() > 0.1
    else:
        assert np.isclose(total, np.where((weights == 0).all(-1), 0, 1), rtol=0, atol=1e-13).all()


@pytest.mark.parametrize("name", SOFTMAXES)
@pytest.mark.parametrize("shift", [3.0, -700.0, 1e4])
def test_a_softmax_does_not_see_what_is_added_to_a_row(name: str, shift: float) -> None:
    """To the scores of every softmax, another number for each head and query."""
    q, k, v, operands = sample(name, SHAPE if name not in ("natten", "sliding_tile") else (2, 4, 2, 9, 9, 4, 3))
    variant = getattr(variants, name)
    call = bind(variant.signature, q, k, v, operands, "bhld")
    graph = variant._trace(call)
    place = node("add", node("index", name="i"), node("index", name="h"))
    row = node("mul", const(shift / 16), node("add", node("cast", place, kind="float"), const(8.0)))
    scores = {x.operands[0] for x in graph.nodes() if x.op == "softmax"}
    outputs = substitute(graph.outputs, {x: node("add", x, row) for x in scores})
    found = interpret(replace(graph, outputs=outputs), call.inputs)
    np.testing.assert_allclose(found[0], interpret(graph, call.inputs)[0], rtol=0, atol=1e-13 + 1e-14 * abs(shift))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in sorted(FORMULAS) if name in {*ANYWHERE, *CAUSAL}])
def test_kernels_have_these_properties(name: str) -> None:
    """The one kernel of each formula: the order of keys, NaN in later keys, weights of a mean."""
    (q, k, v), operands = kernel_call(name)
    variant = getattr(variants, name)
    whole, near = exact(variant(q, k, v, **operands)), 8 * EPS[q.dtype.name]
    largest = max(1.0, abs(whole).max())
    axes = {key: x.axes for key, x in variant.signature.operands.items()}
    if name in ANYWHERE:
        keys, queries = (np.random.default_rng(1).permutation(n) for n in (k.shape[2], q.shape[2]))
        found = exact(variant(q, k[:, :, keys], v[:, :, keys], **operands))
        np.testing.assert_allclose(found, whole, rtol=0, atol=near * largest)
        moved = {
            key: np.take(x, queries, axes[key].index("i")) if "i" in axes[key] else x for key, x in operands.items()
        }
        found = exact(variant(q[:, :, queries], k, v, **moved))
        np.testing.assert_allclose(found, whole[:, :, queries], rtol=0, atol=near * largest)
    if name in CAUSAL:
        late = np.arange(k.shape[2])[:, None] >= 100  # the first 39 queries are before
        changed = [np.where(late, np.asarray(np.nan, x.dtype), x) for x in (k, v)]
        worse = dict(operands)
        for key in [x for x in operands if "j" in axes[x] and operands[x].dtype.kind not in "biu"]:
            worse[key] = operands[key].copy()
            np.moveaxis(worse[key], axes[key].index("j"), 0)[100:] = np.nan
        found = exact(variant(q, *changed, **worse))
        np.testing.assert_allclose(found[:, :, :39], whole[:, :, :39], rtol=0, atol=near * largest)
        assert np.isnan(found[:, :, 39:]).any()
    if name in MEANS and name not in GATED:
        values = exact(v).repeat(q.shape[1] // v.shape[1], 1)
        low, high = values.min(2, keepdims=True), values.max(2, keepdims=True)
        if name in SUNK:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        assert ((whole >= low - near * largest) & (whole <= high + near * largest)).all()
