"""f.blocks and explain: what they say of tiles agrees with the dense mask, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc import variants
from attnc.errors import OperandError, ShapeError
from attnc.interp import Interpreter, align
from attnc.runtime.binding import bind


@at.attention
def per_head(q, k, v, b, h, i, j, *, lengths: at.Tensor["b", int], window: int):
    """Windows that widen with the head, over keys of a length for each batch."""
    return at.softmax(at.dot(q, k), where=(at.abs(i - j) < window * (h + 1)) & (j < lengths[b])) @ v


@at.attention
def striped(q, k, v, i, j, *, period: int):
    return at.softmax(at.dot(q, k), where=((i - j) % period == 0) & (j <= i)) @ v


@at.attention
def scored(q, k, v, i, j):
    s = at.dot(q, k)
    return at.where((s > 0.5) & (j <= i), s * s, 0) @ v


@at.attention
def two_sweeps(q, k, v, i, j):
    s = at.dot(q, k)
    return at.softmax(at.tanh(s - at.max(s, over="j")), where=j <= i) @ v


def zeros(length, heads=1, batch=1, d=8):
    return np.broadcast_to(np.zeros((), np.float32), (batch, heads, length, d))


def dense(variant, q, k, operands):
    """The mask of the one softmax at every pair, (B,H,Lq,Lk)."""
    bound = bind(variant.signature, q, k, k, operands)
    (softmax,) = (x for x in variant._trace(bound).nodes() if x.op == "softmax")
    x = bound.inputs.extents
    (mask,) = Interpreter(bound.inputs, np.float64, 0, x["q_len"]).run([softmax.operands[1]])
    return np.broadcast_to(align(mask, ("b", "h", "i", "j")), (x["batch"], x["heads"], x["q_len"], x["kv_len"]))


def tiles_of(mask, tile):
    """Pairs and live pairs of each tile, (B,H,rows,columns)."""
    found = []
    for x in (np.ones_like(mask, int), mask.astype(int)):
        for axis, step in ((2, tile[0]), (3, tile[1])):
            x = np.add.reduceat(x, np.arange(0, mask.shape[axis], step), axis=axis)
        found.append(x)
    return found


def call(name, rng, q_len, kv_len):
    """A variant with operands for 2 batches of 4 heads."""
    doc = np.sort(rng.integers(0, 5, (2, kv_len)), axis=1)
    choices = {
        "causal": (variants.causal, {}),
        "window": (variants.sliding_window, {"window": int(rng.integers(1, kv_len + 1))}),
        "document": (variants.document, {"doc": doc}),
        "shuffled": (variants.document, {"doc": rng.permuted(doc, axis=1)}),
        "per head": (per_head, {"lengths": rng.integers(0, kv_len + 1, 2), "window": int(rng.integers(0, 9))}),
        "striped": (striped, {"period": int(rng.integers(1, 40))}),
    }
    return choices[name]


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(["causal", "window", "document", "shuffled", "per head", "striped"]),
    lengths=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    tile=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_tile_called_empty_or_full_is_wrong(name, lengths, tile, seed):
    variant, operands = call(name, np.random.default_rng(seed), *lengths)
    q, k = zeros(lengths[0], 4, 2), zeros(lengths[1], 2, 2)
    found = variant.blocks(q, k, tile=tile, **operands)
    pairs, live = tiles_of(dense(variant, q, k, operands), tile)
    classes = found.to_dense()
    assert classes.dtype == np.int8 and classes.shape == found.shape == pairs.shape
    assert not live[classes == 0].any()
    np.testing.assert_array_equal(live[classes == 2], pairs[classes == 2])
    assert (found.empty, found.partial, found.full) == tuple(int((classes == n).sum()) for n in range(3))
    assert found.visited == found.partial + found.full and found.sparsity == found.empty / classes.size
    partial = classes == 1
    masked = (pairs - live)[partial].sum() / max(pairs[partial].sum(), 1)
    assert found.waste.exact and found.wasted == pytest.approx(masked, abs=1e-12)
    uniform = (live == 0) | (live == pairs)
    assert found.waste.uniform * partial.sum() == found.waste.tiles * (uniform & partial).sum()


def test_counts_are_of_the_tiles_that_a_mask_has():
    """Causal at 16 x 16 in tiles of 4: what the bound finds there is exact, and always was."""
    found = variants.causal.blocks(zeros(16, 3, 2), zeros(16), tile=(4, 4))
    assert found.shape == (2, 3, 4, 4) and found.tile == (4, 4)
    assert (found.visited, found.full, found.partial, found.empty) == (60, 36, 24, 36)
    assert all(type(x) is int for x in (found.visited, found.full, found.partial, found.empty))
    assert found.sparsity == 0.375 and found.wasted == 6 / 16


def test_the_default_tile_is_the_kernels():
    q = zeros(300, d=16)
    shown = variants.causal.explain(q, q, q).splitlines()[1]
    rows, keys = variants.causal.blocks(q, q).tile
    assert f"tiles of {rows} queries x {keys} keys" in shown


def test_text_is_the_map_of_a_head():
    q = zeros(16)
    lines = str(variants.causal.blocks(q, q, tile=(4, 4))).splitlines()
    assert lines[0] == "causal, sweep 0: 10 of 16 tiles of 4 x 4 visited (6 full, 4 partial), 37.5% empty"
    assert lines[1] == "b = 0, h = 0: . empty, ▒ partial, █ full"
    assert lines[2:] == ["▒...", "█▒..", "██▒.", "███▒"]
    found = per_head.blocks(zeros(8, 2, 2), zeros(8, 2, 2), tile=(4, 4), lengths=np.array([8, 3]), window=1)
    for (b, h), classes in zip(np.ndindex(2, 2), found.to_dense().reshape(4, 2, 2), strict=True):
        assert found.text(b, h).splitlines()[2:] == ["".join(".▒█"[code] for code in row) for row in classes]
    assert found.text(0, 0) != found.text(1, 0)
    for b, h in ((2, 0), (0, -1)):
        with pytest.raises(ShapeError, match=f"no head b = {b}, h = {h}"):
            found.text(b, h)


def test_large_maps_are_drawn_coarser():
    q = zeros(4096)
    found = variants.causal.blocks(q, q, tile=(16, 32))  # 256 x 128 tiles
    lines = str(found).splitlines()
    assert "a character is 4 x 2 tiles" in lines[1] and "░ several classes" in lines[1]
    assert len(lines) == 66 and {len(line) for line in lines[2:]} == {64}
    classes = found.to_dense()[0, 0].reshape(64, 4, 64, 2)
    for n, line in enumerate(lines[2:]):
        for m, letter in enumerate(line):
            here = set(classes[n, :, m].ravel().tolist())
            assert letter == (".▒█"[here.pop()] if len(here) == 1 else "░")


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_cells_count_every_tile_once(side):
    """Also where the last cell holds fewer tiles."""
    q, k = zeros(70), zeros(44)
    found = variants.causal.blocks(q, k, tile=(10, 4))
    classes, cells = found.to_dense()[0, 0], found.cells(side)
    high, wide = -(-7 // side), -(-11 // side)
    assert cells.shape == (-(-7 // high), -(-11 // wide))
    for (n, m), code in np.ndenumerate(cells):
        here = set(classes[n * high : (n + 1) * high, m * wide : (m + 1) * wide].ravel().tolist())
        assert code == (here.pop() if len(here) == 1 else 3)


def test_what_scores_decide_is_not_counted_as_full_or_wasted():
    q = zeros(16)
    found = scored.blocks(q, q, tile=(4, 4))
    assert (found.full, found.partial, found.empty) == (0, 10, 6)
    assert found.waste.masked == 4 * 6 and found.waste.pairs == 160


def test_every_sweep_has_a_map():
    q = zeros(16)
    first, second = (two_sweeps.blocks(q, q, tile=(4, 4), sweep=n) for n in (0, 1))
    assert (first.full, first.partial, first.sweep) == (16, 0, 0)  # the maximum runs over all keys
    assert (second.full, second.partial, second.sweep) == (6, 4, 1)
    assert not first.wasted and first.waste.exact
    for n in (2, -1, "1"):
        with pytest.raises(ShapeError, match=r"has no sweep[\s\S]*sweeps the keys 2 times"):
            two_sweeps.blocks(q, q, sweep=n)


@pytest.mark.parametrize("tile", [(0, 4), (4,), 4, (4, 4.0), "ab", (True, 2)])
def test_what_is_no_tile_is_refused(tile):
    with pytest.raises(ShapeError, match=r"tile = [\s\S]*where:.*test_blocks.py[\s\S]*cure:"):
        variants.causal.blocks(zeros(4), zeros(4), tile=tile)


def test_a_map_that_would_not_fit_is_refused_and_still_counted():
    q = zeros(1 << 20)
    found = variants.full.blocks(q, q, tile=(16, 16))
    assert found.full == found.total == 1 << 32 and found.sparsity == 0 and found.wasted == 0
    with pytest.raises(ShapeError, match=r"too many for a dense map[\s\S]*cure:"):
        found.to_dense()
    assert str(found).endswith("█" * 64)


def test_inputs_are_checked_as_in_a_call():
    with pytest.raises(ShapeError, match="head dims of Q and K differ"):
        variants.causal.blocks(zeros(4), zeros(4, d=3))
    with pytest.raises(OperandError, match="'doc' is missing"):
        variants.document.blocks(zeros(4), zeros(4))
    with pytest.raises(ShapeError, match="K and V of different length"):
        variants.causal.blocks(zeros(4), zeros(4), zeros(5))


def test_v_may_be_left_out_even_where_an_operand_is_as_wide():
    @at.attention
    def scaled(q, k, v, i, j, *, w: at.Tensor["e"]):
        return at.softmax(at.dot(q, k), where=j <= i) @ (v * w)

    q = zeros(8)
    found = scaled.blocks(q, q, tile=(4, 4), w=np.ones(5))
    assert (found.full, found.partial) == (1, 2)
    assert scaled.blocks(q, q, zeros(8, d=5), tile=(4, 4), w=np.ones(5)).visited == 3
    with pytest.raises(ShapeError, match="'w' has 2 dimensions"):
        scaled.blocks(q, q, tile=(4, 4), w=np.ones((5, 1)))


def test_layout_and_rank():
    q, k = zeros(4, 12, 2), zeros(4, 20, 2)  # as (B, L, H, D): 12 queries, 20 keys, 4 heads
    assert variants.causal.blocks(q, k, layout="blhd", tile=(4, 4)).shape == (2, 4, 3, 5)
    assert variants.causal.blocks(q[0, 0], k[0, 0], tile=(4, 4)).shape == (1, 1, 1, 1)


def test_an_operand_called_tile_is_the_operand():
    @at.attention
    def tiled(q, k, v, i, j, *, tile: int, sweep: int = 1):
        return at.softmax(at.dot(q, k), where=i // tile == j // tile * sweep) @ v

    q = zeros(256)
    found = tiled.blocks(q, q, tile=64)
    assert found.tile == variants.causal.blocks(q, q).tile
    _, live = tiles_of(dense(tiled, q, q, {"tile": 64}), found.tile)
    np.testing.assert_array_equal(found.to_dense() > 0, live > 0)
    with pytest.raises(OperandError, match="'tile' is missing"):
        tiled.blocks(q, q)


def test_no_keys():
    found = variants.causal.blocks(zeros(9), zeros(0), tile=(4, 4))
    assert found.shape == (1, 1, 3, 0) and found.total == found.visited == 0 and found.sparsity == 0
    assert found.to_dense().shape == found.shape and "no keys" in str(found) and not found.wasted


def test_masks_that_read_a_head_the_classes_do_not_are_sampled_over_heads():
    @at.attention
    def parity(q, k, v, h, i, j):
        return at.softmax(at.dot(q, k), where=((i * i * j + h * j) % 2 == 0) & (j <= i)) @ v

    q = zeros(16, 2)
    found = parity.blocks(q, q, tile=(4, 4))
    pairs, live = tiles_of(dense(parity, q, q, {}), (4, 4))
    partial = found.to_dense() == 1
    assert found.wasted == pytest.approx((pairs - live)[partial].sum() / pairs[partial].sum())


# -- explain


def test_explain_counts_and_names_what_stays_undecided():
    q = zeros(512)
    text = striped.explain(q, q, q, period=3)
    assert " empty" in text and "of the pairs inside partial tiles are masked: wasted work" in text
    assert "is evaluated in every visited tile: it depends on more than positions" in scored.explain(q, q, q)


def test_explain_says_which_table_is_unsorted():
    q, rng = zeros(2048), np.random.default_rng(0)
    doc = np.repeat(np.arange(16), 128)[None]
    unsorted = "doc is not sorted along j: tiles whose entries overlap stay partial"
    assert unsorted in variants.document.explain(q, q, q, doc=rng.permuted(doc, axis=1))
    assert unsorted not in variants.document.explain(q, q, q, doc=doc)
    padded = np.where(np.arange(2048) < 2000, doc, -1)
    assert unsorted not in variants.document.explain(q, q, q, doc=padded)


def test_explain_and_blocks_of_a_million_keys():
    """Neither the pairs nor the tiles of all pairs would fit in memory, or be done in the time of a test."""
    q = zeros(1 << 20, d=64)
    text = variants.sliding_window.explain(q, q, q, window=1024)
    found = variants.sliding_window.blocks(q, q, window=1024)
    assert f"{found.visited} of {found.total} tiles visited" in text and "that were looked at" in text
    assert found.sparsity > 0.99 and not found.waste.exact and found.waste.tiles == 2048
