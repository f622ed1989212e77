"""Formulas that are refused while they are traced, with the user's line, the cause and the cure."""

import math

import numpy as np
import pytest
from refusal import K, Q, V, nothing_is_computed, refused, tracing, under_caret  # noqa: F401

import attnc as at
from attnc import errors

TABLE = np.arange(5.0)


def test_axes_that_do_not_fit():
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, v)) @ v)
    refused(
        errors.AxisError, action, "dot of values without", "left [d], right [e]", "at.dot(q @ W, k)", "at.dot(q, v)"
    )
    action = tracing(lambda q, k, v: at.softmax(at.sum(q + v, over="d")) @ v)
    refused(errors.AxisError, action, "+ of values with different", "[d] and [e]: q, v", "at.dot(x, y)", "q + v")
    action = tracing(lambda q, k, v: q @ v)
    refused(errors.AxisError, action, "@ of values without a common axis", "left [b h i d]", "weights @ v", "q @ v")
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, k)) @ at.dot(q, k))
    refused(errors.AxisError, action, "@ needs values on the right", "no feature axis", "at.sum(w * x, over='j')", "at.softmax(at.dot(q, k)) @ at.dot(q, k)")  # fmt: skip


def _if(q, k, v, i, j):
    s = at.dot(q, k)
    if i < j:
        s = -at.inf
    return at.softmax(s) @ v


def _while(q, k, v, i, j):
    n = 0
    while n < j:
        n = n + 1
    return at.softmax(at.dot(q, k)) @ v


@pytest.mark.parametrize(
    ("function", "truth", "under"),
    [
        (_if, "i < j", "i < j"),
        (_while, "0 < j", "n < j"),
        (lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=bool(i >= j)) @ v, "j <= i", "bool(i >= j)"),
        (lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=0 <= i - j < 4) @ v, "0 <= i - j", "0 <= i - j < 4"),
        (lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=i >= j and j > 2) @ v, "j <= i", "i >= j and j > 2"),
        (lambda q, k, v, i, j: at.softmax(max(at.dot(q, k), 0)) @ v, "dot[d](q, k) < 0.0", "max(at.dot(q, k), 0)"),
    ],
)
def test_the_truth_of_a_traced_value(function, truth, under):
    cause = f"asks for the truth of {truth}, but the formula is traced once"
    with pytest.raises(errors.TraceError) as caught:
        at.attention(function).graph  # noqa: B018
    spans = under_caret(caught.value)  # Python 3.11 marks the whole of `a and b`, later versions its first part
    assert spans in under and spans
    refused(errors.TraceError, tracing(function), "no truth value", cause, "at.where(condition, a, b)", spans)


def test_mutation_of_a_traced_value():
    def item(q, k, v, i, j):
        s = at.dot(q, k)
        s[i < j] = -at.inf
        return at.softmax(s) @ v

    def attribute(q, k, v):
        q.scale = 2
        return at.softmax(at.dot(q, k)) @ v

    message, cause, cure = "cannot be changed in place", "nothing in it is stored", "bind a new name: s2 = at.where"
    refused(errors.TraceError, tracing(item), message, cause, cure, "s[i < j]")
    refused(errors.TraceError, tracing(attribute), message, cause, cure, "q.scale")

    @at.attention
    def operand(q, k, v, h, *, t: at.Tensor["h"]):
        t[h] = 0
        return at.softmax(at.dot(q, k)) @ v

    refused(errors.TraceError, lambda: operand.graph, message, cause, cure, "t[h]")


def _nothing(q, k, v):
    at.softmax(at.dot(q, k)) @ v


def _list(q, k, v):
    return [at.softmax(at.dot(q, k)) @ v]


def _weights(q, k, v):
    return at.softmax(at.dot(q, k))


def _value(q, k, v):
    return v


def _per_key_batch(q, k, v):
    return at.max(v, over="j")


@pytest.mark.parametrize(
    ("function", "message", "cause", "cure", "under"),
    [
        (_nothing, "_nothing returns nothing", "without `return`", "return weights @ v", "def _nothing(q, k, v):"),
        (_list, "returns a list", "is no traced value", "as a tuple", "return [at.softmax(at.dot(q, k)) @ v]"),
        (_weights, "varies over the keys", "[b h i j]", "variant.weights(Q, K)", "at.softmax(at.dot(q, k))"),
        (_value, "varies over the keys", "v has the axes [b h j e]", "reduce it over j", "return v"),
        (_per_key_batch, "without a query axis", "[b h e]", "per query", 'at.max(v, over="j")'),
    ],
)
def test_returning_what_is_no_output(function, message, cause, cure, under):
    refused(errors.OutputError, tracing(function), message, cause, cure, under)


