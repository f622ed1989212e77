"""Tile programs: random variants against the graph's interpreter, how many sweeps they take, which tiles they skip."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.compile import lower
from attnc.dsl.trace import trace
from attnc.fuzz.compare import farthest
from attnc.interp import interpret
from attnc.ir.graph import Graph, topological
from attnc.runtime.binding import bind
from attnc.tile.interp import run
from attnc.tile.program import DotAcc, Keys, Load, Program, RowMap, graphs
from attnc.variant import with_lse

N = 24  # entries of tables that are indexed by positions
TERMS: dict[str, Callable[[Any], Any]] = {
    "dot": lambda x: at.dot(x.q, x.k) * at.rsqrt(at.size(x.q)),
    "projected": lambda x: at.dot(x.q @ x.w, x.k),
    "projected keys": lambda x: at.dot(x.q, at.tanh(x.k @ x.w)),
    "by head": lambda x: at.dot(x.q @ x.wh[x.h], x.k @ x.w),
    "cosine": lambda x: 3 * at.dot(unit(x.q), unit(x.k)),
    "additive": lambda x: at.sum(x.u * at.tanh(x.q @ x.wr + x.k @ x.wr), over="r"),
    "distance": lambda x: -0.5 * at.sum((x.q - x.k) ** 2, over="d"),
    "nearest": lambda x: at.max(at.minimum(x.q, x.k), over="d") - at.min(x.q * x.k, over="d"),
    "graph attention": lambda x: at.softplus(at.sum(x.q, over="d") - at.dot(x.k, x.c)),
    "slopes": lambda x: -x.slopes[x.h] * at.abs(x.i - x.j),
    "relative": lambda x: x.bias[x.h, at.clip(x.i - x.j + N // 2, 0, N - 1)],
    "nested": lambda x: x.bias[x.h, x.order[x.j]] * at.sin(0.1 * x.i),
    "rotary": lambda x: at.dot(x.q * at.cos(x.i * x.c), x.k * at.cos(x.j * x.c)),
}
MASKS: dict[str, Callable[[Any], Any]] = {
    "causal": lambda x: x.j <= x.i,
    "aligned": lambda x: x.j <= x.i + at.kv_len - at.q_len,
    "window": lambda x: x.i - x.j < x.n,
    "document": lambda x: x.doc[x.b, x.i] == x.doc[x.b, x.j],
    "dilated": lambda x: (x.i - x.j) % 3 == 0,
    "blocks": lambda x: x.i // 3 == x.j // 2,
    "odd heads": lambda x: (x.h & 1) == (x.j & 1),
    "nothing": lambda x: (x.j < 0) & (x.i >= 0),
}
WEIGHTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "softmax": lambda x, s, m: at.softmax(s, where=m) @ x.v,
    "sink": lambda x, s, m: at.softmax(s, where=m, sink=x.slopes[x.h]) @ x.v,
    "minus infinity": lambda x, s, m: at.softmax(at.where(m, s, -at.inf)) @ x.v,
    "difference": lambda x, s, m: (at.softmax(s, where=m) - 0.4 * at.softmax(0.5 * s)) @ x.v,
    "by hand": lambda x, s, m: at.where(m, at.exp(s), 0.0) @ x.v / at.maximum(at.sum(at.where(m, at.exp(s), 0.0), over="j"), 1),
    "sigmoid": lambda x, s, m: at.where(m, at.sigmoid(s), 0.0) @ x.v,
    "squared relu": lambda x, s, m: at.where(m, at.relu(s) ** 2, 0.0) @ at.tanh(x.v @ x.we),
    "linear": lambda x, s, m: at.where(m, s, 0.0) @ x.v / (1 + at.sum(m, over="j")),
    "two sweeps": lambda x, s, m: at.softmax(at.tanh(s - at.max(s, over="j")), where=m) @ x.v,
    "three sweeps": lambda x, s, m: at.softmax(centred(s), where=m) @ x.v,
    "statistics": lambda x, s, m: (at.softmax(s, where=m) @ x.v, at.sum(m & (x.i >= 0), over="j"), at.min(s, over="j")),
    "gated": lambda x, s, m: ((at.softmax(s, where=m) @ x.v) @ x.we) * at.sigmoid(at.sum(x.q, over="d")),
}  # fmt: skip


def unit(x: Any) -> Any:
    return x * at.rsqrt(at.sum(x * x, over="d") + 0.1)


def centred(s: Any) -> Any:
    mean = at.sum(s, over="j") / at.maximum(at.kv_len, 1)
    spread = at.sum(at.abs(s - mean), over="j") / at.maximum(at.kv_len, 1)
    return at.tanh((s - mean) / (spread + 0.5))


def variant(terms: list[str], masks: list[str], negate: bool, weights: str) -> at.Attention:
    """The sum of some terms as scores, under the union or intersection of some masks."""

    def made(
        q, k, v, b, h, i, j, *, n: int, w: at.Tensor["d", "d"], wh: at.Tensor["h", "d", "d"], wr: at.Tensor["d", "r"],
        we: at.Tensor["e", "e"], u: at.Tensor["r"], c: at.Tensor["d"], slopes: at.Tensor["h"],
        bias: at.Tensor["h", "n"], order: at.Tensor["n"], doc: at.Tensor["b", "n"],
    ):  # fmt: skip
        x = SimpleNamespace(**locals())
        s = at.dot(q, k) * 0.0
        for name in terms:
            s = s + TERMS[name](x)
        mask = MASKS[masks[0]](x)
        for name in masks[1:]:
            mask = mask | MASKS[name](x) if negate else mask & MASKS[name](x)
        return WEIGHTS[weights](x, s, ~mask if negate else mask)

    return at.attention(made)


def bound(f: at.Attention, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Graph, Any]:
    batch, heads, kv_heads, q_len, kv_len, d, e = shape
    r = rng.standard_normal
    q, k, v = r((batch, heads, q_len, d)), r((batch, kv_heads, kv_len, d)), r((batch, kv_heads, kv_len, e))
    operands = {
        "n": 3, "w": r((d, d)), "wh": r((heads, d, d)), "wr": r((d, 3)), "we": r((e, e)), "u": r(3), "c": r(d),
        "slopes": r(heads), "bias": r((heads, N)), "order": rng.integers(0, N, N), "doc": rng.integers(0, 3, (batch, N)),
    }  # fmt: skip
    given_ = {name: x for name, x in operands.items() if name in f.signature.operands}
    call = bind(f.signature, q, k, v, given_, "bhld")
    graph = trace(f.function, f.signature, kinds=call.kinds, constants=call.constants, absent=call.absent)
    return graph, call.inputs


SHAPES = st.tuples(
    st.integers(1, 2), st.just(2), st.sampled_from([1, 2]), st.integers(1, 9), st.integers(0, 11), st.integers(1, 4),
    st.integers(1, 3),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    terms=st.lists(st.sampled_from(sorted(TERMS)), min_size=1, max_size=3),
    masks=st.lists(st.sampled_from(sorted(MASKS)), min_size=1, max_size=2),
    negate=st.booleans(),
    weights=st.sampled_from(sorted(WEIGHTS)),
    shape=SHAPES,
    tile=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_variants_are_what_their_graph_says(
    terms: list[str], masks: list[str], negate: bool, weights: str, shape: Any, tile: Any, seed: int
) -> None:
    graph, inputs = bound(variant(terms, masks, negate, weights), np.random.default_rng(seed), shape)
    if weights in ("softmax", "sink"):
        graph = with_lse(graph)
    program = lower(graph)
    assert farthest(interpret(graph, inputs), run(program, inputs, tile=tile)) <= 1e-10


def test_the_tile_does_not_matter() -> None:
    f = variant(["dot", "slopes"], ["causal", "window"], False, "difference")
    graph, inputs = bound(f, np.random.default_rng(1), (2, 2, 1, 13, 11, 4, 3))
    program, expected = lower(graph), interpret(graph, inputs)
    for tile in [(1, 1), (1, 11), (13, 1), (13, 11), (64, 128), (2, 3), (5, 4)]:
        assert farthest(expected, run(program, inputs, tile=tile)) <= 1e-12, tile


def program_of(weights: str, terms: str = "dot", mask: str = "causal", lse: bool = False) -> Program:
    graph, _ = bound(variant([terms], [mask], False, weights), np.random.default_rng(0), (1, 2, 2, 4, 4, 2, 2))
    return lower(with_lse(graph) if lse else graph)


@pytest.mark.parametrize(
    ("weights", "sweeps"),
    [
        ("softmax", 1), ("sink", 1), ("minus infinity", 1), ("difference", 1), ("by hand", 1), ("sigmoid", 1),
        ("squared relu", 1), ("linear", 1), ("statistics", 1), ("gated", 1), ("two sweeps", 2), ("three sweeps", 3),
    ],
)  # fmt: skip
def test_sweeps(weights: str, sweeps: int) -> None:
    program = program_of(weights)
    assert len(program.sweeps) == sweeps == len(program.reasons) + 1
    assert [keys.number for keys in program.sweeps] == list(range(sweeps))


def test_a_maximum_that_is_subtracted_by_hand_costs_no_sweep() -> None:
    @at.attention
    def safe(q, k, v):
        s = at.dot(q, k)
        w = at.exp(s - at.max(s, over="j"))
        return w @ v / at.sum(w, over="j")

    graph, inputs = bound(safe, np.random.default_rng(2), (1, 2, 2, 5, 9, 3, 2))
    program = lower(graph)
    assert len(program.sweeps) == 1
    assert farthest(interpret(graph, inputs), run(program, inputs, tile=(2, 4))) <= 1e-12


def test_a_reason_names_the_expression_that_waits() -> None:
    (reason,) = program_of("two sweeps").reasons
    assert reason.startswith("sweep 1: ") and "waits for sweep 0" in reason and "max[j]" in reason


def test_one_product_per_softmax_and_shared_scores() -> None:
    (keys,) = program_of("difference").sweeps
    assert sum(isinstance(s, DotAcc) for s in keys.partial) == 2
    loads = [s.name for s in keys.partial if isinstance(s, Load)]
    assert len(loads) == 2, "keys and values are loaded once"


def test_row_expressions_that_nothing_reads_are_gone() -> None:
    for weights in WEIGHTS:
        program = program_of(weights)
        read = {x["name"] for s in program.statements() for x in topological(graphs(s)) if x.op == "value"}
        rows = {s.name for s in program.steps if isinstance(s, RowMap)}
        assert rows <= read, weights
    assert not [s for s in program_of("softmax").steps if isinstance(s, RowMap)]
    assert [s for s in program_of("softmax", lse=True).steps if isinstance(s, RowMap)], "the lse needs the shift"


def visited(program: Program, inputs: Any, tile: tuple[int, int]) -> tuple[int, int]:
    """How many key tiles ran with masks and without."""
    from attnc.tile import interp

    count = {"full": 0, "partial": 0}

    class Counting(interp.Item):
        def statement(self, s: Any) -> None:
            (keys,) = program.sweeps
            for name in count:
                body = getattr(keys, name)
                count[name] += bool(body) and s is body[0]
            super().statement(s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interp, "Item", Counting)
        interp.run(program, inputs, tile=tile)
    return count["full"], count["partial"]


@pytest.mark.parametrize(
    ("mask", "full", "partial"),
    [("causal", 6, 4), ("nothing", 0, 0), ("aligned", 6, 4), ("window", 6, 4)],
)
def test_tiles_are_skipped_and_unmasked(mask: str, full: int, partial: int) -> None:
    """16 queries x 16 keys in tiles of 4: under a causal mask 6 of 16 tiles are full, 4 on the diagonal are cut."""
    f = variant(["dot"], [mask], False, "softmax")
    graph, inputs = bound(f, np.random.default_rng(0), (1, 2, 2, 16, 16, 2, 2))
    if (
        mask == "window"
    ):  # i - j < 3 keeps the tiles right of the diagonal whole; the one left of it holds one pair or two
        partial = 7
    found = visited(lower(graph), inputs, (4, 4))
    assert found == (2 * full, 2 * partial)


def test_no_keys() -> None:
    for weights in WEIGHTS:
        graph, inputs = bound(
            variant(["dot"], ["causal"], False, weights), np.random.default_rng(0), (1, 2, 2, 3, 0, 2, 2)
        )
        outputs = run(lower(graph), inputs)
        assert not outputs[0].any()
        assert farthest(interpret(graph, inputs), outputs) == 0
    assert all(isinstance(x, Keys) for x in lower(graph).sweeps)
