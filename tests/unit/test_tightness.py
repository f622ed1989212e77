"""How tight the classes of tiles are, on the masks of published attentions: few or no partial tiles that need not be."""

import functools

import numpy as np
import pytest
from mask_calls import EXACT, NEARLY, UNSORTED
from tile_classes import Masked, claimed_classes, dense_classes

TILES = ((32, 32), (64, 64), (128, 128), (64, 128))
SHARE = 0.02  # of the visited tiles
CASES = {**EXACT, **NEARLY, **UNSORTED}


@functools.cache
def calls(name: str) -> tuple[Masked, ...]:
    """The cases of a mask, evaluated densely once for all tiles."""
    return tuple(Masked.of(x.variant, x.q_len, x.kv_len, x.operands, x.batch, x.heads) for x in CASES[name])


def counts(masked: Masked, tile: tuple[int, int]) -> np.ndarray:
    """Tiles: all, visited, partial, partial but empty, partial but full; AssertionError where a class is wrong."""
    live, every = dense_classes(masked.dense, tile)
    visited, full = claimed_classes(masked, tile)
    assert not (live & ~visited).any(), "a tile called empty has a live pair"
    assert not (full & ~every).any(), "a tile called full has a masked pair"
    partial = visited & ~full
    return np.array([x.sum() for x in (np.ones_like(live), visited, partial, partial & ~live, partial & every)])


@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t[0]}x{t[1]}")
@pytest.mark.parametrize("name", [*EXACT, *NEARLY])
def test_few_tiles_are_called_partial_that_are_not(name, tile):
    found = [counts(masked, tile) for masked in calls(name)]
    _, visited, partial, empty, full = sum(found)
    assert visited > 0 and partial > 0
    allowed = 0 if name in EXACT else SHARE * visited
    wrong = [f"{case}: {x[3]} empty, {x[4]} full" for case, x in zip(CASES[name], found, strict=True) if x[3] + x[4]]
    assert empty + full <= allowed, f"of {visited} visited tiles too many are called partial:\n" + "\n".join(wrong)


@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t[0]}x{t[1]}")
@pytest.mark.parametrize("name", UNSORTED)
def test_tables_without_order_are_read_soundly(name, tile):
    for masked in calls(name):
        tiles, visited, *_ = counts(masked, tile)
        assert 0 < visited < tiles


@pytest.mark.parametrize("name", CASES)
def test_long_spans_of_keys_are_judged_soundly(name):
    """Blocks of tiles that are skipped at once hold nothing."""
    for masked in calls(name):
        for tile in ((64, 512), (32, 4096)):
            counts(masked, tile)


def table() -> str:
    """What is not tight, per call and tile: `python tests/unit/test_tightness.py`."""
    lines = [
        f"{'mask':<24}{'call':<62}{'tile':>8}{'all':>7}{'visited':>9}{'partial':>9}{'are empty':>11}{'are full':>10}"
    ]
    for name in CASES:
        for case, masked in zip(CASES[name], calls(name), strict=True):
            for tile in TILES:
                shape = f"{tile[0]}x{tile[1]}"
                try:
                    found = counts(masked, tile)
                except AssertionError as error:
                    lines.append(f"{name:<24}{case!s:<62}{shape:>8}  UNSOUND: {str(error).splitlines()[0]}")
                    continue
                if found[3] + found[4]:
                    numbers = "".join(f"{n:>{w}}" for n, w in zip(found, (7, 9, 9, 11, 10), strict=True))
                    lines.append(f"{name:<24}{case!s:<62}{shape:>8}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
