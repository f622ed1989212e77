"""NaN and infinite values of v: those of live keys reach the output, those in masked places do not."""

import ml_dtypes
import numpy as np
import pytest
from running import run
from test_cuda_variants import sample

import attnc as at
import attnc.variants as library
from attnc.schedule.short import Form

DTYPES = pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32], ids=lambda x: np.dtype(x).name)
SHAPE = {"B": 1, "Hq": 2, "Hkv": 1, "Lq": 20, "Lk": 75, "D": 16, "Dv": 24}
WIDE = {"D": 32, "Dv": 32}


@at.attention
def window(q, k, v, i, j, *, low: int = 10):
    """Keys before `low` and far after the query are masked."""
    return at.softmax(at.dot(q, k) * 0.25, where=(j >= low) & (j <= i + 50)) @ v


@at.attention
def signed(q, k, v, i, j):
    """Weights of both signs, without a softmax."""
    return at.where(j <= i + 50, at.tanh(at.dot(q, k)), 0.0) @ v


@at.attention
def twice(q, k, v, i, j):
    """Two products read the tile of v, and a third the scaled v."""
    s = at.dot(q, k) * 0.25
    near, far = at.softmax(s, where=j <= i + 50), at.softmax(-s, where=j >= 10)
    return near @ v - 0.5 * (far @ v), near @ (v * 2.0)


def poisoned(dtype, **changes):
    """Some values of v, NaN and infinite; features 0 to 3 are finite where j is between 10 and 69."""
    q, k, v, _ = sample("full", dtype, **SHAPE | changes)
    v[..., 3, 0], v[..., 8, 1], v[..., 72, 2], v[..., 74, 3] = np.nan, np.inf, -np.inf, np.nan
    v[..., 12, 5], v[..., 40, 6], v[..., 66, 7] = np.nan, np.inf, -np.inf
    v[..., 12, 8], v[..., 40, 8] = np.inf, -np.inf
    v[..., 12, 9], v[..., 72, 9] = np.inf, -np.inf
    return q, k, v


def agrees(found):
    """Within the bound, NaN and infinities where the reference has them."""
    assert found.report().ok, str(found.report())
    return found


@DTYPES
@pytest.mark.parametrize("keys", [32, 64])
@pytest.mark.parametrize("variant", [window, signed, twice], ids=lambda x: x.__name__)
def test_a_masked_value_adds_nothing(variant, keys, dtype):
    found = agrees(run(variant, *poisoned(dtype, **(WIDE if keys == 32 else {})), {}, keys=keys))
    if variant is window:
        out = found.outputs[0].astype(np.float32)[0, 0]
        assert np.isfinite(out[:, :4]).all() and np.isnan(out[:, 5]).all() and (out[:, 6] == np.inf).all()
        assert np.isfinite(out[:16, 7]).all() and (out[16:, 7] == -np.inf).all() and np.isnan(out[:, 8]).all()
        assert (out[:, 9] == np.inf).all()


def test_finite_values_run_once_only():
    """A planted difference in the careful run shows where there is one."""
    q, k, v, _ = sample("full", np.float16, **SHAPE)

    def spoil(text):
        assert text.count("careful = True") == 1
        return text.replace("careful = True", "careful = 1 // 0")

    agrees(run(window, q, k, v, {}, edit=spoil))
    with pytest.raises(ZeroDivisionError):
        run(window, *poisoned(np.float16), {}, edit=spoil)


def test_a_nan_of_a_masked_key_is_not_read():
    """NaN in k where no query looks, and in q of one query: of its row only."""
    q, k, v = sample("full", ml_dtypes.bfloat16, **SHAPE)[:3]
    k[..., 3, :], k[..., 74, 2], q[0, 0, 7, 1] = np.nan, np.inf, np.nan
    out = agrees(run(window, q, k, v, {})).outputs[0].astype(np.float32)
    assert (
        np.isnan(out[0, 0, 7]).all() and np.isfinite(np.delete(out[0, 0], 7, 0)).all() and np.isfinite(out[0, 1]).all()
    )


@DTYPES
def test_weights_that_are_tiny_still_count(dtype):
    """exp(-200) is no 0: an infinite value there is one in the output, and so it stays when the maximum moves on."""
    q, k, v, _ = sample("full", dtype, **SHAPE | {"Lk": 70})
    q[...], k[...] = 1, 0
    k[..., 40, :], k[..., 69, :] = 5, 50
    v[..., 3, 1], v[..., 50, 2] = np.inf, np.nan
    found = agrees(run(window, q, k, v, {"low": 0}))
    out = found.outputs[0].astype(np.float32)[0, :, 19]
    assert (out[:, 1] == np.inf).all() and np.isnan(out[:, 2]).all() and np.isfinite(out[:, 3:]).all()


@at.attention
def linear(q, k, v, i, j):
    """Weights without bounds, of both signs."""
    return at.where(j <= i + 50, at.dot(q, k), 0.0) @ v, at.where(j > i, at.dot(q, k), 0.0) @ v


@pytest.mark.parametrize("poison", [False, True])
def test_weights_beyond_float16(poison):
    """q k^T up to 10^6 times values of 10^-4: the products are small numbers again."""
    q, k, v = poisoned(np.float16) if poison else sample("full", np.float16, **SHAPE)[:3]
    found = agrees(run(linear, q * np.float16(300), k * np.float16(300), v * np.float16(1e-4), {}))
    assert poison or np.isfinite(found.outputs[0].astype(np.float32)).all()


def test_an_infinite_part_far_below_the_others_stays_infinite():
    """Parts are scaled by a weight, which is not 0 for a live key: 0 times infinity would be NaN."""
    q, k, v, _ = sample("full", ml_dtypes.bfloat16, B=1, Hq=2, Hkv=1, Lq=1, Lk=600, D=16, Dv=16)
    q[:], k[:] = 1.0, 0.0
    k[:, :, :256] = -100.0
    v[..., 5, 0], v[..., 300, 1] = np.inf, -np.inf
    found = agrees(run(library.full, q, k, v, {}, form=Form(True, True, 1)))
    out = found.outputs[0].astype(np.float32)
    assert np.isinf(out[..., :2]).all() and np.isfinite(out[..., 2:]).all()
