"""Few queries against many keys: heads of a group in one tile, keys split over blocks and merged; the exact source, emulated."""

import importlib
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from running import run
from test_cuda_variants import NAMES, SQUARE, sample

import attnc as at
import attnc.variants as library
from attnc.backends.cuda.emulate.faults import Fault
from attnc.bench.analysis import counting
from attnc.compile import cuda_form, lower
from attnc.dsl.trace import trace
from attnc.runtime.binding import bind
from attnc.schedule.short import Form

sys.path.append(str(Path(__file__).parents[1] / "unit"))
masks = importlib.import_module("masks")

BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
RNG = np.random.default_rng(9)


@masks.masked
def per_head_window(h, i, j, *, width: at.Tensor["h", int]):
    return at.abs(i + at.kv_len - at.q_len - j) < width[h]


@at.attention
def staircase(q, k, v, i, j):
    """Query 0 has no keys, the others ever more: parts are empty for some rows, or for all."""
    return at.softmax(at.dot(q, k), where=(j < 600 * i) & (j % 512 < 200)) @ v


@at.attention
def many(q, k, v, h, i, j, *, bias: at.Tensor["h", "i"], slopes: at.Tensor["h"], w: at.Tensor["h", "d"]):
    """A sink and rows that depend on the head; a count, a maximum, a minimum and a plain sum beside a softmax."""
    s = at.dot(q, k) * 0.2 + bias[h, i] + at.sin(0.1 * (j * h))
    seen = j <= 40 * i + 60
    return (
        at.softmax(s, where=seen, sink=slopes[h]) @ v,
        at.sum(at.where(seen, 1, 0), over="j"),
        at.max(s * slopes[h], over="j"),
        at.min(s, over="j"),
        at.where(seen, at.sigmoid(s), 0.0) @ v,
        at.sum(w[h] * q, over="d"),
    )


@at.attention
def two_sweeps(q, k, v):
    s = at.dot(q, k)
    return at.softmax(at.tanh(s - at.max(s, over="j"))) @ v


def operands(variant, Hq, Lq, D):
    if variant is per_head_window:
        return {"width": RNG.integers(0, 400, Hq)}
    if variant is many:
        r = RNG.standard_normal
        return {"bias": r((Hq, Lq)), "slopes": r(Hq), "w": r((Hq, D))}
    return {}


def call(variant, dtype, B=1, Hq=8, Hkv=2, Lq=1, Lk=600, D=32, Dv=32):
    if isinstance(variant, str):
        q, k, v, given = sample(variant, dtype, 3, B, Hq, Hkv, Lq, Lk, D, Dv)
        if variant == "sliding_window":
            given = {"window": 300}
        return getattr(library, variant), q, k, v, given
    q, k, v, _ = sample("full", dtype, 3, B, Hq, Hkv, Lq, Lk, D, Dv)
    return variant, q, k, v, operands(variant, Hq, Lq, D)


def form_of(variant, q, k, v, given):
    """The form that attnc chooses for a call."""
    bound = bind(variant.signature, q, k, v, given)
    graph = trace(
        variant.function, variant.signature, kinds=bound.kinds, constants=bound.constants, absent=bound.absent
    )
    return cuda_form(lower(graph), bound.inputs.extents)


