"""Calls with few queries against the reference: heads of a group in one tile, features in the lanes, keys in parts."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  (NumPy's bfloat16)
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernel import STRIDED, bahdanau, cosine, counting, differential, hamming, local, luong, projected, statistics

import attnc as at
from attnc import variants
from attnc.schedule.cpu_form import LEAST, PARTS, PLAIN, Can, choose, part, parts
from attnc.schedule.cpu_form import most as rows_of_few
from attnc.schedule.target import host

KEYS = (65, 511, 512, 513, 1100)  # around the ends of parts and tiles
WIDE = (65, 2049)  # where rows are not few: before and after a part
LONG = PARTS * LEAST + 1


@at.attention
def faded(q, k, v, h, i, j, *, slopes: at.Tensor["h"]):
    """ALiBi, aligned to the last key."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) - slopes[h] * at.abs(p - j), where=j <= p) @ v


@at.attention
def packed(q, k, v, b, i, j, *, doc: at.Tensor["b", "j", int]):
    """Documents: which tiles of keys are empty is read off the extremes of a table."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * 0.3, where=(doc[b, j] == doc[b, p]) & (j <= p)) @ v


@at.attention
def distances(q, k, v, h, i, j, *, table: at.Tensor["h", "n"]):
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)) + table[h, j - i + at.q_len - 1]) @ v


@at.attention
def two_outputs(q, k, v):
    """No softmax, and two outputs."""
    w = at.sigmoid(at.dot(q, k) * at.rsqrt(at.size(q)) - 3)
    total = at.sum(w, over="j")
    return w @ v / at.maximum(total, 1), total / at.kv_len


@at.attention
def chosen(q, k, v, h, j, *, marks: at.Tensor["h", "n", bool], block: int = 64):
    """Each query head has keys of its own: a group cannot share a tile."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=marks[h, j // block]) @ v


@at.attention
def gated_squares(q, k, v, i, j):
    """Rectified scores over their sum, which may be 0; and the largest score."""
    s = at.where(j <= i + at.kv_len - at.q_len, at.dot(q, k) * at.rsqrt(at.size(q)), -1.0)
    w = at.relu(s) ** 2
    total = at.sum(w, over="j")
    return w @ v / at.where(total == 0, 1.0, total), at.max(s, over="j")


def floats(rng: np.random.Generator, *shape: int, dtype: str = "float32") -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


@dataclass(frozen=True)
class Case:
    """shapes: (queries, heads of a group). Each form among them is a kernel. operands: of rng, heads, queries, keys."""

    variant: at.Attention
    dtype: str
    d: int
    e: int
    shapes: tuple[tuple[int, int], ...]
    lse: bool = False
    operands: Callable[[np.random.Generator, int, int, int], dict[str, Any]] = lambda *_: {}
    keys: tuple[int, ...] = KEYS


def documents(rng: np.random.Generator, heads: int, q_len: int, kv_len: int) -> dict[str, Any]:
    return {"doc": np.cumsum(rng.random((1 if kv_len == LONG else 2, kv_len)) < 0.01, axis=1)}


