"""States that move with a sweep on CUDA: the exact emitted source, whole and with keys split over blocks, in the emulator."""

import ml_dtypes
import numpy as np
import pytest
from running import run

import attnc as at
from attnc.schedule.short import PLAIN, Form
from attnc.schedule.wgmma import Wgmma

BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
SPLIT = Form(True, True, 1)


@at.attention
def profile(q, k, v, i, j):
    """The output, the entropy, the variance of scores, hard attention with its ties, the spread of places."""
    s, seen = at.dot(q, k), (j <= i + 40) & (j % 7 != 3)
    p = at.softmax(s, where=seen)
    top = at.max(s, over="j")
    n = at.maximum(at.sum(seen, over="j"), 1)
    mean = at.sum(at.where(seen, s, 0.0), over="j") / n
    place = at.sum(p * j, over="j")
    return (
        p @ v,
        -at.sum(at.where(p == 0, 0.0, p * at.log(p)), over="j"),
        at.sum(at.where(seen, (s - mean) ** 2, 0.0), over="j") / n,
        at.where(s == top, 1.0, 0.0) @ v,
        at.sum(s == top, over="j"),
        at.sum(p * (j - place) ** 2, over="j"),
    )


def calls(q_len, kv_len, dtype):
    """Whole numbers, so that ties are ties."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.integers(-2, 3, (1, h, n, 16)) for h, n in ((2, q_len), (1, kv_len), (1, kv_len)))
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "target", "form", "lengths"),
    [
        (F32, "sm_80", PLAIN, (17, 65)), (BF16, "sm_80", PLAIN, (34, 71)), (F16, "sm_80", PLAIN, (1, 1)),
        (BF16, "sm_90a", PLAIN, (34, 71)), (F16, "sm_90a", PLAIN, (70, 129)), (BF16, "sm_80", PLAIN, (5, 0)),
        (BF16, "sm_80", SPLIT, (3, 1100)), (F32, "sm_80", SPLIT, (2, 1030)),
    ],
    ids=str,
)  # fmt: skip
def test_a_profile_is_right(dtype, target, form, lengths):
    found = run(profile, *calls(*lengths, dtype), {}, target=target, form=form)
    assert isinstance(found.schedule, Wgmma) == (target == "sm_90a")
    assert found.report().ok, str(found.report())


@at.attention
def hard(q, k, v):
    s = at.dot(q, k)
    return at.where(s == at.max(s, over="j"), 1.0, 0.0) @ v


@pytest.mark.parametrize(
    ("target", "form", "q_len", "kv_len"),
    [("sm_80", PLAIN, 20, 200), ("sm_90a", PLAIN, 20, 200), ("sm_80", SPLIT, 2, 1100)],
    ids=str,
)
def test_nothing_is_left_of_keys_that_were_the_maximum(target, form, q_len, kv_len):
    """Not even NaN."""
    q = np.zeros((1, 1, q_len, 16), BF16)
    k, v = (np.zeros((1, 1, kv_len, 16), BF16) for _ in range(2))
    q[..., 0], k[0, 0, :, 0], v[:] = 1, np.arange(kv_len) // 8, 3
    v[0, 0, : kv_len // 2] = np.nan
    found = run(hard, q, k, v, {}, target=target, form=form)
    largest = (k[0, 0, :, 0] == k[0, 0, -1, 0]).sum()
    np.testing.assert_array_equal(found.outputs[0].astype(np.float32), 3 * largest)
