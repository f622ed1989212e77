"""Every variant of the library verifies: a pairwise cover of variants, head dims, lengths, dtypes, heads, strides, layouts."""

from itertools import combinations, product

import pytest

from attnc import variants
from attnc.fuzz.check import FACTORS, check, settings_of
from attnc.fuzz.pairs import pairwise

NAMES = tuple(variants.__all__)
COMPILED = ("D", "other_Dv", "dtype")  # what makes a kernel of its own
RUN = {name: values for name, values in FACTORS.items() if name not in COMPILED}
PARTS = 2


def kernel(variant: str, n: int) -> dict[str, object]:
    """One of a variant's kernels, one per head dim: which dtype that goes with is another one for the next variant."""
    shift = NAMES.index(variant)
    return {
        "D": FACTORS["D"][n],
        "other_Dv": FACTORS["other_Dv"][(n + shift // 4) % 2],
        "dtype": FACTORS["dtype"][(n + shift) % 4],
    }


ROWS = [
    {**row, **kernel(row["variant"], row["kernel"])}
    for row in pairwise({"variant": NAMES, "kernel": tuple(range(len(FACTORS["D"]))), **RUN})
]


def test_every_two_values_meet():
    factors = {"variant": NAMES, **FACTORS}
    for a, b in combinations(factors, 2):
        assert {(row[a], row[b]) for row in ROWS} == set(product(factors[a], factors[b])), (a, b)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", NAMES)
def test_a_variant_verifies(name, part):
    rows = [{x: row[x] for x in FACTORS} for row in ROWS if row["variant"] == name and row["kernel"] % PARTS == part]
    outcomes = list(check(getattr(variants, name), settings_of(rows)))
    assert len(outcomes) >= len(FACTORS["D"]) // PARTS
    assert not [f"{x.setting}: {x.text}" for x in outcomes if not x.ok]
