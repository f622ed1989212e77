"""The classes of tiles of random masks agree with the masks, pair by pair."""

import numpy as np
import pytest
from random_masks import BATCH, HEADS, program
from tile_classes import Masked, claimed_classes, dense_classes

import attnc as at

TILES = ((5, 7), (16, 24), (1, 40), (13, 1), (64, 64))
PROGRAMS, PARTS = 1000, 20
SHARE = 0.8


def judged(seed: int, number: int) -> np.ndarray:
    """Of one program: tiles that are empty or full, and how many of them were found to be; asserts that none is wrong."""
    p = program(seed, number)
    masked = Masked.of(p.variant, p.q_len, p.kv_len, p.operands, BATCH, HEADS, masking=p.plain)
    uniform, decided = 0, 0
    for tile in TILES:
        live, every = dense_classes(masked.dense, tile)
        visited, full = claimed_classes(masked, tile)
        assert not (live & ~visited).any(), f"program {number}: a tile {tile} called empty has a live pair\n{p}"
        assert not (visited & full & ~every).any(), (
            f"program {number}: a tile {tile} called full has a masked pair\n{p}"
        )
        uniform += (every | ~live).sum()
        decided += (~visited | full).sum()
    return np.array([uniform, decided])


@pytest.mark.parametrize("part", range(PARTS))
def test_no_tile_called_empty_or_full_is_wrong(part):
    size = PROGRAMS // PARTS
    uniform, decided = sum([judged(1, n) for n in range(part * size, (part + 1) * size)])
    assert decided > SHARE * uniform, "most of the tiles that are empty or full must be found"


def test_a_mask_that_is_never_true_visits_nothing():
    @at.attention
    def nothing(q, k, v, i, j):
        return at.softmax(at.dot(q, k), where=(j < 0 * j) & (i >= 0)) @ v

    @at.attention
    def folded(q, k, v, i, j, *, reach: at.Const[int]):
        return at.softmax(at.dot(q, k), where=(at.abs(i - j) < 5) & (at.abs(reach - 0 * i) < 0)) @ v

    for variant, operands in ((nothing, {}), (folded, {"reach": 3})):
        masked = Masked.of(variant, 40, 50, operands)
        visited, _ = claimed_classes(masked, (16, 16))
        assert not masked.dense.any() and not visited.any()


def test_a_weight_that_relu_makes_0_is_a_mask():
    """A triangular kernel: relu(1 - |i - j| / width) weighs the keys that are near."""

    @at.attention
    def triangle(q, k, v, i, j, *, width: int):
        return at.relu(width - at.abs(i - j)) @ v

    @at.attention
    def window(q, k, v, i, j, *, width: int):
        return at.softmax(at.dot(q, k), where=at.abs(i - j) < width) @ v

    masked = Masked.of(triangle, 300, 260, {"width": 40}, masking=window)
    for tile in ((32, 32), (64, 16)):
        live, _ = dense_classes(masked.dense, tile)
        visited, _ = claimed_classes(masked, tile)
        np.testing.assert_array_equal(visited, live)
