"""`f.source(..., device="cuda")`, and what it refuses."""

import numpy as np
import pytest

import attnc as at
from attnc import variants
from attnc.errors import UnsupportedError


def arrays(dtype=np.float16, D=64, L=40):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 2, L, D)).astype(dtype) for _ in range(3)]


def test_the_source_is_short_and_says_what_it_is():
    text = variants.causal.source(*arrays(), device="cuda")
    assert text.startswith('"""causal') and "mma_f16" in text
    assert len(text.splitlines()) <= 250
    assert variants.causal.source(*arrays(), device="cuda", target="sm_80") == text
    assert variants.causal.source(*arrays(), device="cpu") == variants.causal.source(*arrays())


def test_few_queries_show_the_kernels_that_they_take():
    q, k, v = arrays(L=600)
    text = variants.causal.source(q[:, :, :1], k, v, device="cuda")
    assert text.count("def kernel(") == 2 and "the parts merged" in text and "part * length" in text
    assert variants.causal.source(q, k, v, device="cuda").count("def kernel(") == 1


def test_an_operand_called_device_goes_first():
    @at.attention
    def scaled(q, k, v, *, device: float):
        return at.softmax(at.dot(q, k) * device) @ v

    assert "cuda" not in scaled.source(*arrays(), device=0.5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: variants.full.source(*arrays(), device="tpu"), "'tpu'"),
        (lambda: variants.full.source(*arrays(), device="cuda", target="sm_70"), "sm_80"),
        (lambda: variants.full.source(*arrays(np.float64), device="cuda"), "float64"),
        (lambda: variants.full.source(*arrays(D=264), device="cuda"), "256"),
    ],
    ids=["device", "target", "dtype", "head dim"],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(UnsupportedError, match=words):
        call()
