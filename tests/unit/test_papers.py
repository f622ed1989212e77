"""Normalisers and scores of the library against the published formulas, written in torch and NumPy over whole matrices."""

import math
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc import variants
from attnc.compile import lower
from attnc.fuzz.compare import farthest
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.tile.program import Dot, DotAcc, Load
from attnc.variants.retention import standard_decay
from attnc.variants.rope import frequencies, quarter_turn
from attnc.variants.rope_2d import axial
from attnc.variants.samples import examples_of

SHAPES = [(2, 4, 2, 7, 9, 8, 5), (1, 2, 1, 5, 5, 7, 3), (1, 2, 2, 1, 1, 2, 2), (2, 2, 2, 6, 3, 4, 4)]
softmax, F = torch.softmax, torch.nn.functional


def causal(x: SimpleNamespace, s: torch.Tensor, masked: float = -math.inf) -> torch.Tensor:
    """s where j <= p."""
    live = torch.ones(x.n, x.m).tril(x.m - x.n).bool()
    return torch.where(live, s, torch.tensor(masked, dtype=s.dtype))


def attended(x: SimpleNamespace, s: torch.Tensor) -> torch.Tensor:
    """softmax(s) v; rows of -inf alone are 0."""
    return torch.nan_to_num(softmax(s, -1)) @ x.v


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps=1e-6)


def turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """The paper's rotation of the plane of each two features (n, n + D/2), as complex numbers."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag, x[..., 2 * half :]], -1)


def rope(x: SimpleNamespace) -> torch.Tensor:
    theta = 10000.0 ** (-torch.arange(0, x.d // 2 * 2, 2).double() / x.d)
    rows, columns = torch.arange(x.n) + x.m - x.n, torch.arange(x.m)
    q, k = (turned(y, place.double()[:, None] * theta) for y, place in ((x.q, rows), (x.k, columns)))
    return attended(x, causal(x, q @ k.mT / math.sqrt(x.d)))


def rope_2d(x: SimpleNamespace) -> torch.Tensor:
    half = x.d // 2
    theta = 100.0 ** (-2.0 * (torch.arange(half) // 2).double() / max(half, 1))

    def rotated(y: torch.Tensor) -> torch.Tensor:
        n = torch.arange(y.shape[2])
        places = torch.stack([n // x.o["width"], n % x.o["width"]], -1)
        return turned(y, places[:, torch.arange(half) % 2].double() * theta)

    return attended(x, rotated(x.q) @ rotated(x.k).mT / math.sqrt(x.d))


def gatv2(x: SimpleNamespace) -> torch.Tensor:
    pairs = (x.q @ x.o["Wq"])[:, :, :, None] + (x.k @ x.o["Wk"])[:, :, None]
    scores = F.leaky_relu(pairs, 0.2) @ x.o["a"]
    return attended(x, scores.masked_fill(~x.o["edges"][:, None], -math.inf))


def gat(x: SimpleNamespace) -> torch.Tensor:
    left, right = (
        torch.einsum("bhnd,hd->bhn", y, x.o[name].expand(x.q.shape[1], -1)) for y, name in ((x.q, "aq"), (x.k, "ak"))
    )
    scores = F.leaky_relu(left[..., None] + right[..., None, :], 0.2)
    return attended(x, scores.masked_fill(~x.o["edges"][:, None], -math.inf))


def sunk(x: SimpleNamespace, s: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
    """gpt-oss: the sink is a further column of the scores, whose weight is dropped."""
    column = sink.view(1, -1, 1, 1).expand(*s.shape[:3], 1)
    return softmax(torch.cat([s, column], -1), -1)[..., :-1] @ x.v


def retention(x: SimpleNamespace) -> torch.Tensor:
    distance = (torch.arange(x.n)[:, None] + x.m - x.n) - torch.arange(x.m)
    gamma = x.o["log_decay"].exp().view(-1, 1, 1)
    w = x.s * torch.where(distance >= 0, gamma ** distance.clamp(min=0).double(), 0)
    return w @ x.v / w.sum(-1, keepdim=True).abs().clamp(min=1)


def linear(x: SimpleNamespace) -> torch.Tensor:
    w = causal(x, (F.elu(x.q) + 1) @ (F.elu(x.k) + 1).mT, 0.0)
    return torch.nan_to_num(w @ x.v / w.sum(-1, keepdim=True))


def ssd(x: SimpleNamespace) -> torch.Tensor:
    """Each step's factor, multiplied up between key and query."""
    A = x.o["A"].expand(x.q.shape[0], x.q.shape[1], -1)
    steps = torch.diff(A, dim=-1, prepend=torch.zeros_like(A[..., :1])).exp()
    place = torch.arange(x.n)[:, None] + x.m - x.n
    t = torch.arange(x.m)
    between = (t > t[:, None]) & (t <= place[..., None])  # query, key, step
    w = torch.where(between, steps[:, :, None, None, :], 1).prod(-1) * (place >= t)
    return w * (x.q @ x.k.mT) @ x.v


