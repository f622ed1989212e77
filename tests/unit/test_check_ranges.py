"""What may be refused as out of range: only what is so at a pair that is attended to."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.errors import IndexRangeError
from attnc.interp import Inputs, Interpreter
from attnc.passes.check_ranges import check_ranges

T = at.Tensor["n"]


def extents(q_len=5, kv_len=5, batch=1, heads=2):
    return {"batch": batch, "heads": heads, "q_len": q_len, "kv_len": kv_len, "group": 1, "d": 4, "e": 4}


def refuses(function, n=5, scalars=None, shapes=None, **sizes):
    graph = at.attention(function).graph
    try:
        check_ranges(graph, extents(**sizes), {"t": (n,)} if shapes is None else shapes, scalars or {})
    except IndexRangeError as error:
        return str(error)
    return ""


def score(index, mask=None):
    def variant(q, k, v, b, h, i, j, *, t: T):
        where = None if mask is None else mask(i, j)
        return at.softmax(at.dot(q, k) + t[index(i, j)], where=where) @ v

    return variant


def test_a_negative_index_is_found_and_the_pair_is_named():
    message = refuses(score(lambda i, j: i - j))
    assert "i - j is -4 at i = 0, j = 4" in message and "5 entries along 'n', 0 to 4" in message
    assert "t[index(i, j)]" in message and "does not count from the end" in message


def test_an_index_beyond_the_table_is_found():
    assert "is 8 at i = 4, j = 0" in refuses(score(lambda i, j: i - j + 4), n=8)
    assert not refuses(score(lambda i, j: i - j + 4), n=9)


def test_the_same_program_is_judged_by_the_lengths_of_the_call():
    variant = score(lambda i, j: i)
    assert not refuses(variant, n=5, q_len=5) and "i = 5" in refuses(variant, n=5, q_len=6)


@pytest.mark.parametrize("index", [lambda i, j: at.clip(i - j, 0, 4), lambda i, j: at.abs(i - j), lambda i, j: j % 5])
def test_what_stays_inside_is_accepted(index):
    assert not refuses(score(index))


def test_masked_pairs_may_read_outside():
    assert not refuses(score(lambda i, j: i - j, mask=lambda i, j: j <= i))
    assert refuses(score(lambda i, j: i - j, mask=lambda i, j: j <= i + 1))

    def chosen(q, k, v, i, j, *, t: T):
        return at.softmax(at.dot(q, k) + at.where(j <= i, t[i - j], 0.0)) @ v

    def minus_infinity(q, k, v, i, j, *, t: T):
        return at.softmax(at.where(j <= i, at.dot(q, k), -at.inf) + t[i - j]) @ v

    def by_hand(q, k, v, i, j, *, t: T):
        w = at.exp(at.dot(q, k)) * (j <= i) * t[i - j]
        return w @ v / at.sum(w, over="j")

    def logic(q, k, v, i, j, *, t: at.Tensor["n", bool]):
        return at.softmax(at.dot(q, k), where=(j <= i) & t[i - j]) @ v

    def weighted_values(q, k, v, i, j, *, t: T):
        return at.softmax(at.dot(q, k), where=j < 5) @ (v * t[j])

    for variant in (chosen, minus_infinity, by_hand, logic):
        assert not refuses(variant) and refuses(variant, n=4)
    assert not refuses(weighted_values, kv_len=9) and refuses(weighted_values, n=4, kv_len=9)


def test_a_mask_made_of_data_is_no_proof_except_where_no_index_fits():
    def padded(shift):
        def variant(q, k, v, b, i, j, *, t: T, pad: at.Tensor["b", "j", bool]):
            return at.softmax(at.dot(q, k) + t[i - j + shift], where=pad[b, j]) @ v

        return variant

    shapes = {"t": (5,), "pad": (1, 5)}
    assert not refuses(padded(0), shapes=shapes)
    assert "lies between 6 and 14 at every pair" in refuses(padded(10), shapes=shapes)


def test_a_flag_of_the_call_counts():
    def flagged(q, k, v, i, j, *, t: T, on: bool = False):
        return at.softmax(at.dot(q, k) + at.where(on, t[i + 50], 0.0)) @ v

    assert not refuses(flagged, scalars={"on": False}) and refuses(flagged, scalars={"on": True})


def test_an_additive_mask_may_hide_pairs():
    def masked(q, k, v, i, j, *, t: T, m: at.Tensor["i", "j"]):
        return at.softmax(at.dot(q, k) + m[i, j] + t[i - j]) @ v

    assert not refuses(masked, shapes={"t": (5,), "m": (5, 5)})


def test_a_window_wider_than_the_table_is_found_inside_the_matrix():
    def windowed(q, k, v, i, j, *, t: T, window: int = 8):
        return at.softmax(at.dot(q, k) + t[i - j], where=(j <= i) & (i - j < window)) @ v

    sizes = {"q_len": 1000, "kv_len": 1000, "scalars": {"window": 8}}
    assert not refuses(windowed, n=8, **sizes) and "i - j is 7 at" in refuses(windowed, n=7, **sizes)


def test_indices_read_from_data_are_not_judged():
    def nested(q, k, v, i, j, *, t: T, order: at.Tensor["i"]):
        return at.softmax(at.dot(q, k) + t[order[i] - order[j]]) @ v

    assert not refuses(nested, shapes={"t": (1000,), "order": (5,)})


def test_no_keys_and_shared_axes_are_never_out_of_range():
    assert not refuses(score(lambda i, j: i - j), kv_len=0) and not refuses(score(lambda i, j: i - j), n=1)


terms = st.recursive(
    st.one_of(st.sampled_from(["i", "j", "h"]), st.integers(-7, 7)),
    lambda x: st.tuples(
        st.sampled_from(["+", "-", "*", "//", "%", "min", "max", "&", "|", "^", ">>", "<<", "abs", "?"]), x, x
    ),
    max_leaves=6,
)
OPERATORS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": lambda a, b: a // b,
    "%": lambda a, b: a % b, "min": at.minimum, "max": at.maximum, "&": lambda a, b: a & b, "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b, ">>": lambda a, b: a >> b, "<<": lambda a, b: a << at.abs(b % 5), "abs": lambda a, b: at.abs(a - b),
    "?": lambda a, b: at.where(a < b, b, a - 3),
}  # fmt: skip


def build(tree, leaves):
    if not isinstance(tree, tuple):
        return leaves[tree] if isinstance(tree, str) else tree + 0 * leaves["i"]
    sign, a, b = tree
    return OPERATORS[sign](build(a, leaves), build(b, leaves))


@settings(max_examples=200, deadline=None)
@given(terms, terms, terms, st.integers(2, 9), st.integers(1, 5), st.integers(1, 5))
@example("i", ("-", "j", "h"), -1, 2, 3, 1)  # live in the last head only
def test_a_refusal_is_always_right(index, left, right, n, q_len, kv_len):
    """Against brute force: refused means that a pair under the mask reads outside, or that every pair does."""

    def variant(q, k, v, h, i, j, *, t: T):
        leaves = {"i": i, "j": j, "h": h}
        mask = build(left, leaves) <= build(right, leaves)
        return at.softmax(at.dot(q, k) + t[build(index, leaves)], where=mask | (j < 0)) @ v

    graph = at.attention(variant).graph
    softmax = next(x for x in graph.nodes() if x.op == "softmax")
    gather = next(x for x in graph.nodes() if x.op == "gather")
    zeros = np.zeros((1, 2, max(q_len, kv_len), 4))
    run = Interpreter(Inputs(zeros[:, :, :q_len], zeros[:, :, :kv_len], zeros[:, :, :kv_len]), np.float64, 0, q_len)
    shape = {"b": 1, "h": 2, "i": q_len, "j": kv_len}
    full = [
        np.broadcast_to(x.data.reshape([shape[a] if a in x.axes else 1 for a in "bhij"]), [*shape.values()])
        for x in run.run([gather.operands[0], softmax.operands[1]])
    ]
    outside = (full[0] < 0) | (full[0] >= n)
    message = refuses(variant, n=n, q_len=q_len, kv_len=kv_len)
    if "at every pair" in message:
        assert outside.all()
    outside = outside & full[1]
    assert outside.any() or not message or "at every pair" in message
    ends = itertools.product([0], [0, 1], [0, q_len - 1], [0, kv_len - 1])
    assert message or not any(outside[point] for point in ends)
