"""Sweeps in parts: the states of parts, merged by the derived rule, are those of all keys; and what is not split says why."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tile import MASKS, SHAPES, TERMS, WEIGHTS, bound, program_of, variant

import attnc as at
from attnc.compile import cuda_form, lower
from attnc.fuzz.compare import farthest
from attnc.interp import interpret
from attnc.ir.graph import Node, const, node
from attnc.runtime.binding import bind
from attnc.schedule.short import LEAST, PARTS, PLAIN, QUERIES, Form, choose, part, parts
from attnc.tile import merge
from attnc.tile.interp import run
from attnc.tile.lower import row
from attnc.tile.merge import joins, obstacle, split
from attnc.tile.program import Keys, Merge, Program, Reduce, RowMap, Save, SetRow, State
from attnc.tile.share import shares
from attnc.variant import with_lse

ONE_SWEEP = sorted(set(WEIGHTS) - {"two sweeps", "three sweeps"})


@settings(max_examples=60, deadline=None)
@given(
    terms=st.lists(st.sampled_from(sorted(TERMS)), min_size=1, max_size=2),
    mask=st.sampled_from(sorted(MASKS)),
    weights=st.sampled_from(ONE_SWEEP),
    shape=SHAPES,
    tile=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    tiles=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_merged_parts_are_the_whole(
    terms: list[str], mask: str, weights: str, shape: Any, tile: Any, tiles: int, seed: int
) -> None:
    graph, inputs = bound(variant(terms, [mask], False, weights), np.random.default_rng(seed), shape)
    program = lower(with_lse(graph) if weights in ("softmax", "sink") else graph)
    assert not obstacle(program)
    whole, merged = run(program, inputs, tile=tile), run(program, inputs, tile=tile, part=tiles * tile[1])
    assert farthest(whole, merged) <= 1e-11
    assert farthest(interpret(with_lse(graph) if len(whole) > len(graph.outputs) else graph, inputs), merged) <= 1e-10


def rules(weights: str) -> dict[str, str]:
    (keys,) = program_of(weights).sweeps
    found = joins(keys)
    assert found is not None
    return {join.state.name: f"{join.how}{' scaled' if join.scale is not None else ''}" for join in found}


def test_the_rules() -> None:
    assert rules("softmax") == {"m": "max", "l": "sum scaled", "acc": "sum scaled"}
    assert rules("sigmoid") == {"acc": "sum"}
    assert rules("statistics") == {
        "m": "max", "l": "sum scaled", "acc": "sum scaled", "l2": "sum", "min": "min",
    }  # fmt: skip
    assert set(rules("difference").values()) == {"max", "sum scaled"}


def test_exponents_far_apart_are_merged_without_overflow() -> None:
    @at.attention
    def steep(q, k, v, j):
        return at.softmax(at.dot(q, k) + 400.0 * j) @ v

    graph, inputs = bound(steep, np.random.default_rng(3), (1, 2, 2, 3, 11, 3, 2))
    program = lower(with_lse(graph))
    assert farthest(interpret(with_lse(graph), inputs), run(program, inputs, tile=(2, 2), part=4)) <= 1e-12


def test_a_wrong_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = bound(
        variant(["dot"], ["causal"], False, "softmax"), np.random.default_rng(4), (1, 2, 1, 9, 9, 4, 3)
    )
    program = lower(graph)
    whole, right = run(program, inputs, tile=(3, 2)), joins(program.sweeps[0])
    assert right is not None
    for wrong in (
        tuple(replace(join, scale=None) for join in right),
        tuple(replace(join, how="max") for join in right),
    ):
        monkeypatch.setattr(merge, "joins", lambda keys, wrong=wrong: wrong)
        assert farthest(whole, run(program, inputs, tile=(3, 2), part=4)) > 1e-3


def test_several_sweeps_are_not_split() -> None:
    program = program_of("two sweeps")
    assert split(program) is None and "2 sweeps" in obstacle(program)


def test_each_part_keeps_only_what_it_needs() -> None:
    found = split(program_of("statistics"))
    assert found is not None
    first, last = found
    assert isinstance(first.steps[-1], Save)
    assert not [s for s in last.steps if isinstance(s, Keys | Save)]
    assert [type(s) for s in last.steps if isinstance(s, Merge)] == [Merge]
    assert "save acc" in str(first) and "acc = sum[parts](" in str(last)


def sweep(update: Node, initial: float = 0.0, before: tuple[Any, ...] = ()) -> Program:
    """A sweep with one state s, whose update reads t: the sum over a tile's keys of 1."""
    body = (Reduce("t", "sum", const(1.0)), *before, SetRow("s", update))
    return Program("by hand", (Keys(0, (State("s", initial, "float"),), const(True), const(True), body, ()),))