def polynomial(x: SimpleNamespace) -> torch.Tensor:
    w = causal(x, x.s**4, 0.0)
    return w @ x.v / (1 + w.sum(-1, keepdim=True))


def taylor(x: SimpleNamespace) -> torch.Tensor:
    w = 1 + x.s + x.s**2 / 2
    return F.normalize(w, p=1, dim=-1) @ x.v


def additive(x: SimpleNamespace) -> torch.Tensor:
    pairs = torch.tanh((x.q @ x.o["Wq"])[:, :, :, None] + (x.k @ x.o["Wk"])[:, :, None])
    return attended(x, pairs @ x.o["u"])


def mla(x: SimpleNamespace) -> torch.Tensor:
    """Both parts as one vector of d + r features, the key's rotary part repeated for each head."""
    shared = x.o["k_rope"][:, None].expand(-1, x.q.shape[1], -1, -1)
    q, k = torch.cat([x.q, x.o["q_rope"]], -1), torch.cat([x.k, shared], -1)
    return attended(x, causal(x, q @ k.mT / math.sqrt(q.shape[-1])))


def differential(x: SimpleNamespace) -> torch.Tensor:
    """The authors' code: two maps of weights, their difference, subln, (1 - lambda_init)."""
    group = x.q.shape[1] // x.o["k2"].shape[1]
    q, k = torch.stack([x.q, x.o["q2"]]), torch.stack([x.k, x.o["k2"].repeat_interleave(group, 1)])
    maps = torch.nan_to_num(softmax(causal(x, q @ k.mT / math.sqrt(x.d)), -1))
    out = (maps[0] - x.o["lam"].view(-1, 1, 1) * maps[1]) @ x.v
    return F.rms_norm(out, (out.shape[-1],), x.o["norm"], eps=1e-5) * (1 - 0.8)


def mixed_windows(x: SimpleNamespace) -> torch.Tensor:
    distance = (torch.arange(x.n)[:, None] + x.m - x.n) - torch.arange(x.m)
    branches = [
        attended(x, x.s.masked_fill((distance < 0) | (distance >= x.o[name]), -math.inf)) for name in ("near", "far")
    ]
    return (torch.stack(branches, -2) * x.o["gates"][..., None]).sum(-2)


def graphormer(x: SimpleNamespace) -> torch.Tensor:
    spatial = x.o["spatial"].expand(x.q.shape[1], -1)[:, x.o["distance"]].transpose(0, 1)
    return attended(x, x.s + spatial + x.o["path"])


FORMULAS = {
    "temperature": lambda x: attended(x, x.s / x.o["tau"][..., None]),
    "softmax1": lambda x: x.s.exp() / (1 + x.s.exp().sum(-1, keepdim=True)) @ x.v,
    "learned_sink": lambda x: sunk(x, causal(x, x.s), x.o["sink"].expand(x.q.shape[1])),
    "sigmoid": lambda x: torch.sigmoid(x.s - math.log(x.m)) @ x.v,
    "relu": lambda x: F.relu(x.s) / x.m @ x.v,
    "relu_squared": lambda x: F.relu(x.s).square() / x.m @ x.v,
    "retention": retention,
    "linear": linear,
    "ssd": ssd,
    "unnormalised": lambda x: causal(x, x.s, 0.0) @ x.v,
    "cosine": lambda x: attended(x, F.normalize(x.q, dim=-1) @ F.normalize(x.k, dim=-1).mT / x.o["tau"].view(-1, 1, 1) + x.o["B"]),
    "polynomial": polynomial,
    "taylor": taylor,
    "luong_general": lambda x: attended(x, x.q @ x.o["W"] @ x.k.mT),
    "bahdanau": additive,
    "l2_distance": lambda x: attended(x, -torch.cdist(x.q, x.k, compute_mode="donot_use_mm_for_euclid_dist") ** 2 / math.sqrt(x.d)),
    "rbf": lambda x: torch.exp(-((x.q[:, :, :, None] - x.k[:, :, None]) ** 2).sum(-1) / (2 * math.sqrt(x.d))) @ x.v,
    "qk_norm": lambda x: attended(x, causal(x, rms(x.q, x.o["gq"]) @ rms(x.k, x.o["gk"]).mT / math.sqrt(x.d))),
    "rope": rope,
    "rope_2d": rope_2d,
    "mla": mla,
    "alphafold": lambda x: torch.sigmoid(x.o["gate"]) * attended(x, x.s + x.o["pair"]),
    "gat": gat,
    "gatv2": gatv2,
    "positional": lambda x: attended(x, x.o["R"].expand(x.q.shape[0], x.q.shape[1], -1, -1)),
    "factorized_positional": lambda x: attended(x, (x.o["rows"] @ x.o["columns"].mT).expand(x.q.shape[0], x.q.shape[1], -1, -1)),
    "tupe": lambda x: attended(x, (x.q @ x.k.mT + x.o["pq"] @ x.o["pk"].mT) / math.sqrt(2 * x.d)),
    "graphormer": graphormer,
    "differential": differential,
    "mixed_windows": mixed_windows,
}  # fmt: skip


