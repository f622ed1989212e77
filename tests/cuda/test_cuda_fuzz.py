"""Random programs as CUDA kernels: the exact emitted source, run in the emulator, against the reference."""

import os

import numpy as np
import pytest
from running import run

from attnc.errors import UnsupportedError
from attnc.fuzz.case import make
from attnc.fuzz.kernels import one_hot
from attnc.fuzz.run import KERNELS_FROM

SEED = int(os.environ.get("ATTNC_FUZZ_SEED", "3"))  # others are for long runs by hand
PROGRAMS, CHUNK = 200, 20
DTYPES = ("bfloat16", "float16")
LENGTHS = (1, 3, 5, 17, 17, 33, 70)  # of both sides: one tile or several, none of them whole


def program(number):
    """A program and how its kernel is made: few or many keys in a tile, rows copied in chunks or number by number."""
    case = make(SEED, KERNELS_FROM + number, DTYPES[number % 2], LENGTHS)
    return case, {"aligned": number % 5 != 0, **({"keys": 32} if number % 4 else {})}


def emulated(case, v, options):
    """The report of a run with other values v; of the schedule with 32 keys in a tile where there is one."""
    call = case.variant, case.inputs.q, case.inputs.k, v, dict(case.operands)
    try:
        return run(*call, **options).report()
    except StopIteration:
        return run(*call, aligned=options["aligned"]).report()


@pytest.mark.parametrize("start", range(0, PROGRAMS, CHUNK))
def test_programs_agree_with_the_reference(start):
    refused = []
    for number in range(start, start + CHUNK):
        try:
            case, options = program(number)
            found = emulated(case, case.inputs.v, options)
        except UnsupportedError as refusal:
            refused.append(refusal.message)
            continue
        assert found.ok, f"{found}\n{case}"
    assert not refused


def test_the_programs_are_of_many_kinds():
    cases = [make(SEED, KERNELS_FROM + number, DTYPES[number % 2], LENGTHS) for number in range(PROGRAMS)]
    shapes = [(x.inputs.q.shape, x.inputs.k.shape) for x in cases]
    assert sum(q[1] > k[1] for q, k in shapes) > 50  # grouped queries
    assert sum(q[2] % 2 and k[2] % 2 for q, k in shapes) > 50
    assert sum(q[2] > 64 for q, _ in shapes) > 10 and sum(k[2] > 64 for _, k in shapes) > 10
    empty = sum(
        bool(np.isneginf(case.variant.reference(x.q, x.k, x.v, return_lse=True, **case.operands)[-1]).any())
        for case in cases[:80]
        for x in [case.inputs]
        if case.lse
    )
    assert empty > 2


@pytest.mark.parametrize("number", range(0, 12, 3))
def test_weights_agree_one_by_one(number):
    case, options = program(number)
    for v in one_hot(case.inputs.v):
        found = emulated(case, v, options)
        assert found.ok, f"{found}\n{case}"