BOTH, KEYS, HEADS = Form(True, True, 1), Form(False, True, 1), Form(True, False, 1)
CASES = {
    "one query": ("causal", BF16, {}, BOTH),
    "8:1": ("causal", F16, {"Hkv": 1, "Lq": 3, "Lk": 700}, Form(True, True, 4)),
    "8:2": ("full", BF16, {"Hkv": 2, "Lq": 3, "Lk": 257}, BOTH),
    "12:3": ("causal", F32, {"Hq": 12, "Hkv": 3, "Lq": 2, "Lk": 301, "D": 16, "Dv": 24}, BOTH),
    "16 queries": ("causal", BF16, {"Hq": 4, "Lq": 16, "Lk": 400}, Form(True, True, 4)),
    "more than a tile of rows": ("causal", BF16, {"Hkv": 1, "Lq": 16, "Lk": 300}, Form(True, True, 4)),
    "no group": ("causal", F16, {"Hq": 2, "Lq": 3, "Lk": 1000}, KEYS),
    "one key": ("causal", BF16, {"Lk": 1}, HEADS),
    "more queries than keys": ("causal", BF16, {"Lq": 4, "Lk": 2}, HEADS),
    "unequal head dims": ("causal", F16, {"Lq": 2, "Lk": 300, "D": 24, "Dv": 40}, BOTH),
    "odd head dims": ("causal", BF16, {"Lq": 2, "Lk": 300, "D": 7, "Dv": 13}, BOTH),
    "window": ("sliding_window", BF16, {"Lq": 3, "Lk": 1000}, BOTH),
    "soft-cap": ("soft_cap", F32, {"Lq": 2, "Lk": 400, "D": 16, "Dv": 16}, BOTH),
    "ALiBi": ("alibi", BF16, {"Lq": 3, "Lk": 500}, BOTH),
    "T5": ("t5", F16, {"Lq": 3, "Lk": 500}, BOTH),
    "documents": ("document", BF16, {"B": 2, "Hq": 4, "Lq": 2, "Lk": 600}, BOTH),
    "a window per head": (per_head_window, BF16, {"Hq": 4, "Lq": 2, "Lk": 600}, KEYS),
    "empty rows": (staircase, BF16, {"Lq": 8, "Lk": 900}, Form(True, True, 4)),
    "several states": (many, F32, {"Hq": 4, "Lq": 3, "Lk": 600, "D": 24, "Dv": 24}, BOTH),
    "several states in 16 bits": (many, F16, {"Hq": 4, "Lq": 3, "Lk": 300}, BOTH),
    "two sweeps": (two_sweeps, BF16, {"Hq": 4, "Lq": 2, "Lk": 300}, HEADS),
}


@pytest.mark.parametrize("name", CASES)
def test_a_short_call_is_right(name):
    kind, dtype, shape, expected = CASES[name]
    variant, q, k, v, given = call(kind, dtype, **shape)
    form = form_of(variant, q, k, v, given)
    assert form == expected
    one = kind not in (many, two_sweeps)
    found = run(variant, q, k, v, given, form=form, lse=one and name != "8:2").report()
    assert found.ok, str(found)


@pytest.mark.parametrize("seed", range(8))
def test_any_short_shape_is_right(seed):
    rng = np.random.default_rng(seed)
    heads, group = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 5, 8]))
    lengths = {"Lq": int(rng.integers(1, 17)), "Lk": int(rng.integers(1, 1001))}
    dims = {"D": int(rng.integers(1, 41)), "Dv": int(rng.integers(1, 41))}
    name = rng.choice(["causal", "alibi", "sliding_window", "document"])
    variant, q, k, v, given = call(str(name), BF16, Hq=heads * group, Hkv=heads, **lengths, **dims)
    found = run(variant, q, k, v, given, form=form_of(variant, q, k, v, given), lse=True).report()
    assert found.ok, str(found)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SQUARE])
def test_a_variant_of_the_library_is_right(name):
    variant, q, k, v, given = call(name, BF16, Hq=4, Hkv=2, Lq=2, Lk=530)
    form = form_of(variant, q, k, v, given)
    assert form.split
    found = run(variant, q, k, v, given, form=form).report()
    assert found.ok, str(found)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_reaches_the_rows_that_read_it(value):
    variant, q, k, v, given = call("causal", F16, Hq=4, Lq=2, Lk=520)
    k[0, 0, 519] = value  # the last query's own key, of a part that holds few others
    v[0, 1, 300, 0] = value
    out = run(variant, q, k, v, given, form=BOTH).outputs[0]
    expected = variant.reference(q, k, v)
    assert (np.isnan(out) == np.isnan(expected))[:, 2:].all() and not np.isfinite(out[:, 2:, :, 0]).any()
    assert np.isnan(out[:, :2, 1]).all() and np.isfinite(out[:, 2:, :, 1:]).all()


def test_rows_that_are_not_aligned():
    variant, q, k, v, given = call("causal", F16, Lq=2, Lk=300)
    found = run(variant, q, k, v, given, form=BOTH, aligned=False)
    assert "copy16" not in found.source.text and found.report().ok


