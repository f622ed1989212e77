"""Every variant of the library verifies: a pairwise cover of variants, head dims, lengths, dtypes, heads, strides, layouts."""

import pytest

from attnc import variants
from attnc.fuzz.check import FACTORS, check, settings_of
from attnc.fuzz.pairs import pairwise

ROWS = pairwise({"variant": tuple(variants.__all__), **FACTORS})


@pytest.mark.slow
@pytest.mark.parametrize("name", variants.__all__)
def test_a_variant_verifies(name):
    rows = [{k: x for k, x in row.items() if k != "variant"} for row in ROWS if row["variant"] == name]
    outcomes = list(check(getattr(variants, name), settings_of(rows)))
    assert len(outcomes) >= len(FACTORS["lengths"])
    assert not [f"{x.setting}: {x.text}" for x in outcomes if not x.ok]
