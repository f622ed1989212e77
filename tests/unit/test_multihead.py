"""MultiHead over a plain NumPy attention, against torch.nn.MultiheadAttention and hand-written formulas."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import attnc as at
from attnc.errors import DTypeError, GradientError, OperandError, OutputError, ShapeError
from attnc.multihead import MultiHead

Array = np.ndarray[Any, Any]


def plain(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
    """Softmax attention with grouped heads, in float64; no keys give zeros."""
    if not k.shape[2]:
        return np.zeros((*q.shape[:3], v.shape[3]), q.dtype)
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1).astype(np.float64) for x in (k, v))
    scores = q.astype(np.float64) @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out: Array = weights @ v / weights.sum(axis=-1, keepdims=True)
    return out.astype(q.dtype)


def from_torch(layer: torch.nn.MultiheadAttention) -> dict[str, Array | None]:
    state = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    if "in_proj_weight" in state:
        w_q, w_k, w_v = np.split(state["in_proj_weight"], 3)
    else:
        w_q, w_k, w_v = (state[f"{name}_proj_weight"] for name in "qkv")
    b_q, b_k, b_v = np.split(state["in_proj_bias"], 3) if "in_proj_bias" in state else (None, None, None)
    return {
        "w_q": w_q.T,
        "w_k": w_k.T,
        "w_v": w_v.T,
        "w_o": state["out_proj.weight"].T,
        "b_q": b_q,
        "b_k": b_k,
        "b_v": b_v,
        "b_o": state.get("out_proj.bias"),
    }


def torch_layer(d_model: int, heads: int, *, bias: bool, d_context: int | None = None) -> torch.nn.MultiheadAttention:
    torch.manual_seed(7)
    layer = torch.nn.MultiheadAttention(
        d_model, heads, bias=bias, kdim=d_context, vdim=d_context, batch_first=True, dtype=torch.float64
    )
    for parameter in layer.parameters():  # torch starts biases at zero, which would hide a wrong one
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_is_torchs(bias: bool, causal: bool) -> None:
    theirs = torch_layer(24, 4, bias=bias)
    ours = MultiHead(plain, 24, 4, dtype=np.float64)
    ours.load_state_dict(from_torch(theirs))
    x = normal(3, 11, 24)
    mask = torch.from_numpy(np.tri(11) == 0) if causal else None
    tensor = torch.from_numpy(x)
    expected, _ = theirs(tensor, tensor, tensor, attn_mask=mask, need_weights=False)
    np.testing.assert_allclose(ours(x, causal=causal), expected.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("d_context", [24, 10])
def test_cross_attention_is_torchs(d_context: int) -> None:
    theirs = torch_layer(24, 3, bias=True, d_context=d_context)
    ours = MultiHead(plain, 24, 3, d_context=d_context, dtype=np.float64)
    ours.load_state_dict(from_torch(theirs))
    x, context = normal(2, 5, 24), normal(2, 9, d_context)
    memory = torch.from_numpy(context)
    expected, _ = theirs(torch.from_numpy(x), memory, memory, need_weights=False)
    np.testing.assert_allclose(ours(x, context), expected.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours(x[0], context[0]), ours(x[:1], context[:1])[0])
    np.testing.assert_allclose(ours(x, context[:1]), ours(x, np.repeat(context[:1], 2, axis=0)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_grouped_query_is_the_papers_concat(kv_heads: int) -> None:
    """Head by head: Concat(head_n) W_O, query head n reading key-value head n // group."""
    heads, d_k, d_v = 6, 5, 7
    layer = MultiHead(plain, 16, heads, kv_heads, d_k, d_v, dtype=np.float64, rng=0)
    w, x, group = layer.weights, normal(1, 8, 16), heads // kv_heads
    parts = []
    for head in range(heads):
        shared = head // group
        q = x[0] @ w["w_q"][:, head * d_k : (head + 1) * d_k]
        k = x[0] @ w["w_k"][:, shared * d_k : (shared + 1) * d_k]
        v = x[0] @ w["w_v"][:, shared * d_v : (shared + 1) * d_v]
        parts.append(plain(q[None, None], k[None, None], v[None, None])[0, 0])
    np.testing.assert_allclose(layer(x)[0], np.concatenate(parts, axis=-1) @ w["w_o"], rtol=0, atol=1e-12)


def test_over_a_variant_of_attnc() -> None:
    @at.attention
    def causal(q, k, v, i, j):  # type: ignore[no-untyped-def]
        return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=j <= i) @ v

    ours = MultiHead(causal.reference, 12, 4, 2, dtype=np.float64, rng=0)
    theirs = MultiHead(plain, 12, 4, 2, dtype=np.float64, rng=0)
    x = normal(2, 9, 12)
    np.testing.assert_allclose(ours(x), theirs(x, causal=True), rtol=0, atol=1e-12)


