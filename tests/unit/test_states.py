"""States that move with a sweep: centred moments, entropies, what is summed where an extreme is attained; one sweep for each."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.compile import fuse, lower
from attnc.interp import interpret
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.tile.merge import obstacle

Body = Callable[[SimpleNamespace], Any]


def total(x: Any) -> Any:
    return at.sum(x, over="j")


def mean(x: Any, p: Any) -> Any:
    return total(p * x)


def textbook(s: Any) -> Any:
    e = at.exp(s - at.max(s, over="j"))
    p = e / total(e)
    return total(p * at.log(p))


def tempered(s: Any) -> Any:
    e = at.exp(s * 0.5)
    p = e / total(e)
    return total(at.log(p) * p)


def made(body: Body) -> at.Attention:
    """A variant of scores s, numbers of pairs r, and shares p of the keys under a mask."""

    @at.attention
    def variant(q, k, v, i, j, *, r: at.Tensor["i", "j"]):
        s, mask = at.dot(q, k), (j <= i + 1) & (j % 5 != 3)
        p = at.softmax(s, where=mask)
        x = SimpleNamespace(s=s, p=p, r=r[i, j], v=v, i=i, j=j, mask=mask, n=at.maximum(at.kv_len, 1))
        return body(x)

    return variant


def attained(x: SimpleNamespace, how: Any = at.max, mask: Any = None) -> Any:
    if mask is None:
        return x.s == how(x.s, over="j")
    return mask & (x.s == at.max(at.where(mask, x.s, -at.inf), over="j"))


MOMENTS: dict[str, Body] = {
    "variance": lambda x: total((x.s - total(x.s) / x.n) ** 2),
    "variance under a mask": lambda x: total(
        at.where(x.mask, (x.s - total(at.where(x.mask, x.s, 0.0)) / at.maximum(total(x.mask), 1)) ** 2, 0.0)),
    "about another row value": lambda x: total((x.s - at.max(x.r, over="j")) ** 2),
    "variance of shares": lambda x: total(x.p * (x.j - mean(x.j, x.p)) ** 2),
    "shares of unequal scores": lambda x: total(x.p * (x.r - mean(x.r, x.p)) * 2.0 * (x.r - mean(x.r, x.p))),
    "weights": lambda x: total(at.relu(x.r) * (x.s - total(x.s)) ** 2) / (1 + total(at.relu(x.r))),
    "of its own support": lambda x: total(x.p * at.relu(x.r) * (x.s - total(x.s)) ** 2) / total(x.p * at.relu(x.r)),
    "standardised": lambda x: total(((x.s - total(x.s) / x.n) / at.sqrt(1 + total(x.s * x.s))) ** 2),
    "the third": lambda x: total(x.p * (x.r - mean(x.r, x.p)) ** 3),
    "the third, unweighted": lambda x: total((x.s - total(x.s) / x.n) ** 3),
    "variance of a finished row too": lambda x: total((x.s - x.i + at.max(x.s, over="j")) ** 2) + total(x.s),
}  # fmt: skip
ENTROPIES: dict[str, Body] = {
    "p log p": lambda x: -total(at.where(x.p == 0, 0.0, x.p * at.log(x.p))),
    "p log p where above 0": lambda x: -total(at.where(x.p > 0, at.log(x.p) * x.p, 0.0)),
    "p log p where not 0, in bits": lambda x: total(at.where(x.p != 0, -x.p * at.log2(x.p), 0.0)),
    "twice p log p": lambda x: total(at.where(x.p == 0, 0.0, x.p * 2.0 * at.log(x.p))) * at.max(x.r, over="j"),
    "p log p under the mask": lambda x: -total(at.where(x.mask, x.p * at.log(x.p), 0.0)),
    "by the normaliser": lambda x: total(at.exp(x.s - at.log(total(at.exp(x.s)))) * (x.s - at.log(total(at.exp(x.s))))),
    "the textbook's": lambda x: textbook(x.s),
    "of a temperature": lambda x: tempered(x.s),
    "variance of log p": lambda x: total(
        at.where(x.mask, x.p * (at.log(x.p) - total(at.where(x.mask, x.p * at.log(x.p), 0.0))) ** 2, 0.0)),
    "beside other powers": lambda x: total(x.p * x.p) + total(at.where(x.p == 0, 0.0, x.p * at.log(x.p))) + at.max(x.p, over="j"),
}  # fmt: skip
ATTAINED: dict[str, Body] = {
    "hard max": lambda x: total(at.where(attained(x), x.r, 0.0)),
    "hard min": lambda x: total(at.where(attained(x, at.min), x.r, 0.0)),
    "swapped": lambda x: total(at.where(at.max(x.r, over="j") == x.r, x.s, 0.0)),
    "ties": lambda x: total(attained(x)),
    "ties as numbers": lambda x: total(at.where(attained(x), 1.0, 0.0)),
    "mean of ties": lambda x: total(at.where(attained(x), x.r, 0.0)) / at.maximum(total(attained(x)), 1),
    "values": lambda x: at.where(attained(x), 1.0, 0.0) @ x.v,
    "under a mask": lambda x: at.where(attained(x, mask=x.mask), 1.0, 0.0) @ x.v,
    "masked scores": lambda x: total(at.where(at.where(x.mask, x.s, -at.inf) == at.max(at.where(x.mask, x.s, -at.inf), over="j"), x.r, 0.0)),
    "of whole numbers": lambda x: total(at.where(x.j % 3 + 0 * x.i == at.max(x.j % 3 + 0 * x.i, over="j"), x.s, 0.0)),
    "beside a softmax": lambda x: x.p @ x.v + at.where(attained(x), 2.0, 0.0) @ x.v,
}  # fmt: skip
ALL = {**MOMENTS, **ENTROPIES, **ATTAINED}
WAITS: dict[str, tuple[str, Body]] = {
    "covariance": ("CANCEL", lambda x: total((x.s - total(x.s)) * (x.r - total(x.r)))),
    "signed weights": ("CANCEL", lambda x: total(x.r * (x.s - total(x.s)) ** 2)),
    "the fourth": ("RANK", lambda x: total((x.s - total(x.s)) ** 4)),
    "log p alone": ("CANCEL", lambda x: total(at.where(x.mask, at.log(x.p), 0.0))),
    "p log p times numbers of keys": ("CANCEL", lambda x: total(at.where(x.p == 0, 0.0, x.p * x.r * at.log(x.p)))),
    "a share of another": ("THRESHOLD", lambda x: total(at.where(x.p == 0, 1.0, 0.0))),
    "p log p that does not vanish": ("THRESHOLD", lambda x: total(at.where(x.p == 0, 0.0, at.log(x.p)))),
    "another value": ("THRESHOLD", lambda x: total(at.where(x.r == at.max(x.s, over="j"), x.s, 0.0))),
    "masked otherwise": ("THRESHOLD", lambda x: total(at.where(x.s == at.max(at.where(x.mask, x.s, -at.inf), over="j"), x.r, 0.0))),
    "weights of the keys": ("THRESHOLD", lambda x: total(at.where(attained(x), x.p, 0.0))),
    "a product": ("THRESHOLD", lambda x: total(attained(x) * x.r)),
}  # fmt: skip


def traced(variant: at.Attention, rng: np.random.Generator, q_len: int, kv_len: int, dtype: Any = np.float64) -> Any:
    """Whole numbers, so that ties are ties."""
    q, k, v = (rng.integers(-2, 3, (1, 1, n, d)).astype(dtype) for n, d in ((q_len, 3), (kv_len, 3), (kv_len, 2)))
    r = rng.integers(-3, 4, (q_len, kv_len)).astype(dtype)
    call = bind(variant.signature, q, k, v, {"r": r}, "bhld")
    return variant._trace(call), call.inputs


def agree(found: list[Any], wanted: list[Any], tolerance: float) -> None:
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_one_sweep(name: str) -> None:
    variant = made(ALL[name])
    graph, _ = traced(variant, np.random.default_rng(0), 3, 4)
    plan = fuse(graph)
    assert len(plan.sweeps) == 1 and not plan.reasons, plan.reasons


@pytest.mark.parametrize("name", WAITS)
def test_everything_else_waits(name: str) -> None:
    code, body = WAITS[name]
    graph, inputs = traced(made(body), np.random.default_rng(1), 4, 9)
    plan = fuse(graph)
    assert len(plan.sweeps) == 2 and f": {code}, " in plan.reasons[0], plan.reasons
    agree(run(lower(graph), inputs, tile=(2, 3)), interpret(graph, inputs), 1e-10)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(ALL)),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 17])),
    tile=st.sampled_from([(1, 1), (2, 2), (4, 4), (3, 16)]),
    parts=st.integers(0, 7),
    single=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_tiles_and_parts_give_what_the_graph_says(
    name: str, shape: Any, tile: Any, parts: int, single: bool, seed: int
) -> None:
    """Whole, and merged in up to 7 parts, some of them empty."""
    rng = np.random.default_rng(seed)
    graph, inputs = traced(made(ALL[name]), rng, *shape)
    program = lower(graph)
    assert not obstacle(program)
    ends = [*sorted(int(x) for x in rng.integers(0, shape[1] + 1, parts - 1)), shape[1]] if parts > 1 else None
    dtype, tolerance = (np.float32, 2e-4) if single else (np.float64, 1e-9)
    agree(run(program, inputs, tile=tile, part=ends, dtype=dtype), interpret(graph, inputs), tolerance)


# what is skipped with empty tiles (0 NaN), and what overflows in the formula as it is written
UNDEFINED = {
    "variance of shares",
    "shares of unequal scores",
    "the third",
    "of its own support",
    "by the normaliser",
    "of a temperature",
}
NOT_FINITE = [math.nan, math.inf, -math.inf, -2e38]


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(set(ALL) - UNDEFINED)),
    kv_len=st.integers(1, 6),
    tile=st.sampled_from([(1, 1), (2, 2), (4, 4)]),
    split_keys=st.booleans(),
    places=st.lists(st.tuples(st.sampled_from("krv"), st.integers(0, 5), st.sampled_from(NOT_FINITE)), max_size=3),
    seed=st.integers(0, 10**6),
)
def test_numbers_that_are_not_finite(
    name: str, kv_len: int, tile: Any, split_keys: bool, places: Any, seed: int
) -> None:
    """NaN and infinity come out where the formula says so, and nowhere else; of a masked key they do not."""
    rng = np.random.default_rng(seed)
    graph, inputs = traced(made(ALL[name]), rng, 2, kv_len)
    for array, n, x in places:
        target = {"k": inputs.k, "v": inputs.v, "r": inputs.operands["r"]}[array]
        if array != "v" or "values" in name:
            target.reshape(kv_len, -1)[n % kv_len, 0] = x
    with np.errstate(all="ignore"):
        wanted = interpret(graph, inputs)
        part = [kv_len // 2, kv_len] if split_keys else None
        agree(run(lower(graph), inputs, tile=tile, part=part), wanted, 1e-9)
