"""Which kernels a call may run by how its rows lie: those for aligned rows, those that need tensor maps, or those for any rows."""

import numpy as np
import pytest
from pretended import hopper
from standin_machine import fresh

from attnc import variants
from attnc.backends.cuda.check import Rows, rows
from attnc.runtime.arrays import View
from attnc.runtime.binding import bind, describe
from attnc.schedule.cuda_target import TARGETS, named

ALL, ALIGNED, NONE = Rows(True, True), Rows(True, False), Rows(False, True)


def arrays(dtype=np.float16, B=2, H=2, L=20, D=16):
    return [np.zeros((B, H, L, D), dtype) for _ in range(3)]


def wide(x):
    """Rows that are 80 bytes apart, or of another dtype twice as far."""
    return np.concatenate([x, x, x], -1)[..., 8:24]


def apart(x, axis, step):
    """x with another stride along an axis; nothing of it is there."""
    strides = list(x.strides)
    strides[axis] = step
    return np.lib.stride_tricks.as_strided(x, x.shape, strides)


CASES = {
    "contiguous": (lambda x: x, ALL),
    "with gaps": (wide, ALL),
    "heads after rows": (lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2), ALL),
    "one batch for all": (lambda x: np.broadcast_to(x[:1], x.shape), ALL),
    "one head for all": (lambda x: np.broadcast_to(x[:, :1], x.shape), ALL),
    "one row for all": (lambda x: np.broadcast_to(x[:, :, :1], x.shape), ALIGNED),
    "rows backwards": (lambda x: x[:, :, ::-1], ALIGNED),
    "heads backwards": (lambda x: x[:, ::-1], ALIGNED),
    "batches backwards": (lambda x: x[::-1], ALIGNED),
    "far apart": (lambda x: apart(x, 0, 2**40 - 16), ALL),
    "too far apart": (lambda x: apart(x, 0, 2**40), ALIGNED),
    "eight bytes too far": (lambda x: np.concatenate([x, x], -1)[..., 4:20], NONE),
    "rows of 40 bytes": (lambda x: np.concatenate([x, x[..., :4]], -1)[..., :16], NONE),
}


def viewed(x):
    """Where x lies, as if on a device."""
    return View(x.__array_interface__["data"][0], x.shape, x.strides, x.dtype.name, "cupy", x)


def found(given, out=None, layout="bhld"):
    q, k, v = (describe(viewed(x)) for x in given)
    inputs = bind(variants.full.signature, q, k, v, {}, layout).inputs
    return rows(inputs, None if out is None else viewed(out))


@pytest.mark.parametrize("case", CASES)
def test_how_rows_lie(case):
    change, expected = CASES[case]
    q, k, v = arrays()
    for given in ((change(q), k, v), (q, change(k), v), (q, k, change(v))):
        result = found(given)
        assert result.aligned == expected.aligned
        assert not expected.aligned or result == expected


def test_one_entry_has_no_stride():
    q, k, v = (x[:, :, :1] for x in arrays())
    assert found((q, apart(k, 2, 0), apart(v, 2, -48))) == ALL
    q, k, v = (x[:1, :1] for x in arrays())
    assert found((q[:, ::-1], k[::-1], v)) == ALL
    assert found((q, k[:, :, 3:3, :], v[:, :, :0])) == ALL


def test_the_caller_s_output_counts():
    given, room = arrays(), np.zeros((2, 20, 2, 16), np.float16)
    assert found(given, np.zeros_like(given[0])) == ALL
    assert found(given, np.zeros_like(given[0])[:, :, ::-1]) == ALIGNED
    swapped = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in given]
    assert found(swapped, room, "blhd") == ALL
    assert found(swapped, np.concatenate([room, room], -1)[..., 4:20], "blhd").aligned is False


def test_wide_numbers_need_no_map():
    q, k, v = arrays(np.float32)
    assert found((q[:, :, ::-1], np.broadcast_to(k[:, :, :1], k.shape), v)) == ALL


def test_only_targets_with_features_need_maps():
    for target in TARGETS:
        assert ALL.fit(target) and not NONE.fit(target)
        assert ALIGNED.fit(target) == (target.name != "sm_90a")
    assert named("sm_90a").feature == "a"


@pytest.mark.parametrize(
    "capability, used", [((9, 0), [True, False, False, True]), ((8, 0), [True, True, False, True])]
)
def test_a_call_runs_kernels_that_take_its_rows(capability, used, site, monkeypatch):
    asked = []

    def executable(graph, program, problem, target, aligned, **options):
        asked.append((target, aligned))
        return hopper(graph, program, problem, target, aligned, **options)

    monkeypatch.setattr("attnc.compile.cuda_executable", executable)
    site.machine.capabilities, site.machine.emulate = [capability], False
    f, (q, k, v) = fresh(variants.causal), arrays()
    for change in ("contiguous", "rows backwards", "rows of 40 bytes", "one batch for all"):
        f(site.array(q), site.array(CASES[change][0](k)), site.array(v))
    assert [aligned for _, aligned in asked[: len(used)]] == used[: len(asked)]
    assert {target for target, _ in asked} == {"sm_90a" if capability == (9, 0) else "sm_80"}