def test_v_inside_a_score():
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, k) + at.sum(v * v, over="e")) @ v)
    refused(errors.AxisError, action, "v inside the scores", "v * v reads the value", "to the right of @", "v * v")
    action = tracing(lambda q, k, v: (at.exp(at.dot(q, k)) * at.max(v, over="e")) @ v)
    refused(errors.AxisError, action, "v inside the weights", "max[e](v)", "w @ (v * gate)", 'at.max(v, over="e")')
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, k), where=at.max(v, over="e") > 0) @ v)
    refused(errors.AxisError, action, "v inside the mask", "max[e](v)", "use k in the score", 'at.max(v, over="e")')


def test_a_value_read_by_an_earlier_attention_may_enter_a_score():
    @at.attention
    def hops(q, k, v, *, w: at.Tensor["e", "d"]):
        return at.softmax(at.dot((at.softmax(at.dot(q, k)) @ v) @ w, k)) @ v

    assert len([x for x in hops.graph.nodes() if x.op == "softmax"]) == 2


def test_reduction_over_an_axis_that_is_absent():
    action = tracing(lambda q, k, v: at.softmax(at.sum(at.dot(q, k), over="d")) @ v)
    cause = "dot[d](q, k) varies over [b h i j], not over 'd'"
    refused(errors.AxisError, action, "at.sum over an axis that is absent", cause, "one of its axes", 'at.sum(at.dot(q, k), over="d")')  # fmt: skip
    action = tracing(lambda q, k, v: at.softmax(at.max(at.dot(q, k), over="i")) @ v)
    refused(errors.AxisError, action, "at.max over 'i'", "what one query", "over 'j' or a feature", 'at.max(at.dot(q, k), over="i")')  # fmt: skip
    action = tracing(lambda q, k, v: at.max(at.dot(q, k), 0) @ v)
    refused(errors.AxisError, action, "at.max without over=", "0 is no axis name", "at.maximum(x, y)", "at.max(at.dot(q, k), 0)")  # fmt: skip


def test_softmax_of_something_without_j():
    action = tracing(lambda q, k, v, i: at.softmax(at.sum(q, over="d") + i) @ v)
    under = 'at.softmax(at.sum(q, over="d") + i)'
    refused(errors.AxisError, action, "softmax of something without j", "[b h i]", "at.dot(q, k)", under)
    action = tracing(lambda q, k, v: at.softmax(q * k) @ v)
    refused(
        errors.AxisError, action, "softmax of feature vectors", "the scores, q * k", "reduce it", "at.softmax(q * k)"
    )
    action = tracing(lambda q, k, v, j: at.softmax(at.dot(q, k), sink=j) @ v)
    refused(errors.AxisError, action, "a sink that varies over j", "one logit per row", "h, b or i only", "at.softmax(at.dot(q, k), sink=j)")  # fmt: skip


def test_float_index_into_a_table():
    @at.attention
    def half(q, k, v, i, j, *, t: at.Tensor["n"]):
        return at.softmax(at.dot(q, k) + t[(i - j) / 2]) @ v

    cause, cure = "float(i - j) / 2.0 is a float", "i // block"
    refused(errors.KindError, lambda: half.graph, "a float index into t", cause, cure, "t[(i - j) / 2]")
    refused(errors.KindError, lambda: half(Q, K, V, t=TABLE), "a float index into t", cause, cure, "t[(i - j) / 2]")

    @at.attention
    def nested(q, k, v, i, j, *, t: at.Tensor["n"], x: at.Tensor["i"]):
        return at.softmax(at.dot(q, k) + t[x[i]]) @ v

    message, cause = "a float index into t", "x[i] is a float"
    refused(errors.KindError, lambda: nested(Q, K, V, t=TABLE, x=TABLE), message, cause, "integers", "t[x[i]]")
    assert "t[x[i]]" in repr(nested.graph.outputs[0])  # without inputs x is guessed to hold integers