def test_the_attention_sees_bhld_and_its_operands() -> None:
    seen: dict[str, Any] = {}

    def spy(q: Array, k: Array, v: Array, **operands: Any) -> Array:
        seen.update(q=q.shape, k=k.shape, v=v.shape, **operands)
        return plain(q, k, v)

    out = MultiHead(spy, 12, 4, 2, d_v=5, rng=0)(normal(2, 7, 12).astype(np.float32), window=3)
    assert seen == {"q": (2, 4, 7, 3), "k": (2, 2, 7, 3), "v": (2, 2, 7, 5), "window": 3}
    assert (out.shape, out.dtype) == ((2, 7, 12), np.float32)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_low_precision_is_near_float64(dtype: Any) -> None:
    low = MultiHead(plain, 32, 4, dtype=dtype, bias=True, rng=0)
    high = MultiHead(plain, 32, 4, dtype=np.float64)
    high.load_state_dict(low.state_dict())
    x = normal(2, 6, 32).astype(dtype)
    out = low(x)
    assert out.dtype == np.dtype(dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)
    # Five roundings (q, k, v, heads, out) of values of order one.
    np.testing.assert_allclose(out.astype(np.float64), high(x.astype(np.float64)), rtol=0, atol=8 * eps)


def test_no_keys_give_the_output_bias() -> None:
    layer = MultiHead(plain, 8, 2, rng=0)
    layer.set(b_o=np.arange(8.0))
    out = layer(np.ones((1, 3, 8), np.float32), np.ones((1, 0, 8), np.float32))
    np.testing.assert_array_equal(out, np.tile(np.arange(8, dtype=np.float32), (1, 3, 1)))


def test_start_is_seeded_and_state_is_copied() -> None:
    first, second = MultiHead(plain, 8, 2, rng=5, bias=True), MultiHead(plain, 8, 2, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(first.weights["w_o"], second.weights["w_o"])
    assert "b_q" in first.weights
    assert "b_q" not in second.weights
    state = first.state_dict()
    state["w_q"][:] = 0
    assert np.abs(first.weights["w_q"]).max() > 0
    first.set(b_q=None, w_q=state["w_q"])
    assert "b_q" not in first.weights
    assert not first.weights["w_q"].any()
    with pytest.raises(TypeError):
        first.weights["w_q"] = state["w_q"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"d_model": 10, "num_heads": 4}, ShapeError, "give d_k"),
        ({"d_model": 12, "num_heads": 4, "num_kv_heads": 3}, ShapeError, "divisor"),
        ({"d_model": 12, "num_heads": 0}, ShapeError, "num_heads is not positive"),
        ({"d_model": 12, "num_heads": 4, "d_v": 0}, ShapeError, "d_v is not positive"),
        ({"d_model": 12, "num_heads": 4, "dtype": np.int32}, DTypeError, "int32"),
    ],
)
def test_a_bad_layer_is_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MultiHead(plain, **arguments)


def test_bad_weights_are_refused_and_change_nothing() -> None:
    layer = MultiHead(plain, 8, 2, 1, rng=0)
    before = layer.state_dict()
    with pytest.raises(ShapeError, match=r"w_k does not fit(.|\n)*transpose"):
        layer.set(w_q=np.zeros((8, 8)), w_k=np.zeros((4, 8)))
    with pytest.raises(OperandError, match="there is no weight 'w_x'"):
        layer.set(w_x=np.zeros(3))
    with pytest.raises(OperandError, match="cannot be absent"):
        layer.set(w_q=None)
    with pytest.raises(OperandError, match="no w_k, w_v, w_o"):
        layer.load_state_dict({"w_q": np.zeros((8, 8))})
    with pytest.raises(DTypeError, match="complex"):
        layer.set(w_q=np.zeros((8, 8), complex))
    with pytest.raises(GradientError, match="no backward"):
        layer.set(w_q=torch.zeros(8, 8, requires_grad=True))
    for name, value in before.items():
        np.testing.assert_array_equal(layer.weights[name], value)


def test_bad_inputs_are_refused() -> None:
    layer = MultiHead(plain, 8, 2, rng=0)
    x = np.ones((2, 3, 8), np.float32)
    with pytest.raises(ShapeError, match="x does not fit"):
        layer(x[..., :7])
    with pytest.raises(ShapeError, match="x does not fit"):
        layer(x[:, :0])
    with pytest.raises(ShapeError, match="batches differ"):
        layer(x, np.ones((3, 3, 8), np.float32))
    with pytest.raises(ShapeError, match="give context="):
        MultiHead(plain, 8, 2, d_context=5)(x)
    with pytest.raises(DTypeError, match="it is float64, the layer float32"):
        layer(x.astype(np.float64))
    with pytest.raises(GradientError, match="x requires gradients"):
        layer(torch.ones(2, 3, 8, requires_grad=True))
    with pytest.raises(OutputError, match="returned a tuple"):
        MultiHead(lambda q, k, v: (q, k), 8, 2)(x)
    with pytest.raises(ShapeError, match="output does not fit"):
        MultiHead(lambda q, k, v: q[:, :1], 8, 2)(x)
