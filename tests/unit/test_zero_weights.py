"""Tiles whose weights are 0 are empty, unless a 0 could meet a NaN of q or k and become one."""

import numpy as np
import pytest

import attnc as at


def triangle(q, k, v, i, j, *, w: float = 20.0):
    return at.relu(1.0 - at.abs(i - j) / w) @ v


def squared(q, k, v, i, j, *, w: float = 20.0):
    return at.relu(1.0 - at.abs(i - j) / w) ** 2 @ v


def sparse_table(q, k, v, h, i, j, *, table: at.Tensor["h", "n"]):
    return table[h, at.clip(i - j, -40, 39) + 40] @ v


def chosen(q, k, v, i, j):
    return at.where((j <= i) & (i - j < 20), at.sigmoid(at.dot(q, k)), 0.0) @ v


def scaled(q, k, v, i, j, *, w: float = 20.0):
    return (at.relu(1.0 - at.abs(i - j) / w) * at.dot(q, k)) @ v


def multiplied(q, k, v, i, j):
    return (at.where(j <= i, 1.0, 0.0) * at.dot(q, k)) @ v


def of_powers(q, k, v, i, j):
    e = at.exp(at.dot(q, k)) * (j <= i)
    return e @ v / at.sum(e, over="j")


SKIPS = {
    triangle: True,
    squared: True,
    sparse_table: True,
    chosen: True,
    scaled: False,
    multiplied: False,
    of_powers: False,
}


@pytest.mark.parametrize("nan", [False, True], ids=["finite", "NaN"])
@pytest.mark.parametrize("function", SKIPS, ids=lambda f: f.__name__)
def test_zero_weights(function, nan):
    variant, rng = at.attention(function), np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 300, 8), dtype=np.float32) for _ in range(3))
    if nan:
        k[0, 0, 250, 3] = np.nan
    table = np.where(np.abs(np.arange(80) - 40) < 8, 1.0, 0.0).astype(np.float32)
    operands = {"table": np.stack([table, 2 * table])} if function is sparse_table else {}
    assert variant.verify(q, k, v, **operands).ok
    found = variant.blocks(q, k, tile=(16, 16), **operands)
    assert (found.empty > found.visited) == SKIPS[function]
    assert np.isnan(variant(q, k, v, **operands)[0, 0, 0]).all() == (nan and not SKIPS[function])