def sample(name: str, shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> tuple[Any, ...]:
    batch, heads, kv_heads, q_len, kv_len, d, e = shape
    rng = np.random.default_rng([seed, *name.encode()])
    sizes = (batch, heads, q_len, d), (batch, kv_heads, kv_len, d), (batch, kv_heads, kv_len, e)
    q, k, v = (rng.standard_normal(size).astype(dtype) for size in sizes)
    return q, k, v, examples_of(name, rng, *shape, dtype)


def published(name: str, q: Any, k: Any, v: Any, operands: dict[str, Any]) -> np.ndarray:
    group = q.shape[1] // k.shape[1]
    x = SimpleNamespace(q=torch.from_numpy(q), n=q.shape[2], m=k.shape[2], d=q.shape[3])
    x.k, x.v = (torch.from_numpy(y).repeat_interleave(group, 1) for y in (k, v))
    x.o = {key: torch.from_numpy(y) if isinstance(y, np.ndarray) else y for key, y in operands.items()}
    x.s = x.q @ x.k.mT / math.sqrt(x.d)
    return FORMULAS[name](x).numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_variant_is_the_published_formula(name: str, shape: tuple[int, ...]) -> None:
    q, k, v, operands = sample(name, shape)
    found = getattr(variants, name).reference(q, k, v, **operands)
    np.testing.assert_allclose(found, published(name, q, k, v, operands), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FORMULAS)),
    shape=st.tuples(
        st.integers(1, 2), st.just(4), st.sampled_from([1, 2, 4]), st.integers(1, 7), st.integers(0, 9), st.integers(1, 5),
        st.integers(1, 4),
    ),
    tile=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_one_sweep_in_tiles_gives_the_same(name: str, shape: Any, tile: Any, seed: int) -> None:
    q, k, v, operands = sample(name, shape, seed=seed)
    variant = getattr(variants, name)
    call = bind(variant.signature, q, k, v, operands, "bhld")
    graph = variant._trace(call)
    program = lower(graph)
    assert len(program.sweeps) == 1
    for part in (None, 2 * tile[1]):
        assert farthest(interpret(graph, call.inputs), run(program, call.inputs, tile=tile, part=part)) <= 1e-11


DTYPES = ("float32", "bfloat16", "float16", "float64")
TURN = int(os.environ.get("ATTNC_DTYPE_TURN", "0"))  # 1, 2, 3 by hand: the same kernels in other dtypes
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}


def kernel_call(name: str, batch: int = 2) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arrays and operands for the one kernel of a variant, which the tests share; dtypes in turn."""
    from attnc.fuzz.samples import Setting, arrays, operands

    n = sorted(FORMULAS).index(name)
    dtype = DTYPES[(n + TURN) % len(DTYPES)]
    setting = Setting(
        D=24, Dv=20, lengths=(70, 131), batch=batch, dtype=dtype, heads=(4, 2), strided=False, layout="bhld"
    )
    rng = np.random.default_rng(n)
    return arrays(setting, rng), operands(getattr(variants, name), setting, rng)


def exact(x: Any) -> Any:
    """The same numbers in float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "biu" else x


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_a_kernel_verifies(name: str) -> None:
    """And is the published formula. One dtype each, in turn; `attnc check NAME` goes through all."""
    inputs, given = kernel_call(name)
    variant = getattr(variants, name)
    found = variant.verify(*inputs, **given)
    assert found.ok, str(found)
    out = exact(variant(*inputs, **given))
    wanted = published(name, *map(exact, inputs), {key: exact(x) for key, x in given.items()})
    near = 16 * EPS[inputs[0].dtype.name] * max(1.0, abs(wanted).max())
    np.testing.assert_allclose(out, wanted, rtol=0, atol=near)


