"""Repeated calls: the checks that are left out may not change what comes out."""

import numpy as np
import pytest

import attnc as at
from attnc import shortcut
from attnc.errors import AttncError


@at.attention
def windowed(q, k, v, i, j, *, window: int = 9):
    return at.softmax(at.dot(q, k), where=(j <= i) & (i - j < window)) @ v


@at.attention
def two(q, k, v):
    w = at.softmax(at.dot(q, k))
    return w @ v, at.max(w, over="j")


def inputs(seed, shape=(2, 2, 70, 8)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]


def test_a_repeated_call_reads_the_new_arrays():
    for seed in range(3):
        q, k, v = inputs(seed)
        np.testing.assert_allclose(windowed(q, k, v), windowed.reference(q, k, v), atol=1e-5)
        out, lse = windowed(q, k, v, return_lse=True)
        np.testing.assert_array_equal(out, windowed(q, k, v))
        np.testing.assert_allclose(lse, windowed.reference(q, k, v, return_lse=True)[1], atol=1e-5)
        first, second = two(q, k, v)
        assert first.shape == (2, 2, 70, 8) and second.shape == (2, 2, 70)
        np.testing.assert_allclose(second, two.reference(q, k, v)[1], atol=1e-6)
    assert windowed._shortcuts and two._shortcuts


def test_other_strides_dtypes_and_layouts_are_other_calls():
    q, k, v = inputs(0)
    windowed(q, k, v)
    swapped = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)]
    expected = windowed.reference(q, k, v)
    np.testing.assert_allclose(windowed(*(x.transpose(0, 2, 1, 3) for x in swapped)), expected, atol=1e-5)
    np.testing.assert_allclose(windowed(*swapped, layout="blhd").transpose(0, 2, 1, 3), expected, atol=1e-5)
    last = [np.ascontiguousarray(x.swapaxes(2, 3)).swapaxes(2, 3) for x in (q, k, v)]  # its last axis must be copied
    for _ in range(2):
        np.testing.assert_allclose(windowed(*last), expected, atol=1e-5)
        last = [2 * x / 2 for x in last]
    assert windowed(*(x.astype(np.float64) for x in (q, k, v))).dtype == np.float64


def test_equal_operands_of_another_type_are_checked():
    q, k, v = inputs(1)
    windowed(q, k, v, window=1)
    windowed(q, k, v, window=1)
    for wrong in (True, 1.0, "1"):
        with pytest.raises(AttncError, match="window"):
            windowed(q, k, v, window=wrong)
    with pytest.raises(AttncError, match="out"):
        windowed(q, k, v, window=1, out=np.empty((1, 1)))


def test_few_shortcuts_are_kept():
    q, k, v = inputs(2)
    for window in range(1, 2 * shortcut.LIMIT):
        windowed(q, k, v, window=window)
    assert 0 < len(windowed._shortcuts) <= shortcut.LIMIT


def test_a_repeated_call_takes_as_many_threads_as_it_may_now(monkeypatch):
    from attnc.backends.cpu import threads

    seen, run, before = [], threads.run, at.get_num_threads()
    monkeypatch.setattr(
        threads, "run", lambda address, args, workers: seen.append(workers) or run(address, args, workers)
    )
    q, k, v = inputs(1, (2, 4, 300, 8))
    try:
        found = []
        for number in (2, 1, 3):
            at.set_num_threads(number)
            found.append(windowed(q, k, v))
    finally:
        at.set_num_threads(before)
    assert seen == [2, 1, 3]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
