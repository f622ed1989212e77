"""What holds of many variants of the library at once: merges of split keys, symmetries, causality, hulls, shifts of scores."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_papers import sample

from attnc import variants
from attnc.compile import lower
from attnc.fuzz.compare import farthest
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.tile.merge import obstacle
from attnc.viz.catalogue import entry

SHAPE = (2, 4, 2, 7, 9, 4, 3)  # B, Hq, Hkv, Lq, Lk, D, Dv
NAMES = list(variants.__all__)
ANYWHERE = [name for name in NAMES if not {"i", "j"} & set(getattr(variants, name).signature.roles)]
CAUSAL = [name for name in NAMES if entry(name).keys in ("up to its own", "window")] + [
    "block_sparse", "chunked", "mixed_windows", "shared_prefix",
]  # fmt: skip
MEANS = [name for name in NAMES if sum(x.op == "softmax" for x in getattr(variants, name).graph.nodes()) == 1] + [
    "taylor"
]
GATED = ("alphafold",)
SUNK = ("learned_sink", "softmax1", "polynomial")  # weights of less than 1 in all
ADDED = {"additive_mask": "M", "alphafold": "pair", "cosine": "B", "graphormer": "path", "positional": "R"}


def test_the_lists_are_those_of_the_library() -> None:
    assert {"full", "l2_distance", "sigmoid", "softmax1", "bahdanau"} <= set(ANYWHERE)
    assert {"causal", "alibi", "retention", "differential", "sliding_window", "t5", "rope", "mla"} <= set(CAUSAL)
    assert len(ANYWHERE) > 10 and len(CAUSAL) > 15 and len(MEANS) > 30


@settings(max_examples=150, deadline=None)
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
    q, k, v, operands = sample(name, shape, seed=seed)
    variant = getattr(variants, name)
    call = bind(variant.signature, q, k, v, operands, "bhld")
    graph = variant._trace(call)
    program = lower(graph)
    assert obstacle(program) == ""
    cuts = np.sort(np.random.default_rng(seed).integers(0, shape[4] + 1, count - 1))
    whole = interpret(graph, call.inputs)
    assert farthest(whole, run(program, call.inputs, tile=tile, part=[*cuts.tolist(), shape[4]])) <= 1e-11


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


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("shift", [3.0, -700.0, 1e4])
def test_a_softmax_does_not_see_what_is_added_to_a_row(name: str, shift: float) -> None:
    q, k, v, operands = sample(name, SHAPE)
    variant, added = getattr(variants, name), ADDED[name]
    table = operands[added]
    rows = shift * np.random.default_rng(2).uniform(0.5, 1, table.shape[:-1])[..., None]
    whole = variant.reference(q, k, v, **operands)
    found = variant.reference(q, k, v, **{**operands, added: table + rows})
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-13 + 1e-15 * abs(shift))
