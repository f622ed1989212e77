"""Whole calls on a stand-in H200: the schedule wgmma from argument block, maps, queue and flags to the output, in the emulator."""

import ml_dtypes
import numpy as np
import pytest
from standin_machine import fresh
from test_device_call import inputs, near

from attnc import variants

BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_a_call_takes_the_queue(hopper, kind):
    f, host = fresh(variants.causal), inputs(Lq=200, Lk=150)
    q, k, v = (hopper.array(x, kind) for x in host)
    near(f(q, k, v), f.reference(*host))
    main, repair = hopper.machine.launches
    assert set(main.maps) == {"q_map", "k_map", "v_map", "out0_map"} and not repair.maps
    assert (main.grid, main.threads) == (2, 512) and repair.grid == 2 * 4 * 4
    assert [x.size for x in hopper.machine.memsets] == [16 + 4 * repair.grid]


def test_a_repeated_call_with_other_arrays(hopper):
    f = fresh(variants.causal)
    for seed in range(3):
        host = inputs(Lq=70, Lk=70, seed=seed)
        out = f(*(hopper.array(x) for x in host))
        near(out, f.reference(*host))
    assert len(hopper.machine.launches) == 6 and len(hopper.machine.memsets) == 3


def test_an_infinite_value_in_a_masked_place_is_repaired(hopper):
    f, host = fresh(variants.causal), inputs(Lq=70, Lk=70)
    host[2][:, :, 40, 3] = np.inf
    out = f(*(hopper.array(x) for x in host)).host.astype(np.float32)
    assert np.isfinite(out[:, :, :40]).all() and (out[:, :, 40:, 3] == np.inf).all()


def test_lengths_before_heads_and_tables(hopper):
    f, host = fresh(variants.document), inputs(Lq=90, Lk=90)
    doc = np.sort(np.random.default_rng(2).integers(0, 4, (2, 90)))
    expected = f.reference(*host, doc=doc)
    swapped = [hopper.array(np.ascontiguousarray(x.transpose(0, 2, 1, 3)), "torch") for x in host]
    out = f(*swapped, doc=hopper.array(doc, "torch"), layout="blhd")
    near_out = out.host.transpose(0, 2, 1, 3).astype(np.float64)
    np.testing.assert_allclose(near_out, expected, atol=3e-2)
    assert hopper.machine.launches[-2].maps


def test_few_queries_and_uneven_rows_take_other_kernels(hopper):
    f = fresh(variants.full)
    for shape in ({"Lq": 1, "Lk": 300}, {"D": 12}):
        host = inputs(**shape)
        near(f(*(hopper.array(x) for x in host)), f.reference(*host))
    assert not any(x.maps for x in hopper.machine.launches)