S, T = row("s"), row("t")
NOT_MERGED = {
    "begins with something": sweep(node("add", S, T), 1.0),
    "a product": sweep(node("mul", S, T)),
    "replaced": sweep(T),
    "the last sum is squared": sweep(node("add", node("mul", S, S), T)),
    "scaled by what a tile has": sweep(node("add", node("mul", T, S), T)),
    "twice": sweep(node("add", S, T), 0.0, (SetRow("s", node("add", S, const(1.0))),)),
    "adds what it was": sweep(node("add", S, node("mul", S, T))),
    "a weight relative to the keys before": sweep(
        node("add", S, row("u")), 0.0, (RowMap("w", S), Reduce("u", "sum", row("w")))
    ),
}


@pytest.mark.parametrize("name", NOT_MERGED)
def test_states_without_a_rule_are_not_split(name: str) -> None:
    assert joins(sweep(node("add", S, T)).sweeps[0]) is not None
    assert joins(NOT_MERGED[name].sweeps[0]) is None
    assert "no merge rule" in obstacle(NOT_MERGED[name])


def test_a_body_may_leave_plain_sums_as_they_are() -> None:
    (keys,) = program_of("softmax").sweeps
    names = ("m", "l", "acc")
    count = State("s", 0.0, "float")
    own = (*keys.partial, Reduce("t9", "sum", const(1.0)), SetRow("s", node("add", S, row("t9"))))
    counted = replace(keys, states=(*keys.states, count), partial=own)
    found = joins(counted)
    assert found is not None and {join.state.name for join in found} == {*names, "s"}
    forgotten = replace(keys, full=tuple(s for s in keys.full if not (isinstance(s, SetRow) and s.state == "l")))
    assert joins(forgotten) is None, "l is not rescaled there"


def test_where_keys_are_split() -> None:
    assert part(1) == part(LEAST * PARTS) == LEAST and part(LEAST * PARTS + 1) == 2 * LEAST
    lengths = [*range(1, 3000, 7), 8192, 8193, 100_000, 2**31 - 1]
    assert all((parts(n) - 1) * part(n) < n <= parts(n) * part(n) and parts(n) <= PARTS for n in lengths)
    assert all(parts(n) > PARTS // 2 for n in lengths if n > LEAST * PARTS)
    assert parts(0) == 1


def test_the_form_of_a_call() -> None:
    assert choose(1, 4096, 8, True, True) == Form(True, True, 1)
    assert choose(1, 4096, 32, True, True) == Form(True, True, 4)
    assert choose(QUERIES, 4096, 1, True, True) == Form(False, True, 1)
    assert choose(1, LEAST, 8, True, True) == Form(True, False, 1)
    assert choose(1, LEAST, 1, True, True) == choose(QUERIES + 1, 4096, 8, True, True) == PLAIN
    assert choose(3, 4096, 8, False, True) == Form(False, True, 1)
    assert choose(3, 4096, 8, False, False) == PLAIN


@at.attention
def own_windows(q, k, v, h, i, j, *, width: at.Tensor["h", int]):
    return at.softmax(at.dot(q, k), where=at.abs(i - j) < width[h]) @ v


@at.attention
def own_keys(q, k, v, h, *, c: at.Tensor["h", "d"]):
    return at.softmax(at.dot(q, k) + at.sum(k * c[h], over="d")) @ v


def test_what_reads_the_head_outside_of_rows_does_not_share_tiles() -> None:
    assert shares(program_of("softmax", "slopes")) and shares(program_of("sink"))
    assert not shares(program_of("softmax", mask="odd heads"))
    for f, operand in ((own_windows, {"width": np.ones(2, int)}), (own_keys, {"c": np.ones((2, 3))})):
        q, k, v = (np.ones((1, n, 3, 3), np.float32) for n in (2, 1, 1))
        program = f._prepare(bind(f.signature, q, k, v, operand), False).program
        assert not shares(program)
        assert not cuda_form(program, {"q_len": 1, "kv_len": 999, "group": 2}).share
