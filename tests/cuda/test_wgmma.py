"""The schedule `wgmma` of every variant of the library: the exact emitted source, run in the emulator, against the reference."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
from running import emitted, run
from test_cuda_variants import FORMULAS, NAMES, sample
from test_nonfinite import SHAPE, agrees, linear, poisoned, signed, twice, window

import attnc as at
import attnc.variants as library
from attnc.backends.cuda.hopper import queue
from attnc.schedule.short import Form
from attnc.schedule.wgmma import UNIT, Shape, Wgmma, candidates

TARGET = "sm_90a"
DTYPES = (ml_dtypes.bfloat16, np.float16)
hopper = partial(run, target=TARGET)
SMALL = {"Hq": 2, "Hkv": 1, "Lq": 34, "Lk": 71, "D": 16, "Dv": 24}


def checked(name, dtype=ml_dtypes.bfloat16, **shape):
    """A run of a variant that took the schedule and is right."""
    blocks = shape.pop("blocks", 2)
    q, k, v, operands = sample(name, dtype, **shape)
    found = hopper(getattr(library, name), q, k, v, operands, blocks=blocks)
    assert isinstance(found.schedule, Wgmma)
    assert not found.flags.any(), "rows were computed again, though all sums are finite"
    return agrees(found)


@pytest.mark.parametrize("name", [*NAMES, *FORMULAS])
def test_a_variant_is_right(name):
    dtype = DTYPES[(*NAMES, *FORMULAS).index(name) % 2]
    checked(name, dtype, **(SMALL if name in FORMULAS else {"Hq": 2, "Hkv": 1, "Lq": 70, "Lk": 131, "D": 32, "Dv": 32}))


@pytest.mark.parametrize(
    ("shape", "rows", "overlap"),
    [
        ({"D": 64, "Dv": 64, "Lq": 193, "Lk": 100}, 192, True),
        ({"D": 96, "Dv": 96, "Lq": 129, "Lk": 127}, 128, True),
        ({"D": 128, "Dv": 128, "Lq": 127, "Lk": 257}, 128, True),
        ({"D": 192, "Dv": 128, "Lq": 65, "Lk": 130}, 128, True),
        ({"D": 256, "Dv": 256, "Lq": 63, "Lk": 161}, 128, True),
        ({"D": 80, "Dv": 48, "Lq": 17, "Lk": 63}, 128, True),
        ({"D": 8, "Dv": 8, "Lq": 1, "Lk": 1}, 192, True),
        ({"D": 128, "Dv": 32, "Lq": 40, "Lk": 129}, 128, True),
    ],
    ids=str,
)
def test_any_head_dim_of_whole_chunks(shape, rows, overlap):
    found = checked("causal", B=2, Hq=2, Hkv=1, **shape)
    assert (found.schedule.rows, found.schedule.overlap) == (rows, overlap)


@at.attention
def scores_as_weights(q, k, v, i, j):
    """Where a tile is full the scores are the weights, where it is not others are."""
    return at.where(j <= i, at.dot(q, k), 0.0) @ v


@pytest.mark.parametrize("keys", [40, 200])
def test_weights_of_full_and_partial_tiles_need_not_be_called_alike(keys):
    q, k, v, _ = sample("full", np.float16, Hq=1, Hkv=1, Lq=keys, Lk=keys, D=32, Dv=32)
    agrees(hopper(scores_as_weights, q, k, v, {}, blocks=2))


@pytest.mark.parametrize("name", ["causal", "sliding_window", "document", "full"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_take_items_until_there_are_none(name, blocks, monkeypatch):
    """Several tiles of several heads and batches: with so little cache that they are taken in many sections."""
    monkeypatch.setattr(queue, "CACHE", 30_000)
    checked(name, B=2, Hq=4, Hkv=2, Lq=200, Lk=200, D=16, Dv=16, blocks=blocks)


def test_rows_without_keys_are_zero():
    found = checked("causal", Hq=1, Hkv=1, Lq=270, Lk=20, D=64, Dv=64)
    out = found.outputs[0].astype(np.float32)[0, 0]
    assert not out[:250].any() and out[250:].any(axis=1).all()


def test_no_keys_at_all():
    out = checked("full", Lq=5, Lk=0, D=16, Dv=16).outputs[0].astype(np.float32)
    assert not out.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["causal", "softmax1"])
def test_the_lse_is_right(name, dtype):
    q, k, v, operands = sample(name, dtype, Hq=2, Hkv=1, Lq=150, Lk=140, D=64, Dv=64)
    found = agrees(hopper(getattr(library, name), q, k, v, operands, lse=True))
    assert found.outputs[1].dtype == np.float32 and np.isfinite(found.outputs[1][..., 20:]).all()


def layouts(dtype=ml_dtypes.bfloat16, B=2, H=4, L=70, D=32):
    """q, k and v as views: lengths before heads, one head for all, one batch for all, a part of longer rows."""
    rng = np.random.default_rng(3)

    def array(*shape):
        return rng.standard_normal(shape).astype(dtype)

    yield "lengths first", tuple(array(B, L, H, D).swapaxes(1, 2) for _ in range(3))
    q, k, v = (array(B, H, L, D) for _ in range(3))
    yield "one head", (q, np.broadcast_to(k[:, :1], k.shape), np.broadcast_to(v[:, :1], v.shape))
    yield "one batch", (q, np.broadcast_to(k[:1], k.shape), v)
    packed = array(B, L, H, 3 * D)
    yield "packed", tuple(packed[..., n * D : (n + 1) * D].swapaxes(1, 2) for n in range(3))
    yield "every second key", (q, array(B, H, 2 * L, D)[:, :, ::2], array(B, H, 2 * L, D)[:, :, ::2])


@pytest.mark.parametrize(("name", "arrays"), list(layouts()), ids=lambda x: x if isinstance(x, str) else "")
def test_any_layout_that_a_map_describes(name, arrays):
    agrees(hopper(library.causal, *arrays, {}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [window, signed, twice, linear], ids=lambda x: x.__name__)
def test_a_masked_value_adds_nothing(variant, dtype):
    """Rows whose sums are not finite are computed again by a kernel of their own."""
    found = agrees(hopper(variant, *poisoned(dtype, D=32, Dv=32, Lq=200, Lk=75), {}))
    assert found.source.repair is not None


def test_only_rows_with_a_flag_are_repaired():
    """A planted difference in the second kernel shows where it works: in the units of 64 queries that see an infinity."""
    q, k, v, operands = sample("causal", np.float16, **SHAPE | {"Lq": 400, "Lk": 400, "D": 16, "Dv": 24})
    v[0, 0, 390, 3] = np.inf

    def spoil(text):
        return text.replace("where(eq(l[rt, hf], 0.0), 0.0,", "where(eq(l[rt, hf], 0.0), 0.0, 2.0 *")

    good = hopper(library.causal, q, k, v, operands).outputs[0].astype(np.float32)
    out = hopper(library.causal, q, k, v, operands, repair=spoil).outputs[0].astype(np.float32)
    assert (out[:, :, :384] == good[:, :, :384]).all()
    assert np.isfinite(out[:, :, 384:390]).all() and (out[:, :, 384:390] != good[:, :, 384:390]).any()


def test_what_has_no_weights_of_zero_needs_no_repair():
    source = emitted(library.unnormalised, *sample("unnormalised", np.float16, **SMALL), target=TARGET)[0]
    assert (source.repair is None) == ("vote_any" not in source.text)


@pytest.mark.parametrize(
    ("options", "dtype", "shape"),
    [
        ({"target": "sm_90"}, np.float16, {}),
        ({"aligned": False}, np.float16, {}),
        ({"form": Form(False, True, 1)}, np.float16, {}),
        ({}, np.float32, {}),
        ({}, np.float16, {"D": 12}),
        ({}, np.float16, {"Dv": 20}),
    ],
    ids=str,
)
def test_another_schedule_serves_where_it_cannot(options, dtype, shape):
    q, k, v, operands = sample("full", dtype, **SMALL | {"D": 16, "Dv": 16} | shape)
    schedule = emitted(library.full, q, k, v, operands, **{"target": TARGET} | options)[1]
    assert not isinstance(schedule, Wgmma)


@pytest.mark.parametrize("widest", [16, 64, 96, 128, 192, 256])
def test_schedules_have_registers_and_shared_memory(widest):
    shape = Shape(2 * widest, 4 * widest, 0, 1.5, widest, widest, True)
    found = list(candidates(shape, 226 * 1024))
    assert found
    for s in found:
        producer, consumer = s.registers
        start = 65536 // s.threads // 8 * 8  # what a thread is launched with
        assert producer + s.consumers * consumer <= (s.consumers + 1) * start
        assert s.rows == UNIT * s.consumers and sum(s.groups) == s.threads and s.keys % 16 == 0
        assert s.rows * shape.query + s.stages * s.keys * shape.ring <= 226 * 1024
        assert s.keys * 1.5 / 2 + widest / 2 < consumer


@at.attention
def named_as_maps(q, k, v, i, *, q_map: float = 0.5, out0_map: float = 2.0):
    """Operands with the names of parameters."""
    return at.softmax(at.dot(q, k) * q_map) @ v * out0_map


def test_operands_may_be_called_as_the_maps_are():
    q, k, v, _ = sample("full", np.float16, **SMALL)
    found = agrees(hopper(named_as_maps, q, k, v, {"q_map": 0.3, "out0_map": 1.5}))
    assert isinstance(found.schedule, Wgmma)