def test_masks_that_are_no_masks():
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, k), where=at.dot(q, k)) @ v)
    refused(errors.KindError, action, "where= is no mask", "dot[d](q, k) is float", "compare it", "at.softmax(at.dot(q, k), where=at.dot(q, k))")  # fmt: skip
    action = tracing(lambda q, k, v, i: at.softmax(at.where(i, at.dot(q, k), 0)) @ v)
    refused(errors.KindError, action, "the condition of at.where", "i is int", "x != 0", "at.where(i, at.dot(q, k), 0)")
    action = tracing(lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=(i >= j) & at.dot(q, k)) @ v)
    refused(errors.KindError, action, "& of a float", "dot[d](q, k) is a float", "brackets", "(i >= j) & at.dot(q, k)")


def _endless(x):
    return _endless(x + 1)


def test_recursion():
    action = tracing(lambda q, k, v: at.softmax(_endless(at.dot(q, k))) @ v)
    cure = "at.Const[int], which unrolls"
    refused(errors.TraceError, action, "recursion", "calls itself without end", cure, "_endless(x + 1)")

    @at.attention
    def itself(q, k, v):
        return itself(q, k, v)

    cause, cure = "a variant takes arrays", "a plain Python function"
    refused(errors.TraceError, lambda: itself.graph, "called inside a variant", cause, cure, "itself(q, k, v)")


def test_captured_arrays():
    torch = pytest.importorskip("torch")
    tensor, values = torch.ones(5), [1.0, 2.0]
    cases = [
        (lambda q, k, v: at.softmax(at.dot(q, k) * TABLE) @ v, "shape (5,)", "at.dot(q, k) * TABLE"),
        (lambda q, k, v: at.softmax(TABLE * at.dot(q, k)) @ v, "shape (5,)", "TABLE * at.dot(q, k)"),
        (lambda q, k, v, i: at.softmax(at.dot(q, k) + TABLE[i]) @ v, "an array or list", "TABLE[i]"),
        (lambda q, k, v: at.softmax(at.dot(q, k) + tensor) @ v, "shape (5,)", "at.dot(q, k) + tensor"),
        (lambda q, k, v: at.softmax(tensor * at.dot(q, k)) @ v, "shape (5,)", "tensor * at.dot(q, k)"),
        (lambda q, k, v, i: at.softmax(at.dot(q, k) + tensor[i]) @ v, "shape (5,)", "tensor[i]"),
        (lambda q, k, v, i: at.softmax(at.dot(q, k) + values[i]) @ v, "an array or list", "values[i]"),
        (lambda q, k, v: at.softmax(at.dot(q, k) + values) @ v, "an array or list", "at.dot(q, k) + values"),
        (lambda q, k, v: at.softmax(at.dot(q, k), where=at.where(TABLE > 2, True, False)) @ v, "(5,)", "at.where(TABLE > 2, True, False)"),
    ]  # fmt: skip
    for function, cause, under in cases:
        refused(
            errors.TraceError, tracing(function), "an array inside the variant", cause, "table: at.Tensor['n']", under
        )


def test_functions_and_methods_of_array_libraries():
    torch = pytest.importorskip("torch")

    cases = [
        (lambda q, k, v: at.softmax(np.tanh(at.dot(q, k))) @ v, "numpy.tanh", "write at.tanh", "np.tanh(at.dot(q, k))"),
        (lambda q, k, v, i: at.softmax(np.where(i < 2, 0, at.dot(q, k))) @ v, "numpy.where", "write at.where", "np.where(i < 2, 0, at.dot(q, k))"),
        (lambda q, k, v: at.softmax(np.sinh(at.dot(q, k))) @ v, "numpy.sinh", "docs/language.md", "np.sinh(at.dot(q, k))"),
        (lambda q, k, v: at.softmax(np.logaddexp(at.dot(q, k), 0)) @ v, "numpy.logaddexp", "at.softplus", "np.logaddexp(at.dot(q, k), 0)"),
        (lambda q, k, v: at.softmax(np.array(at.dot(q, k))) @ v, "numpy.array", "operators and functions", "np.array(at.dot(q, k))"),
        (lambda q, k, v: at.softmax(torch.tanh(at.dot(q, k))) @ v, "torch.tanh", "write at.tanh", "torch.tanh(at.dot(q, k))"),
        (lambda q, k, v: at.softmax(at.dot(q, k) / math.sqrt(at.size(q))) @ v, "float() of", "at.sqrt", "math.sqrt(at.size(q))"),
        (lambda q, k, v, i: at.softmax(at.dot(q, k) + sum(range(i))) @ v, "range()", "at.Const[int]", "range(i)"),
    ]  # fmt: skip
    for function, message, cure, under in cases:
        refused(errors.TraceError, tracing(function), message, "", cure, under)
    methods = [
        (lambda q, k, v: at.softmax(at.dot(q, k.T)) @ v, ".T of a traced value", "at.dot(q, k)", "k.T"),
        (lambda q, k, v: at.softmax(at.dot(q, k)).sum() @ v, ".sum of a traced value", "write at.sum", "at.softmax(at.dot(q, k)).sum"),
        (lambda q, k, v: at.softmax(at.dot(q, k) / q.shape[-1]) @ v, ".shape of", "at.size(q)", "q.shape"),
    ]  # fmt: skip
    for function, message, cure, under in methods:
        with pytest.raises(AttributeError):
            tracing(function)()
        refused(errors.MethodError, tracing(function), message, "has operators and named axes", cure, under)