def test_the_concat_form_is_the_additive_one_with_halves_of_its_matrix() -> None:
    q, k, v, _ = sample("bahdanau", (1, 1, 1, 4, 6, 3, 2))
    rng = np.random.default_rng(3)
    W, u = rng.standard_normal((6, 5)), rng.standard_normal(5)
    pairs = np.concatenate(np.broadcast_arrays(q[0, 0, :, None], k[0, 0, None]), -1)
    weights = np.exp(np.tanh(pairs @ W) @ u)
    expected = weights @ v[0, 0] / weights.sum(-1, keepdims=True)
    halves = {"Wq": W[:3], "Wk": W[3:], "u": u}
    for call in (variants.bahdanau.reference, variants.bahdanau):
        np.testing.assert_allclose(call(q, k, v, **halves)[0, 0], expected, rtol=0, atol=1e-13)


def test_several_attentions_share_a_sweep_with_a_state_each() -> None:
    """And what they have in common: the scores of windows, the values."""
    for name, scores in (("differential", 2), ("mixed_windows", 1)):
        q, k, v, operands = sample(name, SHAPES[0])
        variant = getattr(variants, name)
        (sweep,) = lower(variant._trace(bind(variant.signature, q, k, v, operands, "bhld"))).sweeps
        body = sweep.partial
        assert [x.name for x in sweep.states] == ["m", "m2", "l", "acc", "l2", "acc2"]
        assert sum(isinstance(x, Dot) for x in body) == scores
        assert sum(isinstance(x, Load) and x.feature == "e" for x in body) == 1
        assert sum(isinstance(x, DotAcc) for x in body) == 2
        assert "sweep 0" in variant.explain(q, k, v, **operands) and "sweep 1" not in variant.explain(
            q, k, v, **operands
        )


def test_differential_attention_without_its_norm_is_a_difference() -> None:
    q, k, v, o = sample("differential", (1, 2, 2, 9, 9, 4, 3))
    first, second = variants.causal.reference(q, k, v), variants.causal.reference(o["q2"], o["k2"], v)
    found = variants.differential.reference(q, k, v, q2=o["q2"], k2=o["k2"], lam=o["lam"])
    np.testing.assert_allclose(found, first - o["lam"][:, None, None] * second, rtol=0, atol=1e-13)
    windows = np.ones((1, 2, 9, 2))
    alone = [variants.sliding_window.reference(q, k, v, window=n) for n in (2, 5)]
    mixed = variants.mixed_windows.reference(q, k, v, gates=windows, near=2, far=5)
    np.testing.assert_allclose(mixed, sum(alone), rtol=0, atol=1e-13)


def test_retention_is_its_recurrence() -> None:
    """S_n = γ S_(n−1) + k_nᵀ v_n, z_n = γ z_(n−1) + k_n; o_n = q_n S_n / max(|q_n z_n|, 1)."""
    q, k, v, _ = sample("retention", (1, 2, 2, 30, 30, 4, 3))
    decay = np.array(standard_decay(2))
    found = variants.retention.reference(q, k, v, log_decay=decay)
    for h, gamma in enumerate(1 - 2.0 ** (-5 - np.arange(2))):
        state, z = np.zeros((4, 3)), np.zeros(4)
        for n in range(30):
            state = gamma * state + np.outer(k[0, h, n], v[0, h, n])
            z = gamma * z + k[0, h, n]
            row = q[0, h, n] / 2 @ state / max(abs(q[0, h, n] / 2 @ z), 1)
            np.testing.assert_allclose(found[0, h, n], row, rtol=0, atol=1e-12)


def test_rotations_keep_lengths_and_depend_on_the_distance() -> None:
    for dim in (1, 2, 5, 8):
        turn, angles = np.array(quarter_turn(dim)), np.array(frequencies(dim))
        even = dim // 2 * 2
        np.testing.assert_array_equal((turn @ turn)[:even, :even], -np.eye(even))
        assert len(angles) == dim and all(len(x) == dim for x in axial(dim))
    q, k, v, operands = sample("rope", (1, 1, 1, 1, 6, 4, 2))
    one = variants.rope.reference(q, k, v, **operands)
    again = variants.rope.reference(q, np.concatenate([0 * k, k], 2), np.concatenate([0 * v, v], 2), **operands)
    scores = np.log(variants.rope.reference(q, k, np.eye(6)[None, None], **operands))
    later = np.log(
        variants.rope.reference(q, np.concatenate([0 * k, k], 2), np.eye(12)[None, None], **operands)[..., 6:]
    )
    np.testing.assert_allclose(np.diff(scores), np.diff(later), rtol=0, atol=1e-12)
    assert not np.allclose(one, again), "the six keys before take part"
