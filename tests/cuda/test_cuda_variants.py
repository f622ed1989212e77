"""Every variant of the library as a CUDA kernel: the exact emitted source, run in the emulator, against the reference."""

import ml_dtypes
import numpy as np
import pytest
from running import run

import attnc as at
import attnc.variants as library
from attnc.variants.samples import examples_of

FORMULAS = (
    "temperature", "softmax1", "learned_sink", "sigmoid", "relu", "relu_squared", "retention", "unnormalised", "cosine",
    "polynomial", "taylor", "luong_general", "bahdanau", "l2_distance", "rbf", "qk_norm", "rope", "rope_2d", "mla", "alphafold",
    "gat", "gatv2", "positional", "factorized_positional", "tupe", "graphormer",
    "differential", "mixed_windows",
)  # fmt: skip
NAMES = [name for name in library.__all__ if name not in FORMULAS]
SQUARE = ("natten", "sliding_tile")  # canvases: as many keys as queries


def sample(name, dtype, seed=0, B=1, Hq=4, Hkv=2, Lq=70, Lk=131, D=64, Dv=64):
    rng = np.random.default_rng(seed)
    if name in SQUARE:
        Lk = Lq
    operands = examples_of(name, rng, B, Hq, Hkv, Lq, Lk, D, Dv, dtype)

    def array(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return array(B, Hq, Lq, D), array(B, Hkv, Lk, D), array(B, Hkv, Lk, Dv), operands


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_right(name, dtype):
    q, k, v, operands = sample(name, dtype)
    found = run(getattr(library, name), q, k, v, operands).report()
    assert found.ok, str(found)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_right(name):
    """Small, for what a pair costs in the emulator; types in turn."""
    dtype = [ml_dtypes.bfloat16, np.float16][FORMULAS.index(name) % 2]
    q, k, v, operands = sample(name, dtype, Hq=2, Hkv=1, Lq=34, Lk=71, D=16, Dv=24)
    found = run(getattr(library, name), q, k, v, operands).report()
    assert found.ok, str(found)


@pytest.mark.parametrize(
    "shape",
    [
        {"Lq": 1, "Lk": 1, "D": 16, "Dv": 16},
        {"Lq": 17, "Lk": 63, "D": 80, "Dv": 48},
        {"Lq": 65, "Lk": 64, "D": 96, "Dv": 64},
        {"Lq": 3, "Lk": 65, "D": 128, "Dv": 32},
        {"Lq": 130, "Lk": 40, "D": 40, "Dv": 24},
        {"Lq": 33, "Lk": 70, "D": 256, "Dv": 256},
        {"Lq": 20, "Lk": 20, "D": 7, "Dv": 13},
    ],
    ids=str,
)
def test_any_length_and_head_dim(shape):
    q, k, v, operands = sample("causal", ml_dtypes.bfloat16, B=2, Hq=2, Hkv=1, **shape)
    found = run(library.causal, q, k, v, operands).report()
    assert found.ok, str(found)


def test_float32_multiplies_and_adds_on_the_same_fragments():
    q, k, v, operands = sample("soft_cap", np.float32, Hq=2, Hkv=1, Lq=18, Lk=37, D=24, Dv=16)
    found = run(library.soft_cap, q, k, v, operands).report()
    assert found.ok, str(found)


@pytest.mark.parametrize("target", ["sm_80", "sm_86"])
def test_large_head_dims_in_float32_take_small_tiles(target):
    q, k, v, operands = sample("causal", np.float32, Hq=1, Hkv=1, Lq=19, Lk=40, D=256, Dv=256)
    found = run(library.causal, q, k, v, operands, target=target)
    assert found.schedule.keys == 16 and found.report().ok, str(found.report())


def test_rows_that_are_not_aligned_are_copied_number_by_number():
    q, k, v, operands = sample("causal", np.float16, Hq=2, Hkv=1, Lq=40, Lk=50, D=32, Dv=32)
    found = run(library.causal, q, k, v, operands, aligned=False)
    assert "copy16" not in found.source.text
    assert found.report().ok, str(found.report())


def test_rows_without_keys_are_zero():
    q, k, v, _ = sample("causal", ml_dtypes.bfloat16, Hq=1, Hkv=1, Lq=70, Lk=20)
    out = run(library.causal, q, k, v, {}).outputs[0]
    assert not out[0, 0, :50].astype(np.float32).any()
    assert out[0, 0, 50:].astype(np.float32).any()


@at.attention
def by_distance(q, k, v):
    """Reads the features of the queries alone, of the keys alone, and of both."""
    distance = at.sum(q * q, over="d") + at.sum(k * k, over="d") - 2 * at.dot(q, k)
    return at.softmax(-distance) @ v


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32], ids=["bfloat16", "float32"])
def test_features_of_one_side_are_reduced(dtype):
    q, k, v, _ = sample("full", dtype, Hq=2, Hkv=1, Lq=20, Lk=37, D=16, Dv=16)
    found = run(by_distance, q, k, v, {}).report()
    assert found.ok, str(found)
