"""The emitted source of some variants, as files under tests/golden/cuda; and that the very files are right, in the emulator.

`pytest --update-golden` writes the files anew: read the difference before you commit it.
"""

from pathlib import Path

import ml_dtypes
import pytest
from running import run
from test_cuda_variants import sample

import attnc.variants as library

FOLDER = Path(__file__).parents[1] / "golden" / "cuda"
NAMES = {
    "full": "sm_90", "causal": "sm_90", "soft_cap": "sm_90", "alibi": "sm_90", "full_sm_90a": "sm_90a", "causal_sm_90a": "sm_90a",
}  # fmt: skip
LONGEST = {"sm_90": 250, "sm_90a": 310}  # lines that a person reads


def variant(name: str) -> str:
    return name.removesuffix("_sm_90a")


@pytest.mark.parametrize("name", NAMES)
def test_the_source_is_printed_as_before(name: str, update_golden: bool) -> None:
    q, k, v, operands = sample(variant(name), ml_dtypes.bfloat16)
    text = getattr(library, variant(name)).source(q, k, v, device="cuda", target=NAMES[name], **operands)
    path = FOLDER / f"{name}.txt"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no {path}: run pytest --update-golden"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs"
    assert len(text.splitlines()) <= LONGEST[NAMES[name]]


LENGTHS = [(1, 1), (70, 70), (129, 200), (130, 95)]
MORE = [("full_sm_90a", (193, 300)), ("causal_sm_90a", (193, 300))]  # two tiles of queries, three of keys


@pytest.mark.parametrize(("name", "lengths"), [*((name, x) for name in NAMES for x in LENGTHS), *MORE], ids=str)
def test_the_golden_source_is_right(name: str, lengths: tuple[int, int]) -> None:
    """A golden file proves only sameness: it runs against the interpreter, and rows with finite sums are not computed again."""
    heads = {"Hq": 2, "Hkv": 1} if NAMES[name] == "sm_90a" else {}
    q, k, v, operands = sample(variant(name), ml_dtypes.bfloat16, Lq=lengths[0], Lk=lengths[1], **heads)
    golden = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    found = run(getattr(library, variant(name)), q, k, v, operands, edit=lambda text: golden, target=NAMES[name])
    assert found.report().ok and not found.flags.any(), str(found.report())
