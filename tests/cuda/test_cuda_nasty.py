"""Numbers at the border of what is defined, as `tests/unit/nasty_cases.py` has them: the exact result in the emulator too."""

import numpy as np
import pytest
from nasty_cases import CASES
from running import run


@pytest.mark.parametrize("name", CASES)
def test_the_emulator_gives_it(name: str) -> None:
    case = CASES[name]()
    *inputs, operands = case.arrays(case.dtype)
    found = run(case.variant, *inputs, operands, lse=case.lse is not None).outputs
    rtol, atol = max(case.rtol, 1e-6), 2 * case.rtol + case.atol
    np.testing.assert_allclose(found[0].ravel().astype(np.float64), case.out, rtol=rtol, atol=atol)
    if case.lse is not None:
        np.testing.assert_allclose(found[-1].ravel(), case.lse, rtol=rtol, atol=atol)
