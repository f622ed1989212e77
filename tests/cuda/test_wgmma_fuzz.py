"""Random programs in the schedule `wgmma`: the exact emitted source, run in the emulator, against the reference."""

import os

import pytest
from running import run

from attnc.backends.cuda import plan
from attnc.fuzz.case import make
from attnc.fuzz.run import KERNELS_FROM
from attnc.schedule.wgmma import Wgmma

SEED = int(os.environ.get("ATTNC_FUZZ_SEED", "11"))  # others are for long runs by hand
PROGRAMS, CHUNK = 30, 6
DTYPES = ("bfloat16", "float16")
LENGTHS = (1, 17, 33, 65)
DIMS = (8, 16)


def program(number):
    return make(SEED, KERNELS_FROM + number, DTYPES[number % 2], LENGTHS, DIMS)


def small(x, shared):
    """Tiles of few keys, so that there are many."""
    return [Wgmma(2, 32, 2, x.overlap, x.overlap)]


@pytest.mark.parametrize("start", range(0, PROGRAMS, CHUNK))
def test_programs_agree_with_the_reference(start, monkeypatch):
    """Two of three in small tiles, the others in those that are chosen."""
    taken = 0
    for number in range(start, start + CHUNK):
        case = program(number)
        monkeypatch.undo()
        if number % 3:
            monkeypatch.setattr(plan, "wgmma_candidates", small)
        found = run(
            case.variant, case.inputs.q, case.inputs.k, case.inputs.v, dict(case.operands), target="sm_90a", blocks=3
        )
        assert found.report().ok, f"{found.report()}\n{case}"
        taken += isinstance(found.schedule, Wgmma)
    assert taken >= CHUNK - 1
