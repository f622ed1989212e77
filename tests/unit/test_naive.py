"""The noise that `verify` compares with: other roundings of the same formula, as many runs as it takes, and nothing beyond."""

import numpy as np
import pytest

from attnc import variants
from attnc.fuzz.samples import Setting, arrays, operands
from attnc.interp import interpret
from attnc.naive import CHANCE, MOST, moved, naive
from attnc.runtime.binding import bind
from attnc.verification import report

WIDE = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


def call(name: str, seed: int, dtype: str = "float64", lengths: tuple[int, int] = (1, 17), D: int = 1):
    """The graph and the inputs of a call."""
    setting = Setting(D=D, Dv=D, lengths=lengths, batch=2, dtype=dtype, heads=(4, 2))
    rng, variant = np.random.default_rng(seed), getattr(variants, name)
    given = arrays(setting, rng), operands(variant, setting, rng)
    bound = bind(variant.signature, *given[0], given[1], "bhld")
    return variant, given, variant._trace(bound), bound.inputs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_third_moves_by_one_unit_and_what_is_short_stays(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 100)).astype(dtype)
    found = moved(x, np.random.default_rng(1))
    assert found.dtype == x.dtype
    ups, downs = found == np.nextafter(x, dtype(np.inf)), found == np.nextafter(x, dtype(-np.inf))
    assert ((found == x) | ups | downs).all() and not (ups & downs).any()
    assert abs(ups.mean() - 1 / CHANCE) < 0.01 and abs(downs.mean() - 1 / CHANCE) < 0.01
    short = np.array([0.0, -0.0, 1.0, -3.0, 1000.0, 0.375, np.inf, -np.inf, np.nan] * 50, dtype)
    assert moved(short, rng).tobytes() == short.tobytes()


def test_inputs_masks_and_maxima_are_exact() -> None:
    """A query that sees one key returns its value, bit for bit, in every run."""
    _, ((_, _, v), _), graph, inputs = call("causal", 0, lengths=(5, 5), D=3)
    for (run,) in naive(graph, inputs, interpret(graph, inputs)):
        np.testing.assert_array_equal(run[:, ::2, 0], v[:, :, 0])
        assert not np.array_equal(run, interpret(graph, inputs)[0])


@pytest.mark.parametrize(("dtype", "runs"), [("float64", MOST), ("float32", MOST), ("bfloat16", 1), ("float16", 1)])
def test_how_many_runs(dtype: str, runs: int) -> None:
    _, _, graph, inputs = call("differential", 3, dtype)
    found = [x[0].tobytes() for x in naive(graph, inputs, interpret(graph, inputs))]
    assert len(found) == runs == len(set(found)) or dtype != "float64"
    assert found == [x[0].tobytes() for x in naive(graph, inputs, interpret(graph, inputs))], "they repeat"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_difference_of_softmaxes_that_cancels_is_no_fault(dtype: str) -> None:
    """One feature, one value: the norm divides by what is left of two averages."""
    for seed in range(12):
        variant, (given, named), _, _ = call("differential", seed, dtype)
        found = variant.verify(*given, **named)
        assert found.ok, (seed, str(found))


@pytest.mark.skipif(not WIDE, reason="long double is float64 here")
@pytest.mark.parametrize(("name", "D"), [("differential", 1), ("retention", 1), ("causal", 16), ("cosine", 4)])
def test_what_is_allowed_is_what_float64_loses(name: str, D: int) -> None:
    """The exact value is allowed for all inputs; and no more than a few times what the reference itself is off."""
    ratios = []
    for seed in range(10):
        _, _, graph, inputs = call(name, seed, D=D, lengths=(9, 17))
        exact = interpret(graph, inputs, dtype=np.longdouble)
        reference = interpret(graph, inputs)
        found = report(graph, inputs, exact, ["float64"])
        assert found.ok, (seed, str(found))
        ratios.append(found.allowed / max(float(abs(exact[0] - reference[0]).max()), 1e-17))
    assert np.median(ratios) < 40


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-14), ("float32", 3e-6)])
def test_what_is_beyond_the_noise_is_wrong(dtype: str, error: float) -> None:
    """One weight of a row that is off by some 50 units in the last place."""
    _, _, graph, inputs = call("causal", 0, dtype, lengths=(9, 17), D=16)
    (reference,) = interpret(graph, inputs)
    assert report(graph, inputs, [reference.astype(dtype)], [dtype]).ok
    assert not report(graph, inputs, [(reference * (1 + error * (np.arange(16) == 3))).astype(dtype)], [dtype]).ok
