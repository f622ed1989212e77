"""Linear time: the reassociated form gives what the pairs give, at every level, and is refused by name where it cannot be had."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (NumPy's bfloat16)
import numpy as np
import pytest
from linear_variants import VARIANTS, operands, random, random_operands

import attnc as at
from attnc import variants
from attnc.backends.cpu import past_pieces
from attnc.backends.cpu.room import Pieces
from attnc.compile import lower
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.schedule import cpu_form
from attnc.tile.interp import run
from attnc.variants.samples import examples_of

LIBRARY = ("linear", "retention", "ssd", "unnormalised")
TILES = ((1, 1), (3, 4), (16, 5))
LENGTHS = ((9, 9), (5, 12), (12, 5), (1, 7), (7, 1))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call takes the linear form that can."""
    monkeypatch.setattr(cpu_form, "LINEAR", 0.0)


@pytest.fixture
def in_pieces(always: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Pieces of 64 keys; kernels with such pieces lie in a cache of their own, and variants that know them must be new ones."""
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    for module in (cpu_form, past_pieces):
        monkeypatch.setattr(module, "PIECE", 64)
    yield


def sample(
    f: Any, q_len: int, kv_len: int, d: int = 5, e: int = 3, seed: int = 0, dtype: str = "float64", heads: int = 2
) -> Any:
    """q, k, v and operands, for two batches, two query heads for each key-value head."""
    rng = np.random.default_rng(seed)
    shapes = (2, heads, q_len, d), (2, heads // 2, kv_len, d), (2, heads // 2, kv_len, e)
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    name = f.__name__
    if name in LIBRARY:
        given = examples_of(name, rng, 2, heads, heads // 2, q_len, kv_len, d, e, dtype)
    else:
        given = operands(f, rng, 2, heads, q_len, kv_len, d)
    return q, k, v, given


def levels(f: Any, q: Any, k: Any, v: Any, given: Any) -> tuple[Any, Any, Any]:
    call = bind(f.signature, q, k, v, given, "bhld")
    graph = f._trace(call)
    return call, graph, lower(graph)


def agree(f: Any, q: Any, k: Any, v: Any, given: Any, tiles: Any = TILES) -> bool:
    """Whether it takes linear time; then the tile interpreter must agree with the graph."""
    call, graph, program = levels(f, q, k, v, given)
    if program.past is None:
        return False
    expected = interpret(graph, call.inputs)
    for tile in tiles:
        for n, (x, y) in enumerate(zip(run(program, call.inputs, tile=tile, linear=True), expected, strict=True)):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.abs(y).max(initial=1), err_msg=f"{tile}, {n}")
    return True


EVERY = (*VARIANTS, *(getattr(variants, name) for name in LIBRARY))


@pytest.mark.parametrize("f", EVERY, ids=lambda f: f.__name__)
def test_tiles_with_a_past_agree_with_the_graph(f: Any) -> None:
    for q_len, kv_len in LENGTHS:
        assert agree(f, *sample(f, q_len, kv_len))


def test_random_programs_agree() -> None:
    taken = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        f = random(rng)
        q_len, kv_len = (int(n) for n in rng.integers(1, 14, 2))
        q, k, v, _ = sample(f, q_len, kv_len, d=3, e=2, seed=seed)
        given = random_operands(rng, 2, 2, q_len, kv_len)
        taken += agree(f, q, k, v, given, tiles=((1, 1), (3, 4)))
    assert taken == 60


def test_a_nan_of_random_programs_reaches_whom_it_reaches_in_the_pairs() -> None:
    for seed in range(16):
        rng = np.random.default_rng(seed)
        f = random(rng)
        q_len, kv_len = (int(n) for n in rng.integers(1, 12, 2))
        q, k, v, _ = sample(f, q_len, kv_len, d=3, e=2, seed=seed)
        given = random_operands(rng, 2, 2, q_len, kv_len)
        for name in ("q", "k", "v", "A", "t", "s"):
            arrays = {"q": q, "k": k, "v": v, **given}
            spoilt = arrays[name] = arrays[name].copy()
            spoilt.reshape(-1)[rng.integers(spoilt.size)] = np.nan
            arrays["q"][:, :, rng.integers(q_len)] *= rng.integers(2)  # a query whose products are all 0
            call, graph, program = levels(f, *(arrays.pop(x) for x in "qkv"), arrays)
            found = run(program, call.inputs, tile=(3, 4), linear=True)
            for x, y in zip(found, interpret(graph, call.inputs), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}, {name}")


def test_random_kernels_agree(always: None) -> None:
    for seed in (100, 102, 105):
        rng = np.random.default_rng(seed)
        f = random(rng)
        for q_len, kv_len in ((65, 65), (130, 300)):
            q, k, v, _ = sample(f, q_len, kv_len, d=16, e=20, seed=seed)
            found = f.verify(q, k, v, **random_operands(rng, 2, 2, q_len, kv_len))
            assert found.ok, f"seed {seed}: {found}"


@pytest.mark.parametrize("f", EVERY, ids=lambda f: f.__name__)
def test_kernels_are_right(f: Any, always: None) -> None:
    for q_len, kv_len in ((1, 1), (17, 17), (64, 64), (65, 129), (129, 65), (300, 300), (5, 0)):
        q, k, v, given = sample(f, q_len, kv_len, d=24, e=16, dtype="float32")
        found = f.verify(q, k, v, **given)
        assert found.ok, f"{q_len} x {kv_len}: {found}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", LIBRARY)
def test_kernels_of_other_dtypes(name: str, dtype: str, always: None) -> None:
    f = getattr(variants, name)
    q, k, v, given = sample(f, 140, 147, 20, 33, dtype=dtype)
    found = f.verify(q, k, v, **given)
    assert found.ok, str(found)


@pytest.mark.parametrize("f", (EVERY[0], EVERY[2], EVERY[3], variants.retention), ids=lambda f: f.__name__)
def test_pieces_are_right_and_the_same_for_any_threads(f: Any, in_pieces: None) -> None:
    threads, f = at.get_num_threads(), at.attention(f.function)
    try:
        for q_len, kv_len in ((300, 300), (64, 65), (70, 700)):
            q, k, v, given = sample(f, q_len, kv_len, 16, 16, dtype="float32", seed=3)
            assert "are worked on at once" in f.explain(q, k, v, **given)
            assert f.verify(q, k, v, **given).ok
            found = set()
            for n in (1, 2) * 3:
                at.set_num_threads(n)
                outputs = f(q, k, v, **given)
                found.add(b"".join(x.tobytes() for x in (outputs if isinstance(outputs, tuple) else (outputs,))))
            assert len(found) == 1
    finally:
        at.set_num_threads(threads)


def test_a_sequence_has_the_same_bits_in_any_batch(in_pieces: None) -> None:
    f = at.attention(variants.linear.function)
    q, k, v, _ = sample(f, 200, 200, 16, 16, dtype="float32")
    assert (f(q, k, v)[1:] == f(q[1:], k[1:], v[1:])).all()


@pytest.mark.parametrize("what", [np.nan, np.inf])
def test_what_is_not_finite_reaches_whom_it_reaches_in_the_pairs(what: float, always: None) -> None:
    """A weight that is exactly 0 hides it, a mask too; a sum of outer products would not."""
    q, k, v, _ = sample(variants.unnormalised, 90, 90, 16, 16, dtype="float32")
    q[:, :, 70] = 0
    for array in (k, v):
        spoilt = array.copy()
        spoilt[0, 0, 10, 3] = what
        given = (q, spoilt, v) if array is k else (q, k, spoilt)
        found, expected = variants.unnormalised(*given), variants.unnormalised.reference(*given)
        assert (np.isnan(found) == np.isnan(expected)).all() and np.isnan(expected[0, 0, 11:]).any() == (
            array is k or what != what
        )
        assert np.isfinite(found[1:]).all() and np.isfinite(found[0, :, :10]).all()
    from linear_variants import positive

    q, k, v, given = sample(positive, 90, 90, 16, 16, dtype="float32")
    n = given["n"] = np.array([40, 60])
    k[0, :, n[0] :], v[0, :, n[0] :] = what, what
    assert np.isfinite(positive(q, k, v, **given)).all()


def test_steep_decays_are_those_of_the_pairs(always: None) -> None:
    """Logarithms are subtracted before they are exponents: gamma^i gamma^-j would overflow."""
    q, k, v, _ = sample(variants.retention, 2000, 2000, 8, 8, dtype="float32")
    for decay in (np.log(0.5), -1e3):
        found = variants.retention.verify(q[:1], k[:1], v[:1], log_decay=np.full(2, decay))
        assert found.ok, f"{decay}: {found}"
    steps = -np.cumsum(np.where(np.random.default_rng(0).random((1, 2, 2000)) < 0.01, 300.0, 0.01), -1)
    found = variants.ssd.verify(q[:1], k[:1], v[:1], A=steps)
    assert found.ok, str(found)


def recurrent(q: Any, k: Any, v: Any, decay: float) -> Any:
    """Retention as its authors' recurrence, one step after the other: S_n = gamma S_{n-1} + k_n v_n^T (arXiv 2307.08621, eq. 6)."""
    state, total, out = np.zeros((q.shape[-1], v.shape[-1])), np.zeros(q.shape[-1]), []
    for x, y, z in zip(q / np.sqrt(q.shape[-1]), k, v, strict=True):
        state, total = np.exp(decay) * state + np.outer(y, z), np.exp(decay) * total + y
        out.append(x @ state / max(abs(x @ total), 1))
    return np.array(out)


def test_retention_parallel_recurrent_and_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, _ = sample(variants.retention, 333, 333, 8, 6)
    decay = np.array([-0.05, -0.3])
    one = np.array([[recurrent(q[b, h], k[b, 0], v[b, 0], decay[h]) for h in range(2)] for b in range(2)])
    kept = []
    for limit in (1e9, 0.0):
        monkeypatch.setattr(cpu_form, "LINEAR", limit)
        assert ("linear time: keys" in variants.retention.explain(q, k, v, log_decay=decay)) == (limit == 0)
        kept.append(variants.retention(q, k, v, log_decay=decay))
        np.testing.assert_allclose(kept[-1], one, rtol=1e-9, atol=1e-11)
    assert (kept[0] != kept[1]).any()  # two kernels, not one


def test_a_long_call_agrees_with_the_pairs() -> None:
    """More than 16,384 queries and keys, in two pieces; of the pairs those of some queries, in float64."""
    n, rng = cpu_form.PIECE + 70, np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 64), dtype=np.float32) for _ in range(3))
    assert "pieces of" in variants.linear.explain(q, k, v)
    found = variants.linear(q, k, v)[0, 0]
    x, y, z = (array[0, 0].astype(np.float64) for array in (q, k, v))
    features = np.where(y > 0, y + 1, np.exp(np.minimum(y, 0)))
    for row in (0, 63, 64, 5000, 16383, 16384, 16400, n - 1):
        weights = features[: row + 1] @ np.where(x[row] > 0, x[row] + 1, np.exp(np.minimum(x[row], 0)))
        np.testing.assert_allclose(found[row], weights @ z[: row + 1] / weights.sum(), rtol=0, atol=2e-6)


