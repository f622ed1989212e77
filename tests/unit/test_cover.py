"""Every variant of the library verifies: a cover of variants, head dims, lengths, dtypes, heads, strides and layouts."""

from itertools import combinations, product

import pytest
from test_papers import FORMULAS

from attnc import variants
from attnc.fuzz.check import FACTORS, check, settings_of
from attnc.fuzz.pairs import pairwise

NAMES = tuple(name for name in variants.__all__ if name not in FORMULAS)  # of those one kernel each: test_papers
KERNELS = 4  # per variant: as many head dims, each with another dtype
RUN = {name: values for name, values in FACTORS.items() if name not in ("D", "other_Dv", "dtype")}
PARTS = 2


def kernel(variant, n):
    """What makes a kernel of its own."""
    shift = NAMES.index(variant)
    return {
        "D": FACTORS["D"][(n + shift) % len(FACTORS["D"])],
        "other_Dv": FACTORS["other_Dv"][(n + shift // 2) % 2],
        "dtype": FACTORS["dtype"][(n + shift // 5) % 4],
    }


def cover():
    """Settings in which every two values meet, but for a variant and a head dim: KERNELS of these do."""
    found = pairwise({"variant": NAMES, "kernel": tuple(range(KERNELS)), **RUN})
    rows = [{**row, **kernel(row["variant"], row["kernel"])} for row in found]
    for dim, lengths in product(FACTORS["D"], FACTORS["lengths"]):
        same = [row for row in rows if row["D"] == dim]
        if not any(row["lengths"] == lengths for row in same):
            rows.append({**same[0], "lengths": lengths})
    return rows


ROWS = cover()


def test_every_two_values_meet():
    factors = {"variant": NAMES, **FACTORS}
    for a, b in combinations(factors, 2):
        met = {(row[a], row[b]) for row in ROWS}
        wanted = len(factors[a]) * (KERNELS if (a, b) == ("variant", "D") else len(factors[b]))
        assert len(met) == wanted, (a, b)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", NAMES)
def test_a_variant_verifies(name, part):
    rows = [{x: row[x] for x in FACTORS} for row in ROWS if row["variant"] == name and row["kernel"] % PARTS == part]
    outcomes = list(check(getattr(variants, name), settings_of(rows)))
    assert len(outcomes) >= KERNELS // PARTS
    assert not [f"{x.setting}: {x.text}" for x in outcomes if not x.ok]