def test_traced_values_without_a_number_or_items():
    action = tracing(lambda q, k, v, i: at.softmax(at.dot(q, k)[i]) @ v)
    refused(errors.TraceError, action, "cannot be indexed", "already is the value", "table: at.Tensor['n']", "at.dot(q, k)[i]")  # fmt: skip
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, k) + None) @ v)
    refused(errors.TraceError, action, "NoneType inside a formula", "optional", "is not None", "at.dot(q, k) + None")
    action = tracing(lambda q, k, v: at.softmax(at.dot(q, k) + 2**70) @ v)
    refused(errors.KindError, action, "the integer 11805", "64 bits", "use a float", "at.dot(q, k) + 2**70")


def test_misused_operands():
    def variant(use):
        def function(q, k, v, b, h, i, j, *, t: at.Tensor["h", "j"], w: at.Tensor["d", "d"], o: at.Tensor["n"] = None):
            return at.softmax(at.dot(q, k) + use(q, h, j, t, w)) @ v

        return lambda: at.attention(function).graph

    wrong, truth, square = errors.AxisError, errors.TraceError, errors.AxisError
    refused(
        wrong, variant(lambda q, h, j, t, w: t * 2), "t needs an index for axis 'h'", "declared", "t[h, j]", "t * 2"
    )
    refused(wrong, variant(lambda q, h, j, t, w: t[h, j, 0]), "t indexed with 3 indices", "'h', 'j'", "one index per axis", "t[h, j, 0]")  # fmt: skip
    refused(wrong, variant(lambda q, h, j, t, w: t[h, 1:]), "a slice of t", "no rows", "index the leading axes", "t[h, 1:]")  # fmt: skip
    refused(truth, variant(lambda q, h, j, t, w: t[h, j] if t else 0), "operand t has no truth value", "no values", "if t is not None", None)  # fmt: skip
    refused(square, variant(lambda q, h, j, t, w: at.dot(q, w * 2)), "a square matrix outside", "'d' twice", "x @ w", "w * 2")  # fmt: skip


def test_long_and_shared_expressions_are_cut_in_messages():
    def huge(q, k, v, i, j):
        s = at.dot(q, k)
        for _ in range(60):
            s = s * s + s  # written out, 2^60 terms
        return at.softmax(s, where=s) @ v

    with pytest.raises(errors.KindError) as caught:
        at.attention(huge).graph  # noqa: B018
    assert "..." in caught.value.cause and len(caught.value.cause) < 200


def test_carets_count_characters_not_bytes():
    def greek(q, k, v):
        σ = at.dot(q, k)
        return at.softmax(σ, where=σ) @ v

    with pytest.raises(errors.KindError) as caught:
        at.attention(greek).graph  # noqa: B018
    assert under_caret(caught.value) == "at.softmax(σ, where=σ)"


def test_expressions_over_several_lines_are_marked_to_the_end_of_the_first():
    def long(q, k, v):
        return at.softmax(
            at.dot(q, k),
            where=at.dot(q, k),
        ) @ v  # fmt: skip

    with pytest.raises(errors.KindError) as caught:
        at.attention(long).graph  # noqa: B018
    assert under_caret(caught.value) == "at.softmax("
