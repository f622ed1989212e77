"""Partial tiles in blocks of queries, each with keys of its own: every kind of state, mask, length and schedule."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_calls import EXACT, NEARLY
from test_sweep import (
    FALSE,
    FAR,
    I0,
    I1,
    J0,
    J1,
    SCHEDULE,
    Case,
    I,
    J,
    attention,
    called,
    causal,
    classes,
    classified,
    compiled,
    emitted,
    fixed,
    joined,
    needed,
    only,
    op,
    scalar,
    sums,
    window,
)

import attnc as at
from attnc.compile import lower
from attnc.interp import Inputs, interpret
from attnc.ir.graph import const
from attnc.schedule.cpu_form import CpuForm
from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target

HEADS, D, E = 2, 6, 5
LENGTHS = (1, 17, 63, 65, 127, 129, 200)
SCHEDULES = {
    "chosen": None,
    "narrow": Schedule(rows=32, keys=128, width=8, tile=(6, 2)),
    "single": Schedule(rows=48, keys=32, width=16, tile=(6, 1)),
    "uneven": Schedule(rows=48, keys=40, width=16, tile=(12, 2)),
}


def near(h: Any, i: Any, j: Any, window: Any) -> Any:
    """A causal window per head that ends with the last key; of no keys at all where it is 0 or less."""
    p = i + at.kv_len - at.q_len
    return (j <= p) & (p - j < window[h])


def softmax(q, k, v, h, i, j, *, window: at.Tensor["h", int]):
    return at.softmax(at.dot(q, k), where=near(h, i, j, window)) @ v


def ends_from_tables(q, k, v, b, i, j, *, first: at.Tensor["b", "i", int]):
    return at.softmax(at.dot(q, k), where=(first[b, i] <= j) & (j <= i)) @ v


def several(q, k, v, h, i, j, *, window: at.Tensor["h", int]):
    """Sums with a running maximum and without one, over masks that differ, in one sweep."""
    s, mask = at.dot(q, k), near(h, i, j, window)
    rest = at.softmax(2 * s, where=mask & (j % 3 != 1), sink=0.5) @ v
    return at.softmax(s, where=mask & (j > 4)) @ v, rest, at.where(mask, at.sigmoid(s), 0.0) @ v


def statistics(q, k, v, h, i, j, *, window: at.Tensor["h", int]):
    """Whole numbers, sums, maxima, minima."""
    s, mask = at.dot(q, k), near(h, i, j, window)
    most, least = at.max(at.where(mask, s, -at.inf), over="j"), at.min(at.where(mask, s, at.inf), over="j")
    return at.sum(mask, over="j"), at.sum(at.where(mask, 3 * j - i, 0), over="j"), most, least


def two_sweeps(q, k, v, h, i, j, *, window: at.Tensor["h", int]):
    s, mask = at.dot(q, k), near(h, i, j, window)
    mean = at.sum(at.where(mask, s, 0.0), over="j") / at.kv_len
    return at.softmax(at.tanh(s - mean), where=mask) @ v


def additive(q, k, v, h, i, j, *, window: at.Tensor["h", int], wq: at.Tensor["d", "r"], wk: at.Tensor["d", "r"]):
    """Sums over features per pair, per query and per key, and work that depends on the key alone."""
    s = at.sum(at.tanh(q @ wq + k @ wk), over="r") + at.sum(k * k, over="d") * at.cos(0.1 * j)
    return at.softmax(s, where=near(h, i, j, window)) @ at.tanh(v)


def whole_numbers(q, k, v, h, i, j, *, window: at.Tensor["h", int]):
    """Whole numbers per pair, which are read again after the weights are known."""
    differ, mask = at.sum((q > 0) != (k > 0), over="d"), near(h, i, j, window)
    w = at.softmax(-0.5 * differ, where=mask)
    return w @ v, at.sum(w * differ, over="j"), at.sum(at.where(mask, differ, 0), over="j")


def counted(q, k, v, i, j, *, size: int):
    """No mask: weights that are 0 far away, so that every tile that is not empty runs the same body."""
    return ((j <= i) & (i - j < size)) * 0.5 @ v


STATES = (softmax, ends_from_tables, several, statistics, two_sweeps, additive, whole_numbers, counted)


def operands(variant: at.Attention, rng: np.random.Generator, q_len: int, windows: list[int]) -> dict[str, Any]:
    """Values for what the variant declares."""
    made = {
        "window": np.array(windows),
        "first": np.sort(rng.integers(-5, q_len + 5, (1, q_len)), axis=1),
        "size": max(windows[0], 1),
        "wq": rng.standard_normal((D, 3), np.float32),
        "wk": rng.standard_normal((D, 3), np.float32),
    }
    return {name: x for name, x in made.items() if name in inspect.signature(variant.function).parameters}


CALLS = st.fixed_dictionaries({
    "q_len": st.sampled_from(LENGTHS), "kv_len": st.sampled_from(LENGTHS),
    "windows": st.lists(st.sampled_from((-3, 0, 1, 2, 16, 31, 33, 64, 100, 129, 500)), min_size=HEADS, max_size=HEADS),
    "bad": st.lists(st.tuples(st.integers(0, 199), st.sampled_from((np.nan, np.inf, -np.inf)))),
    "seed": st.integers(0, 99),
})  # fmt: skip


def check(variant: at.Attention, call: dict[str, Any], dtype: str, lse: bool) -> None:
    """One call against the reference, with values that are no finite numbers at some keys."""
    rng = np.random.default_rng(call["seed"])
    q, k, v = (
        rng.standard_normal((1, HEADS, call[length], n)).astype(dtype)
        for length, n in (("q_len", D), ("kv_len", D), ("kv_len", E))
    )
    for key, value in call["bad"]:
        v[:, key % HEADS, key % call["kv_len"], key % E] = value
    report = variant.verify(q, k, v, return_lse=lse, **operands(variant, rng, call["q_len"], call["windows"]))
    assert report.ok, f"{report}, errors {report.errors}, allowed {report.bounds}"


def blocked(variant: at.Attention, dtype: str = "float32", rows: int = 3) -> bool:
    """Whether the kernel works on blocks of queries."""
    q, k, v = (np.zeros((1, HEADS, rows, n), dtype) for n in (D, D, E))
    text = variant.source(q, k, v, **operands(variant, np.random.default_rng(0), rows, [4, 4]))
    return "for x0 in range(0, nx," in text


OTHERS = [(softmax, "float64"), (several, "float16")]


@pytest.mark.parametrize(
    ("function", "dtype"), [*((f, "float32") for f in STATES), *OTHERS], ids=lambda x: getattr(x, "__name__", x)
)
def test_every_state(function: Callable[..., Any], dtype: str) -> None:
    variant = at.attention(function)
    assert blocked(variant, dtype)

    @settings(max_examples=20, deadline=None, database=None, derandomize=True)
    @given(CALLS)
    def calls(call: dict[str, Any]) -> None:
        check(variant, call, dtype, function is softmax)

    calls()


@pytest.mark.parametrize("name", [name for name in SCHEDULES if SCHEDULES[name]])
@pytest.mark.parametrize("function", [softmax, whole_numbers], ids=lambda f: f.__name__)
def test_every_schedule(function: Callable[..., Any], name: str) -> None:
    """Vectors of 8, blocks of one vector, tiles that blocks do not divide."""
    variant = at.attention(function)

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(CALLS)
    def calls(call: dict[str, Any]) -> None:
        check(variant, call, "float32", False)

    module = importlib.import_module("attnc.compile")
    own = module.choose

    def choose(target: Target, itemsize: int, features: Mapping[str, int], form: CpuForm) -> Schedule | None:
        return own(target, itemsize, features, form) if form.few else SCHEDULES[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose", choose)
        assert blocked(variant)
        calls()


MASKS = (
    "bottom-right causal", "window", "prefix-LM", "packed causal documents", "natten 1-D", "dilated window",
    "per-head window",
)  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_published_attentions(name: str) -> None:
    """The average over the keys that are needed, whose worths tell each of them: the scores are 0."""
    rng = np.random.default_rng(0)
    for case in ({**EXACT, **NEARLY})[name]:
        q, k = (np.zeros((case.batch, case.heads, n, D), np.float32) for n in (case.q_len, case.kv_len))
        v = rng.standard_normal((case.batch, case.heads, case.kv_len, E), np.float32)
        report = case.variant.verify(q, k, v, **case.operands)
        assert report.ok, f"{case}: {report}"


def test_values_of_keys_that_a_block_skips_do_not_matter() -> None:
    """NaN at every key that a block of queries does not need, one block after the other: the others' rows see it."""
    variant = at.attention(softmax)
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 1, 128, n), np.float32) for n in (D, D, E))
    window = np.array([30])
    clean = variant(q, k, v, window=window)
    for i0 in range(0, 128, 8):
        bad = v.copy()
        bad[:, :, : max(i0 - 29, 0)] = np.nan
        bad[:, :, i0 + 8 :] = np.nan
        found = variant(q, k, bad, window=window)
        np.testing.assert_allclose(found[:, :, i0 : i0 + 8], clean[:, :, i0 : i0 + 8], rtol=1e-5, atol=1e-6)
        assert np.isnan(found[:, :, min(i0 + 8, 127)]).all() == (i0 < 120)