def test_rows_without_keys_are_zero_and_their_lse_is_minus_infinity():
    variant, q, k, v, given = call(staircase, F16, Hq=4, Lq=3, Lk=700)
    out, lse = run(variant, q, k, v, given, form=BOTH, lse=True).outputs
    assert not out[:, :, 0].any() and np.isneginf(lse[:, :, 0]).all()
    assert out[:, :, 1:].any(axis=-1).all() and np.isfinite(lse[:, :, 1:]).all()


@pytest.mark.parametrize("form", [BOTH, KEYS], ids=["shared", "apart"])
def test_bits_do_not_depend_on_the_batch(form):
    variant, q, k, v, given = call("causal", BF16, B=3, Hq=4, Lq=2, Lk=550)
    whole = run(variant, q, k, v, given, form=form).outputs[0]
    alone = run(variant, q[1:2], k[1:2], v[1:2], given, form=form).outputs[0]
    assert whole[1:2].tobytes() == alone.tobytes()


def test_heads_of_a_group_agree_with_heads_apart():
    """The same numbers in the same order, wherever a row lies."""
    variant, q, k, v, given = call("alibi", BF16, Hq=6, Lq=3, Lk=500)
    shared, apart = (run(variant, q, k, v, given, form=form).outputs[0] for form in (BOTH, KEYS))
    assert shared.tobytes() == apart.tobytes()


@pytest.mark.parametrize(
    "variant, given, form",
    [
        (library.sliding_window, {"window": 300}, BOTH),
        (library.causal, {}, BOTH),
        (library.document, {"doc": np.sort(RNG.integers(0, 6, (2, 1000)))}, BOTH),
        (per_head_window, {"width": np.array([3, 400, 90, 0])}, KEYS),
        (staircase, {}, BOTH),
    ],
    ids=["window", "causal", "documents", "per-head window", "staircase"],
)
def test_all_parts_together_visit_the_tiles_that_are_not_empty(variant, given, form):
    q, k = (RNG.standard_normal((2, heads, n, 16)).astype(BF16) for heads, n in ((4, 4), (2, 1000)))
    full, some = run(variant, q, k, k, given, change=counting, form=form).outputs
    tiles = variant.blocks(q, k, k, tile=(4, 64), **given).to_dense()
    assert ((full + some).astype(int) == (tiles != 0).sum(-1)).all()
    assert (full.astype(int) == (tiles[..., :-1] == 2).sum(-1)).all()


FAULTS = {
    "not rescaled": ("mul(scale, load_f32(", "mul(1.0, load_f32("),
    "sums of some parts alone": ("l_2 = add(l_2, shuffle_f(l_2, 16))", "pass"),
    "maxima of some parts alone": ("m_2 = maximum(m_2, shuffle_f(m_2, 8))", "pass"),
    "a part left out": ("lt(part, parts)", "lt(part + 1, parts)"),
    "parts without keys": ("ne(load_i64(address), 0)", "eq(0, 0)"),
    "wrong place": ("records + minimum(part", "records + 16 + minimum(part"),
    "wrong row": ("(b * heads + h) * q_len + i0) * parts", "(b * heads + h) * q_len) * parts"),
    "wrong head": ("= kv * group + mod(x, group)", "= kv * group + mod(x + 1, group)"),
    "wrong keys": ("maximum(cursor, part * length)", "cursor"),
    "a part too long": ("minimum(stop, (part + 1) * length)", "minimum(stop, (part + 2) * length)"),
    "a row too many": ("ni = minimum(16, q_len * group - row0)", "ni = 16"),
}


def faulty():
    """A call with two empty parts of five, of which the others have very different maxima."""
    variant, q, k, v, given = call(staircase, F32, Hq=2, Hkv=1, Lq=3, Lk=1100, D=8, Dv=8)
    return variant, q, k * np.linspace(0, 2, 1100, dtype=F32)[:, None], v, given


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name):
    old, new = FAULTS[name]
    variant, q, k, v, given = faulty()
    places = []

    def edit(text):
        places.append(text.count(old))
        return text.replace(old, new)

    try:
        found = run(variant, q, k, v, given, form=BOTH, edit=edit, lse=True).report()
    except Fault:
        found = None
    assert sum(places) and (found is None or not found.ok)


def test_without_a_fault_that_call_is_right():
    variant, q, k, v, given = faulty()
    assert run(variant, q, k, v, given, form=BOTH, lse=True).report().ok
