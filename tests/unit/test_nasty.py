"""Numbers at the border of what is defined, each with its exact result: in the interpreter, in tiles, in parts, and in kernels."""

import numpy as np
import pytest
from nasty_cases import CASES, INF, Case, N

import attnc as at
from attnc import variants
from attnc.compile import lower
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.variant import with_lse

ENDS = [0, 3, 3, 40, 200, N, N]  # seven parts, of which the first, one between and the last are empty
MANY = 20  # queries: more than a call has for which a kernel for few is made
FEW = ("full", "learned_sink", "sigmoid")  # whose kernels for one query are asked too


def by_levels(case: Case) -> dict[str, list[np.ndarray]]:
    """Output, and lse, of the last query: of the graph interpreter, the tile interpreter, and kernels."""
    call = bind(case.variant.signature, *case.arrays(np.float64)[:3], case.arrays(np.float64)[3], "bhld")
    graph = case.variant._trace(call)
    graph = graph if case.lse is None else with_lse(graph)
    program = lower(graph)
    found = {"graph": interpret(graph, call.inputs)}
    found |= {f"tiles of {n}": run(program, call.inputs, tile=(1, n)) for n in (1, 16)}
    if len(program.sweeps) == 1:
        found |= {f"parts {x}": run(program, call.inputs, tile=(1, 8), part=x) for x in (8, ENDS)}
    for queries in (MANY, 1) if case.variant.__name__ in FEW else (MANY,):
        *inputs, operands = case.arrays(case.dtype, queries)
        out = case.variant(*inputs, return_lse=case.lse is not None, **operands)
        found[f"kernel, {queries} queries"] = [x[:, :, -1:] for x in (out if isinstance(out, tuple) else (out,))]
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_level_gives_it(name: str) -> None:
    case = CASES[name]()
    for level, results in by_levels(case).items():
        kernel = level.startswith("kernel")
        rtol, atol = (case.rtol, 2 * case.rtol + case.atol) if kernel else (1e-12, case.atol)
        np.testing.assert_allclose(results[0].ravel(), case.out, rtol=rtol, atol=atol, err_msg=level)
        if case.lse is not None:
            np.testing.assert_allclose(results[1].ravel(), case.lse, rtol=rtol, atol=atol, err_msg=level)


def test_a_query_before_all_keys() -> None:
    """Causal with more queries than keys."""
    for variant, lse in ((variants.causal, -INF), (variants.learned_sink, 2.0)):
        operands = {"sink": np.full(1, 2.0, np.float32)} if variant is variants.learned_sink else {}
        q, k = np.ones((1, 1, 5, 1), np.float32), np.ones((1, 1, 3, 1), np.float32)
        inputs = bind(variant.signature, q, k, k, operands, "bhld").inputs
        program = lower(with_lse(variant.graph))
        tiles = [run(program, inputs, tile=(2, 2), part=part) for part in (None, 2, [0, 0, 1, 3])]
        calls = [call(q, k, k, return_lse=True, **operands) for call in (variant, variant.reference)]
        for out, found in [*tiles, *calls]:
            assert (out[0, 0, :2] == 0).all() and (found[0, 0, :2] == lse).all() and (out[0, 0, 2:] > 0).all()


@at.attention
def two_supports(q, k, v, i, j, *, t: at.Tensor["i", int], u: at.Tensor["j", int], r: at.Tensor["j", bool]):
    """A sum whose factor is a mask has a reference of its own, which is none where its keys are."""
    m = t[i] == u[j]
    s = at.dot(q, k)
    w = at.where(m, at.exp(s - at.max(at.where(m, s, -at.inf), over="j")), 0.0)
    total = at.sum(w, over="j")
    return at.softmax(s) @ v - at.where(total == 0, 0.0, (w @ (v * (r[j] * 0.5))) / total)


def test_rows_without_keys_beside_others() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 4)) for n in (3, 5, 5))
    operands = {"t": np.array([9, 1, 9]), "u": np.array([1, 1, 2, 1, 1]), "r": np.array([1, 0, 1, 1, 0], bool)}
    np.testing.assert_allclose(
        two_supports(q, k, v, **operands), two_supports.reference(q, k, v, **operands), atol=1e-14
    )
    assert two_supports.bisect(q, k, v, **operands).startswith("none")
    # the score of a live pair is NaN: so is its row, and no other
    k[0, 0, 1] = np.nan
    found = two_supports(q, k, v, **operands)
    assert np.isnan(found).all() and np.isnan(two_supports.reference(q, k, v, **operands)).all()


@at.attention
def shifted(q, k, v, b, h, i, j, *, t: at.Tensor["b", "i", "j", int]):
    return at.softmax(at.dot(q, k), where=(t[b, i, j] >> at.minimum(i, 3)) > h) @ v


def test_a_shift_of_what_nothing_is_known_of_by_a_count_that_varies() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, n, 4)) for n in (5, 7, 7))
    t = rng.integers(-9, 9, (1, 5, 7))
    np.testing.assert_allclose(shifted(q, k, v, t=t), shifted.reference(q, k, v, t=t), atol=1e-14)


@pytest.mark.slow
def test_more_equal_scores_than_float32_can_count() -> None:
    """2^24 + 1 is no float32: ones that are added to a sum one by one would stop there. The interpreters count in float64."""
    n = 2**24 + 2**22
    q, k = np.full((1, 1, MANY, 1), 0.5, np.float32), np.ones((1, 1, n, 1), np.float32)
    for queries in (1, MANY):
        out, lse = variants.full(q[:, :, :queries], k, k, return_lse=True)
        assert (abs(lse - 0.5 - np.log(n)) < 1e-5).all() and (abs(out - 1) < 1e-5).all()


def test_values_whose_sum_is_too_large_are_infinite_not_nan() -> None:
    """Sums of float32 are divided at the end: 300 values of 3e38 are out of range, whatever their mean is."""
    q, k = np.ones((1, 1, MANY, 1), np.float32), np.ones((1, 1, N, 1), np.float32)
    assert (variants.full(q, k, 3e38 * k) == np.inf).all() and (variants.full(q, k, 1e36 * k) < 1.01e36).all()