def test_a_million_keys_need_little_memory() -> None:
    """Beside inputs and output: the states of pieces, and each worker's scratch."""
    q = np.zeros((1, 1, 256, 64), np.float32)
    k = np.broadcast_to(q[:, :, :1], (1, 1, 1 << 20, 64))
    call = bind(variants.retention.signature, q, k, k, {"log_decay": np.zeros(1)}, "bhld")
    prepared = variants.retention._prepare(call, False)
    room = variants.retention._kernel(prepared, call).kernel.room
    pieces = Pieces(1, cpu_form.PIECES, cpu_form.PIECES)
    assert pieces.bytes(room) + 2 * room.worker < 2 << 20


@at.attention
def window(q, k, v, i, j):
    return at.where((j <= i) & (i - j < 8), at.dot(q, k), 0.0) @ v


@at.attention
def documents(q, k, v, b, i, j, *, doc: at.Tensor["b", "j", int]):
    return at.where((j <= i) & (doc[b, i] == doc[b, j]), at.dot(q, k), 0.0) @ v


@at.attention
def two_masks(q, k, v, i, j):
    return at.where(j <= i, at.dot(q, k), 0.0) @ v / at.maximum(at.sum(at.dot(q, k), over="j"), 1)


@at.attention
def both_ways(q, k, v, i, j):
    """No key leaves a query's past, but its weight does not fall on one side only."""
    return (at.exp(-0.1 * at.abs(i - j)) * at.dot(q, k)) @ v


