"""Feature vectors that a CUDA kernel computes: scaled, normalised, rotated, projected queries, keys and values."""

import ml_dtypes
import numpy as np
import pytest
from running import run
from test_cuda_variants import sample

import attnc as at
from attnc.errors import UnsupportedError


@at.attention
def general(q, k, v, *, w: at.Tensor["d", "r"]):
    """Luong's general score, with both sides projected."""
    return at.softmax(at.dot(q @ w, k @ w)) @ v


@at.attention
def cosine(q, k, v, *, scale: float = 5.0):
    """Normalised queries and keys."""
    q = q * at.rsqrt(at.sum(q * q, over="d") + 1e-3)
    k = k * at.rsqrt(at.sum(k * k, over="d") + 1e-3)
    return at.softmax(scale * at.dot(q, k)) @ v


@at.attention
def rotated(q, k, v, i, j, *, rate: at.Tensor["d"]):
    """A phase per position and feature."""
    return at.softmax(at.dot(q * at.cos(i * rate), k * at.cos(j * rate)) * 0.2) @ v


@at.attention
def additive(q, k, v, h, *, wq: at.Tensor["d", "r"], wk: at.Tensor["h", "d", "r"], u: at.Tensor["r"]):
    """Bahdanau's score."""
    return at.softmax(at.sum(u * at.tanh(q @ wq + k @ wk[h]), over="r")) @ v


@at.attention
def projected_values(q, k, v, i, j, h, *, w: at.Tensor["h", "e", "r"]):
    """Values of more features than the roles have, from a function that is not 0 behind the last key."""
    return at.softmax(at.dot(q, k) * 0.125, where=j <= i) @ (at.log(at.abs(v) + (j + 1)) @ w[h])


def operands(variant, dim, heads):
    rng = np.random.default_rng(1)

    def table(*shape):
        return (rng.standard_normal(shape) * shape[-2 if len(shape) > 1 else -1] ** -0.5).astype(np.float32)

    return {
        general: {"w": table(dim, 16)},
        cosine: {},
        rotated: {"rate": table(dim)},
        additive: {"wq": table(dim, 16), "wk": table(heads, dim, 16), "u": table(16)},
        projected_values: {"w": table(heads, dim, 40)},
    }[variant]


DTYPES = pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32], ids=lambda x: np.dtype(x).name)


@DTYPES
@pytest.mark.parametrize("variant", [general, cosine, rotated, additive, projected_values], ids=lambda x: x.__name__)
def test_computed_vectors_are_right(variant, dtype):
    q, k, v, _ = sample("full", dtype, Hq=2, Hkv=1, Lq=20, Lk=69, D=24, Dv=24)
    found = run(variant, q, k, v, operands(variant, 24, 2)).report()
    assert found.ok, str(found)


def test_a_vector_that_is_too_long_is_refused():
    q, k, v, _ = sample("full", np.float16, Hq=1, Hkv=1, Lq=4, Lk=4, D=16, Dv=16)
    with pytest.raises(UnsupportedError, match="feature vectors of 264"):
        run(general, q, k, v, {"w": np.ones((16, 264), np.float16)})
