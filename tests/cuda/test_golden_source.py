"""The emitted source of four variants, as files under tests/golden/cuda; and that the very files are right, in the emulator.

`pytest --update-golden` writes the files anew: read the difference before you commit it.
"""

from pathlib import Path

import ml_dtypes
import pytest
from running import run
from test_cuda_variants import sample

import attnc.variants as library

FOLDER = Path(__file__).parents[1] / "golden" / "cuda"
NAMES = ("full", "causal", "soft_cap", "alibi")
LONGEST = 250  # lines that a person reads


@pytest.mark.parametrize("name", NAMES)
def test_the_source_is_printed_as_before(name: str, update_golden: bool) -> None:
    q, k, v, operands = sample(name, ml_dtypes.bfloat16)
    text = getattr(library, name).source(q, k, v, device="cuda", **operands)
    path = FOLDER / f"{name}.txt"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no {path}: run pytest --update-golden"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs"
    assert len(text.splitlines()) <= LONGEST


@pytest.mark.parametrize("lengths", [(1, 1), (70, 70), (129, 200), (130, 95)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_golden_source_is_right(name: str, lengths: tuple[int, int]) -> None:
    """A golden file proves only sameness: it runs against the interpreter."""
    q, k, v, operands = sample(name, ml_dtypes.bfloat16, Lq=lengths[0], Lk=lengths[1])
    golden = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    found = run(getattr(library, name), q, k, v, operands, edit=lambda text: golden)
    assert found.report().ok, str(found.report())