# Blocks of 8 queries; blocks of 16, the last of a tile of 8.
BLOCKS = (replace(SCHEDULE, tile=(6, 1)), replace(SCHEDULE, rows=24))


def holes() -> Case:
    """Four keys of five of a window, whose ends are a hull; the first may lie before the keys."""
    a, c = scalar("a"), scalar("c")
    low, high = op("maximum", op("sub", I0, a), -2), op("add", I1, c)
    return Case(
        joined("and", op("le", op("sub", I, a), J), op("le", J, op("add", I, c)), op("ne", op("mod", J, 5), 1)),
        op("and", op("le", low, J1), op("le", J0, high)), FALSE,
        tuple(fixed(a=a, c=c) for a, c in ((30, 0), (0, 0), (7, -3), (-5, 60), (FAR, -20), (-20, FAR), (20, -30))),
        lengths=((1, 1), (70, 129), (33, 300)), hull=(low, high),
    )  # fmt: skip


PARTS = {f.__name__: f for f in (window, causal, holes)}


@pytest.mark.parametrize("schedule", BLOCKS, ids=lambda s: f"{s.rows}x{s.tile[1]}")
@pytest.mark.parametrize("name", PARTS)
def test_a_block_of_queries_takes_the_keys_between_its_ends(name: str, schedule: Schedule) -> None:
    """Of a partial tile; a full one is taken whole."""
    case, rng = PARTS[name](), np.random.default_rng(2)
    program = classified(case, sums(1.0), sums(3.0))
    source, _ = emitted(program, case.dtypes, schedule)
    assert source.count("for x0 in range(0, nx,") == 1
    kernel, block = compiled(program, case.dtypes, schedule), schedule.tile[1] * schedule.width
    parts = 0
    for q_len, kv_len in case.lengths:
        worth = rng.integers(1, 2**36, kv_len).astype(float)
        q, k, v = (np.zeros((1, 1, n, 1)) for n in (q_len, kv_len, kv_len))
        v[0, 0, :, 0] = worth
        for draw in case.inputs:
            inputs = Inputs(q, k, v, draw(rng, q_len, kv_len))
            factor = np.repeat(classes(only(program), inputs, schedule.rows)[0], schedule.rows, axis=0)[:q_len]
            for tile in range(0, q_len, schedule.rows):
                for i0 in range(tile, min(tile + schedule.rows, q_len), block):
                    rows = slice(i0, min(i0 + block, tile + schedule.rows, q_len))
                    outside = np.ones(kv_len, bool)
                    outside[list(needed(only(program), inputs, 0, i0, rows.stop - 1))] = False
                    left_out = (factor[rows] == 3.0) & outside
                    factor[rows][left_out] = 0.0
                    parts += left_out.sum()
            np.testing.assert_array_equal(called(kernel, inputs)[0, 0], factor @ worth, f"{q_len} x {kv_len}")
    assert parts > 0


