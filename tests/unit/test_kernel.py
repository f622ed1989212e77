"""Compiled kernels against the reference: lengths, layouts, kinds of arrays, and formulas of every shape."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import attnc as at

D, E, R = 16, 12, 7


@at.attention
def local(q, k, v, i, j, *, window: int = 70):
    """Bottom-right aligned causal window."""
    p = i + at.kv_len - at.q_len
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=(j <= p) & (p - j < window)) @ v


@at.attention
def bahdanau(q, k, v, *, u: at.Tensor["r"], wq: at.Tensor["d", "r"], wk: at.Tensor["d", "r"]):
    return at.softmax(at.sum(u * at.tanh(q @ wq + k @ wk), over="r")) @ v


@at.attention
def luong(q, k, v, h, *, wh: at.Tensor["h", "d", "d"], wk: at.Tensor["d", "d"]):
    """Projections by head of the queries, shared ones of the keys."""
    return at.softmax(at.dot(q @ wh[h], k @ wk) * 0.1) @ v


@at.attention
def cosine(q, k, v):
    unit_q, unit_k = (x * at.rsqrt(at.sum(x * x, over="d")) for x in (q, k))
    return at.softmax(10 * at.dot(unit_q, unit_k)) @ v


@at.attention
def gated(q, k, v, *, wg: at.Tensor["d", "e"]):
    return (at.softmax(at.dot(q, k) * at.rsqrt(at.size(q))) @ v) * at.sigmoid(q @ wg)


@at.attention
def projected(q, k, v, *, wv: at.Tensor["e", "m"], wo: at.Tensor["m", "o"]):
    """Values and output projected."""
    return (at.softmax(at.dot(q, k) * at.rsqrt(at.size(q))) @ at.tanh(v @ wv)) @ wo


@at.attention
def without_softmax(q, k, v, i, j):
    """Linear, rectified and sigmoid weights in one function."""
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    causal = j <= i
    rectified = at.where(causal, at.relu(s) ** 2, 0.0)
    return s @ v / at.kv_len, rectified @ v / (1 + at.sum(rectified, over="j")), at.sigmoid(s) @ v


@at.attention
def counting(q, k, v, i, j):
    """Whole numbers per row, and a vector."""
    near = at.abs(i - j) < 5
    return at.sum(near, over="j"), at.max(at.where(near, j, -1), over="j"), at.softmax(at.dot(q, k), where=near) @ v


@at.attention
def hamming(q, k, v):
    """Whole numbers per pair and per key, which are read again after the weights are known."""
    differ = at.sum((q > 0) != (k > 0), over="d")
    w = at.softmax(-0.5 * differ + at.sum(k > 0, over="d"))
    return w @ v, at.sum(w * differ, over="j"), at.min(differ, over="j")


@at.attention
def of_each_other(q, k, v):
    """Sums over the features of a pair that read another one of the same pair."""
    s = at.sum(at.tanh(q + k), over="d")
    return at.softmax(at.min(at.minimum(q, -k) * (s + 1), over="d")) @ v


@at.attention
def statistics(q, k, v):
    """Three sweeps: mean, spread, weights."""
    s = at.dot(q, k)
    mean = at.sum(s, over="j") / at.kv_len
    spread = at.sqrt(at.sum((s - mean) ** 2, over="j") / at.kv_len)
    return at.softmax(2 * at.tanh((s - mean) / (spread + 0.1))) @ v


@at.attention
def differential(q, k, v, h, *, lam: at.Tensor["h"]):
    """Two softmaxes with a sink each, in one sweep."""
    s = at.dot(q, k) * 0.25
    return at.softmax(s, sink=lam[h]) @ v - at.sigmoid(lam[h]) * (at.softmax(0.5 * s, sink=0.0) @ v)


@at.attention
def crowded(
    q, k, v, b, h, i, j, *, load: float = 0.5, T: float = 2.0, S: int = 3, scratch: int = 2, kernel: bool = True,
    exp: at.Tensor["j"] = None, args: at.Tensor["b", "n", int], lambda_: at.Tensor["h", "n"],
):  # fmt: skip
    """Operands that are called like things of the emitted code; an optional one, nested gathers, shifts and remainders."""
    s = at.dot(q, k) * load * T
    if exp is not None:
        s = s + exp[j]
    s = s + lambda_[h, args[b, i % 8] ^ args[b, (j >> 1) & 7]]
    return at.softmax(s, where=(i - j < S * scratch * 8) & kernel | ((j // S) % 2 == 0)) @ v


def array(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def qkv(lq: int, lk: int, heads: tuple[int, int] = (4, 2), batch: tuple[int, int] = (2, 2), d: int = D, e: int = E):
    return [
        array(batch[0], heads[0], lq, d), array(batch[1], heads[1], lk, d, seed=1), array(batch[1], heads[1], lk, e, seed=2)
    ]  # fmt: skip


OPERANDS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "bahdanau": lambda lq, lk: {"u": array(R), "wq": array(D, R), "wk": array(D, R, seed=1)},
    "luong": lambda lq, lk: {"wh": array(4, D, D), "wk": array(D, D)},
    "gated": lambda lq, lk: {"wg": array(D, E)},
    "projected": lambda lq, lk: {"wv": array(E, 9), "wo": array(9, 5)},
    "differential": lambda lq, lk: {"lam": array(4)},
    "crowded": lambda lq, lk: {
        "exp": array(lk), "args": np.random.default_rng(0).integers(0, 4, (2, 8), np.int16), "lambda_": array(4, 8)
    },
}  # fmt: skip
FORMULAS = [
    bahdanau, luong, cosine, gated, projected, without_softmax, counting, hamming, of_each_other, statistics, differential,
    crowded,
]  # fmt: skip


def one_for_each_form(variant: at.Attention) -> bool:
    """Whether every length had the same kernel; calls with few queries have one of their own."""
    kernels = list(variant._compiled.values())
    return len(kernels) == len({x.form for x in kernels})


@pytest.mark.parametrize("lk", [1, 17, 63, 64, 65, 127, 128, 129, 300])
def test_one_kernel_for_every_length(lk: int) -> None:
    variant = at.attention(local.function)
    for lq in (1, 17, 63, 64, 65, lk):
        report = variant.verify(*qkv(lq, lk), return_lse=True)
        assert report.ok and max(report.bounds) < 1e-4, f"{lq} x {lk}: {report}"
    assert one_for_each_form(variant)


@pytest.mark.parametrize("variant", FORMULAS, ids=lambda f: f.__name__)
def test_formulas(variant: at.Attention) -> None:
    variant = at.attention(variant.function)
    for lq, lk in ((1, 1), (70, 101), (129, 64)):
        inputs, operands = qkv(lq, lk), OPERANDS.get(variant.__name__, lambda *_: {})(lq, lk)
        report = variant.verify(*inputs, **operands)
        assert report.ok and max(report.bounds) < 1e-3, f"{lq} x {lk}: {report}, {variant.bisect(*inputs, **operands)}"
    assert one_for_each_form(variant)


@pytest.mark.parametrize("heads", [(8, 2), (8, 1), (2, 2), (6, 3)])
@pytest.mark.parametrize("batch", [(1, 1), (3, 3), (3, 1)])
def test_grouped_heads_and_shared_batches(heads: tuple[int, int], batch: tuple[int, int]) -> None:
    q, k, v = qkv(33, 50, heads, batch)
    out, lse = local(q, k, v, return_lse=True)
    assert local.verify(q, k, v, return_lse=True).ok
    k, v = (np.repeat(np.broadcast_to(x, (batch[0], *x.shape[1:])), heads[0] // heads[1], axis=1) for x in (k, v))
    again, lse_again = local(q, k, v, return_lse=True)
    np.testing.assert_array_equal(again, out)
    np.testing.assert_array_equal(lse_again, lse)


def spaced(x: np.ndarray, axis: int, step: int) -> np.ndarray:
    """x as a view of an array with `step` times as many entries along an axis, the others NaN; step < 0 runs backwards."""
    shape = list(x.shape)
    shape[axis] *= abs(step)
    room = np.full(shape, np.nan, x.dtype)
    part = np.moveaxis(room, axis, 0)[:: abs(step)]
    view = np.moveaxis(part[::-1] if step < 0 else part, 0, axis)
    view[...] = x
    return view


def unaligned(x: np.ndarray) -> np.ndarray:
    view = np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


STRIDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "heads last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
    "batch inside": lambda x: np.ascontiguousarray(x.transpose(1, 2, 0, 3)).transpose(2, 0, 1, 3),
    "features first": lambda x: np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3),
    "every third row": lambda x: spaced(x, 2, 3),
    "rows backwards": lambda x: spaced(x, 2, -2),
    "heads backwards": lambda x: spaced(x, 1, -1),
    "batch backwards": lambda x: spaced(x, 0, -2),
    "every second feature": lambda x: spaced(x, 3, 2),
    "features backwards": lambda x: spaced(x, 3, -1),
    "unaligned": unaligned,
    "Fortran": np.asfortranarray,
}


@pytest.mark.parametrize("name", STRIDED)
def test_strides_do_not_matter(name: str) -> None:
    q, k, v = qkv(40, 50)
    expected = local(q, k, v, return_lse=True)
    view = STRIDED[name]
    for inputs in [(view(q), view(k), view(v)), (view(q), k, v), (q, k, view(v))]:
        for x, y in zip(local(*inputs, return_lse=True), expected, strict=True):
            np.testing.assert_array_equal(x, y)


def test_layouts_and_ranks() -> None:
    q, k, v = qkv(40, 50)
    variant = at.attention(local.function)
    out, lse = variant(q, k, v, return_lse=True)

    def turned(x: np.ndarray) -> np.ndarray:
        return x.swapaxes(-2, -3)

    for make in (lambda x: x, np.ascontiguousarray):
        got, got_lse = variant(*(make(turned(x)) for x in (q, k, v)), layout="blhd", return_lse=True)
        np.testing.assert_array_equal(turned(got), out)
        np.testing.assert_array_equal(got_lse, lse)
        got, got_lse = variant(*(make(turned(x[1])) for x in (q, k, v)), layout="blhd", return_lse=True)
        np.testing.assert_array_equal(turned(got), out[1])
        np.testing.assert_array_equal(got_lse, lse[1])
    got, got_lse = variant(q[1], k[1], v[1], return_lse=True)
    np.testing.assert_array_equal(got, out[1])
    np.testing.assert_array_equal(got_lse, lse[1])
    got, got_lse = variant(q[1, 3], k[1, 1], v[1, 1], return_lse=True)
    np.testing.assert_array_equal(got, out[1, 3])
    np.testing.assert_array_equal(got_lse, lse[1, 3])
    assert one_for_each_form(variant)


@pytest.mark.parametrize("place", ["plain", *(name for name in STRIDED if name != "unaligned")])
def test_out_is_written_where_it_lies(place: str) -> None:
    q, k, v = qkv(40, 50)
    expected, lse = local(q, k, v, return_lse=True)
    base = np.full(expected.shape, 7, np.float32)
    target = STRIDED.get(place, np.copy)(base)
    owner = target if target.base is None else target.base
    outside = int(np.isnan(owner).sum())
    found, found_lse = local(q, k, v, out=target, return_lse=True)
    assert found is target
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(found_lse, lse)
    assert int(np.isnan(owner).sum()) == outside, "places beside the view were written"


def test_out_of_row_numbers_may_be_strided() -> None:
    @at.attention
    def visible(q, k, v, i, j):
        return at.sum(j <= i, over="j")

    q, k, v = qkv(40, 50)
    expected = np.broadcast_to(np.arange(1, 41, dtype=np.float32), (2, 4, 40))
    np.testing.assert_array_equal(visible(q, k, v), expected)
    room = np.full((2, 4, 80), np.nan, np.float32)
    visible(q, k, v, out=room[..., ::2])
    np.testing.assert_array_equal(room[..., ::2], expected)
    assert np.isnan(room[..., 1::2]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_torch_tensors_in_torch_tensors_out(dtype: str) -> None:
    kind = getattr(torch, dtype)
    inputs = [torch.from_numpy(x).to(kind) for x in qkv(64, 64, e=D)]
    out, lse = local(*inputs, window=64, return_lse=True)
    assert isinstance(out, torch.Tensor) and out.dtype == kind and out.shape == (2, 4, 64, D)
    assert isinstance(lse, torch.Tensor) and lse.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    report = local.verify(*inputs, window=64, return_lse=True)
    assert report.ok, report
    k, v = (x.repeat_interleave(2, 1) for x in inputs[1:])
    theirs = torch.nn.functional.scaled_dot_product_attention(inputs[0], k, v, is_causal=True)
    assert (out.double() - theirs.double()).abs().max() <= 2 * report.bounds[0]
    for target in (torch.empty_like(out), torch.empty(2, 64, 4, D, dtype=kind).transpose(1, 2)):
        found, _ = local(*inputs, window=64, out=target, return_lse=True)
        assert found is target and torch.equal(target, out)


def test_the_answer_has_the_kind_of_q() -> None:
    arrays = qkv(5, 5)
    tensors = [torch.from_numpy(x) for x in arrays]
    assert isinstance(local(arrays[0], *tensors[1:], return_lse=True)[0], np.ndarray)
    assert isinstance(local(tensors[0], *arrays[1:], return_lse=True)[0], torch.Tensor)
    expected = local(*arrays, return_lse=True)[0]
    np.testing.assert_array_equal(local(*(x.transpose(1, 2) for x in tensors), layout="blhd", return_lse=True)[0].transpose(1, 2), expected)  # fmt: skip


def test_the_session_has_a_cache_of_its_own() -> None:
    """The directory is new: no test passes on machine code of an earlier source."""
    from attnc.runtime.cache import Cache

    assert Cache().path.name == "kernels" and str(Cache().path) == os.environ["ATTNC_CACHE_DIR"]