CASES = {
    "softmax": Case(
        variants.full, "float32", 128, 128, ((1, 4), (2, 4), (16, 4), (8, 1), (9, 1), (17, 4)), lse=True, keys=(*KEYS, LONG)
    ),
    "soft cap": Case(variants.soft_cap, "float16", 64, 64, ((1, 7), (2, 2), (3, 4)), operands=lambda *_: {"cap": 5.0}),
    "window": Case(local, "bfloat16", 72, 8, ((2, 4), (8, 1)), lse=True, operands=lambda *_: {"window": 300}, keys=(*KEYS, LONG)),
    "slopes": Case(
        faded, "float64", 17, 17, ((1, 4), (2, 2), (3, 2)), lse=True, keys=(*KEYS, LONG),
        operands=lambda rng, heads, *_: {"slopes": rng.uniform(0, 0.02, heads)},
    ),
    "documents": Case(packed, "float32", 8, 1, ((3, 2), (15, 2)), operands=documents, keys=(*KEYS, LONG)),
    "distances": Case(
        distances, "float32", 1, 64, ((2, 4), (15, 4)),
        operands=lambda rng, heads, lq, lk: {"table": floats(rng, heads, lq + lk - 1)},
    ),
    "two sweeps": Case(statistics, "float32", 64, 17, ((1, 2), (8, 1))),
    "two outputs": Case(two_outputs, "float16", 17, 72, ((3, 2), (9, 1)), keys=(*KEYS, LONG)),
    "squares": Case(gated_squares, "bfloat16", 64, 64, ((2, 2), (16, 7))),
    "additive": Case(
        bahdanau, "float32", 8, 8, ((1, 4), (9, 2)),
        operands=lambda rng, *_: {"u": floats(rng, 7), "wq": floats(rng, 8, 7), "wk": floats(rng, 8, 7)},
    ),
    "two softmaxes": Case(
        differential, "float32", 16, 128, ((2, 4), (16, 1)), operands=lambda rng, heads, *_: {"lam": floats(rng, heads)}
    ),
    "marks by head": Case(
        chosen, "float64", 72, 64, ((1, 2), (15, 4)), lse=True,
        operands=lambda rng, heads, _, lk: {"marks": rng.random((heads, -(-lk // 64))) < 0.3},
    ),
    "matrices by head": Case(
        luong, "float32", 16, 1, ((2, 4),), operands=lambda rng, heads, *_: {
            "wh": floats(rng, heads, 16, 16) / 4, "wk": floats(rng, 16, 16) / 4
        },
    ),
    "whole numbers": Case(counting, "float32", 8, 17, ((2, 2),)),
    "whole numbers of features": Case(hamming, "float16", 17, 8, ((3, 2),)),
    "normalised keys": Case(cosine, "bfloat16", 128, 72, ((1, 7), (9, 1))),
    "projected values": Case(
        projected, "float32", 17, 12, ((2, 2),), operands=lambda rng, *_: {"wv": floats(rng, 12, 9), "wo": floats(rng, 9, 5)}
    ),
}  # fmt: skip


def inputs(
    q_len: int,
    kv_len: int,
    heads: tuple[int, int],
    d: int,
    e: int,
    dtype: str = "float32",
    batch: int = 2,
    seed: int = 0,
) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, q_len, kv_len])
    shapes = ((batch, heads[0], q_len, d), (batch, heads[1], kv_len, d), (batch, heads[1], kv_len, e))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_calls_with_few_queries(name: str) -> None:
    """The first number of queries meets all lengths, the others every second."""
    case = CASES[name]
    for n, (q_len, group) in enumerate(case.shapes):
        for kv_len in case.keys if n == 0 else WIDE if q_len * group > 8 else KEYS[n % 2 :: 2]:
            kv_heads, batch = (2, 2) if kv_len != LONG else (1, 1)
            heads = (kv_heads * group, kv_heads)
            arrays = inputs(q_len, kv_len, heads, case.d, case.e, case.dtype, batch)
            operands = case.operands(np.random.default_rng(kv_len), heads[0], q_len, kv_len)
            extra = {"return_lse": True} if case.lse else {}
            report = case.variant.verify(*arrays, **operands, **extra)
            assert report.ok, f"{q_len} queries, groups of {group}, {kv_len} keys: {report}"
    assert {x.form for x in case.variant._compiled.values()} - {PLAIN}, "no kernel for few queries was tried"


@pytest.mark.parametrize("kv_len", [0, 1, 17, 63, 64, 65])
def test_few_keys_too(kv_len: int) -> None:
    for q_len in (1, 2):
        arrays = inputs(q_len, kv_len, (4, 2), 64, 64)
        assert local.verify(*arrays, return_lse=True).ok


def decode(q_len: int = 1, kv_len: int = 1100, heads: tuple[int, int] = (8, 2), batch: int = 2) -> list[np.ndarray]:
    return inputs(q_len, kv_len, heads, 64, 64, batch=batch)


@settings(max_examples=20, deadline=None)
@given(
    q_len=st.integers(1, 8),
    kv_len=st.integers(65, 1300),
    kv_heads=st.integers(1, 2),
    batch=st.integers(1, 2),
    group=st.sampled_from([1, 2, 4, 7]),
    window=st.one_of(st.integers(0, 5), st.integers(0, 1400)),
)
def test_any_lengths(q_len: int, kv_len: int, kv_heads: int, batch: int, group: int, window: int) -> None:
    arrays = inputs(q_len, kv_len, (kv_heads * group, kv_heads), 64, 64, batch=batch)
    report = local.verify(*arrays, window=window, return_lse=True)
    assert report.ok, report


@pytest.mark.parametrize("q_len", [1, 2, 16])
@pytest.mark.parametrize("kv_len", [100, 1100, LONG])
def test_bits_do_not_depend_on_threads_runs_or_the_batch(q_len: int, kv_len: int) -> None:
    q, k, v = decode(q_len, kv_len, batch=3)
    before = at.get_num_threads()
    want = local(q, k, v, window=kv_len, return_lse=True)
    try:
        for threads in (1, 2, 3):
            at.set_num_threads(threads)
            for _ in range(4):
                for x, y in zip(local(q, k, v, window=kv_len, return_lse=True), want, strict=True):
                    np.testing.assert_array_equal(x, y)
            for n in range(3):
                alone = local(q[n : n + 1], k[n : n + 1], v[n : n + 1], window=kv_len, return_lse=True)
                for x, y in zip(alone, want, strict=True):
                    np.testing.assert_array_equal(x[0], y[n])
            one = local(q[:, 4:], k[:, 1:], v[:, 1:], window=kv_len)
            np.testing.assert_array_equal(one, want[0][:, 4:])
    finally:
        at.set_num_threads(before)


def test_callers_in_several_threads() -> None:
    """Parts are counted and merged in memory of each caller."""
    calls = [(decode(kv_len=600 + 300 * n), n) for n in range(4)]
    want = [local(*arrays, window=900) for arrays, _ in calls]
    wrong: list[int] = []

    def call(arrays: list[np.ndarray], n: int) -> None:
        for _ in range(20):
            if not np.array_equal(local(*arrays, window=900), want[n]):
                wrong.append(n)

    threads = [threading.Thread(target=call, args=c) for c in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("name", STRIDED)
def test_strides_do_not_matter_to_few_queries(name: str) -> None:
    view = STRIDED[name]
    for q_len in (1, 2, 16):
        q, k, v = decode(q_len, 700)
        want = local(q, k, v, window=600, return_lse=True)
        for arrays in [(view(q), view(k), view(v)), (view(q), k, v), (q, k, view(v))]:
            for x, y in zip(local(*arrays, window=600, return_lse=True), want, strict=True):
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("place", [name for name in STRIDED if name != "unaligned"])
def test_out_of_few_queries_is_written_where_it_lies(place: str) -> None:
    q, k, v = decode(2, 700)
    want = local(q, k, v)
    target = STRIDED[place](np.full(want.shape, 7, np.float32))
    owner = target if target.base is None else target.base
    outside = int(np.isnan(owner).sum())
    assert local(q, k, v, out=target) is target
    np.testing.assert_array_equal(target, want)
    assert int(np.isnan(owner).sum()) == outside, "places beside the view were written"


def test_layouts_shared_batches_and_tensors() -> None:
    q, k, v = decode(2, 700)
    want = local(q, k, v)
    turned = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v)]
    np.testing.assert_array_equal(local(*turned, layout="blhd").swapaxes(1, 2), want)
    np.testing.assert_array_equal(local(*map(torch.from_numpy, (q, k, v))).numpy(), want)
    np.testing.assert_array_equal(local(q[0], k[0], v[0]), want[0])
    repeated = [np.repeat(x[:1], 2, axis=0) for x in (k, v)]
    np.testing.assert_array_equal(local(q, k[:1], v[:1]), local(q, *repeated))


@pytest.mark.parametrize("q_len", [1, 2, 16])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_masked_is_not_seen(q_len: int, bad: float) -> None:
    """NaN and infinity in K and V where no query looks; of a part that others look at, and of a part that nobody does."""
    kv_len = 1100 if q_len < 16 else 2600
    q, k, v = decode(q_len, kv_len)
    window = 300  # the first key that a query sees lies inside a part
    want = local(q, k, v, window=window, return_lse=True)
    hidden = kv_len - window - q_len + 1
    k[:, :, :hidden], v[:, :, :hidden] = bad, bad
    for x, y in zip(local(q, k, v, window=window, return_lse=True), want, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("q_len", [2, 16])
def test_what_one_query_sees_reaches_it_alone(q_len: int) -> None:
    """The last key is the last query's: NaN in it reaches that row, in the tile that all rows share."""
    q, k, v = decode(q_len, 1100 if q_len < 16 else 2600)
    want = local(q, k, v, window=2000)
    for array in (k, v):
        kept = array[:, :, -1, 3].copy()
        array[:, :, -1, 3] = np.nan
        found = local(q, k, v, window=2000)
        np.testing.assert_array_equal(found[:, :, :-1], want[:, :, :-1])
        assert np.isnan(found[:, :, -1, 3]).all() and np.isnan(found[:, :, -1]).all() == (array is k)
        array[:, :, -1, 3] = kept


@pytest.mark.parametrize("q_len", [1, 2, 16])
def test_rows_with_nothing_to_attend_to(q_len: int) -> None:
    arrays = decode(q_len, 2600)
    out, lse = local(*arrays, window=0, return_lse=True)
    assert not out.any() and np.isneginf(lse).all()
    marks = np.zeros((8, 41), bool)
    marks[1] = True  # one head of a group attends, the others to nothing
    out, lse = chosen(*arrays, marks=marks, return_lse=True)
    assert not out[:, 0].any() and np.isneginf(lse[:, 0]).all() and np.isfinite(lse[:, 1]).all()


@given(
    q_len=st.integers(1, 40),
    kv_len=st.integers(0, 1 << 20),
    group=st.integers(1, 16),
    width=st.sampled_from([2, 4, 8, 16]),
    features=st.integers(1, 2000),
    few=st.booleans(),
    can=st.builds(Can, st.booleans(), st.booleans(), st.booleans()),
)
def test_forms(q_len: int, kv_len: int, group: int, width: int, features: int, few: bool, can: Can) -> None:
    """Parts cover the keys; nothing is done that a program does not allow; more queries than 16 take the plain kernel."""
    length, count = part(kv_len, few), parts(kv_len, few)
    assert length * (count - 1) < max(kv_len, 1) <= length * count and count <= PARTS and length % LEAST == 0
    form = choose({"q_len": q_len, "kv_len": kv_len, "group": group}, width, features, can)
    assert form.share <= (can.share and group > 1) and form.split <= can.split and form.long <= can.stream
    if q_len > 16:
        assert form == PLAIN


def plan(variant: at.Attention, q_len: int, kv_len: int, heads: tuple[int, int], d: int = 16, **operands: Any) -> str:
    return variant.explain(*inputs(q_len, kv_len, heads, d, d), **operands)


def test_explain_says_which_form_a_call_takes() -> None:
    """What a program refuses is said; the kernel is then another one, and no less right (`test_calls_with_few_queries`)."""
    most = rows_of_few(host().vector_bytes // 4)
    assert f"few queries: 4 of at most {most} rows, so products have features in {2 * most} lanes" in plan(
        local, 2, 1100, (4, 2)
    )
    assert "keys are not split: they are no more than 2048" in plan(local, 16, 2048, (4, 2))
    found = plan(local, 16, 5000, (4, 2))
    assert f"32 rows are more than {most}: products have rows in the lanes" in found
    assert "rows are the queries of all 2 query heads that share a key-value head" in found
    assert "keys are split into 3 parts of 2048, whose states the thread that ends the last one merges" in found
    assert "no more than 64 keys" in plan(local, 1, 64, (4, 2))
    assert "few" not in plan(local, 17, 1100, (4, 2)) and "tiles of" in plan(local, 17, 1100, (4, 2))
    assert "keys are not split over threads: its 2 sweeps over the keys need" in plan(statistics, 1, 1100, (2, 2))
    marks = np.ones((4, 18), bool)
    assert "share no tile: which tiles of keys are empty depends on the head" in plan(
        chosen, 1, 1100, (4, 2), marks=marks
    )
    matrices = {"wh": np.ones((4, 16, 16), np.float32), "wk": np.ones((16, 16), np.float32)}
    assert "share no tile: queries are projected by a matrix" in plan(luong, 1, 1100, (4, 2), **matrices)
    assert "share no tile: what is computed for a key" in plan(cosine, 1, 1100, (4, 2))
    assert "more than 64 vectors of features" in plan(local, 1, 100, (1, 1), d=64 * 16 + 1)