@pytest.mark.parametrize("schedule", BLOCKS, ids=lambda s: f"{s.rows}x{s.tile[1]}")
@pytest.mark.parametrize("name", PARTS)
def test_blocks_do_not_change_the_result(name: str, schedule: Schedule) -> None:
    case, rng = PARTS[name](), np.random.default_rng(3)
    graph = attention(case.mask)
    kernel = compiled(classified(case, lower(attention()), lower(graph)), case.dtypes, schedule)
    for q_len, kv_len in case.lengths[:3]:
        q, k, v = (rng.standard_normal((1, 1, n, 1)) for n in (q_len, kv_len, kv_len))
        for draw in case.inputs:
            inputs = Inputs(q, k, v, draw(rng, q_len, kv_len))
            (wanted,) = interpret(graph, inputs)
            np.testing.assert_allclose(called(kernel, inputs), wanted[..., 0], rtol=1e-9, atol=1e-12)


def test_one_block_needs_no_loop() -> None:
    """Where the products take all queries at once, or no end depends on the rows."""
    fixed_end = replace(causal(), run=(const(0), scalar("a")))
    for case, schedule in ((causal(), SCHEDULE), (fixed_end, BLOCKS[0])):
        source, _ = emitted(classified(case, sums(1.0), sums(3.0)), {}, schedule)
        assert "x0" not in source