@at.attention
def variance(q, k, v, j):
    return at.sum((at.dot(q, k) - at.sum(at.dot(q, k), over="j") / at.kv_len) ** 2, over="j")


@at.attention
def uncovered(q, k, v, i, j):
    """A NaN of a later key reaches every query: 0 times NaN."""
    return (at.where(j <= i, 1.0, 0.0) * at.dot(q, k)) @ v


@at.attention
def uncovered_table(q, k, v, i, j, *, t: at.Tensor["j"]):
    return (at.where(j <= i, at.dot(q, k), 0.0) * t[j]) @ v


@at.attention
def uncovered_exponent(q, k, v, i, j, *, t: at.Tensor["j"]):
    return (at.exp(t[j]) * at.where(j <= i, at.dot(q, k), 0.0)) @ v


@at.attention
def two_sweeps(q, k, v):
    s = at.dot(q, k)
    return (at.tanh(at.max(s, over="j") * s)) @ v


@pytest.mark.parametrize(
    ("f", "code"),
    [
        (window, "MASK, i - j < 8"), (documents, "MASK, doc"), (two_masks, "MASK, j <= i"), (both_ways, "CROSS, float(abs(i - j))"),
        (two_sweeps, "SWEEPS"), (variance, "MOVING, dot[d](q, k)"), (uncovered, "NAN, "),
        (uncovered_table, "NAN, "), (uncovered_exponent, "NAN, "), (variants.causal, "CROSS"), (variants.relu, "NONHOM, maximum(dot[d](q, k)"),
        (variants.taylor, "RANK, dot[d](q, k)"), (variants.positional, "CROSS, "),
    ],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)  # fmt: skip
def test_what_takes_quadratic_time_says_why(f: Any, code: str) -> None:
    assert lower(f.graph).quadratic.startswith(code), lower(f.graph).quadratic


def test_explain_says_which_time_it_takes() -> None:
    q = np.zeros((1, 1, 2048, 8), np.float32)
    text = variants.linear.explain(q, q, q)
    assert "linear time: keys" in text and "GFLOP for the states" in text and "all pairs would be: " in text
    assert "would cost more for so few" in variants.linear.explain(q[:, :, :300], q[:, :, :100], q[:, :, :100])
    assert "NONHOM, maximum(" in variants.relu.explain(q, q, q)
    assert "in linear time, from keys up to seen" in variants.linear.show("tile", q, q, q)
