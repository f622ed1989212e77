"""Operands of every role and kind, and every way to write a variant down."""

import numpy as np
import pytest
from scipy.special import softmax

import attnc as at
from attnc import errors

RNG = np.random.default_rng(3)
Q, K, V = RNG.standard_normal((2, 4, 6, 5)), RNG.standard_normal((2, 2, 7, 5)), RNG.standard_normal((2, 2, 7, 3))
ii, jj = np.arange(6)[:, None], np.arange(7)
S = Q @ np.repeat(K, 2, 1).swapaxes(-1, -2)
VALUES = np.repeat(V, 2, 1)


def attended(scores):
    return softmax(scores, -1) @ VALUES


def same(got, wanted):
    np.testing.assert_allclose(got, wanted, atol=1e-12)


# ---- tables


def test_nested_gathers():
    @at.attention
    def nested(q, k, v, h, i, j, *, table: at.Tensor["h", "n"], order: at.Tensor["j"], parent: at.Tensor["m"]):
        return at.softmax(at.dot(q, k) + table[h, parent[order[i]] - order[j] + 7]) @ v

    table, order, parent = RNG.standard_normal((4, 15)), RNG.permutation(7), RNG.permutation(7)
    want = attended(S + table[:, parent[order[ii]] - order[jj] + 7])
    same(nested.reference(Q, K, V, table=table, order=order, parent=parent), want)
    assert "table[h, parent[order[i]] - order[j] + 7]" in repr(nested.graph.outputs[0])


def test_every_named_axis_and_shared_entries():
    @at.attention
    def axes(
        q, k, v, b, h, i, j, *, batch: at.Tensor["b"], head: at.Tensor["h"], group: at.Tensor["g"], row: at.Tensor["i"],
        pair: at.Tensor["b", "h", "i", "j"], feature: at.Tensor["d"], value: at.Tensor["e"],
    ):  # fmt: skip
        s = at.dot(q * feature, k) + batch[b] + head[h] * j + group[h // at.group] * row[i] * j + pair[b, h, i, j]
        return at.softmax(s) @ (v * value)

    def given(*extents):
        b, h, g, i, j = extents
        arrays = {"batch": (b,), "head": (h,), "group": (g,), "row": (i,), "pair": (b, h, i, j), "feature": (5,)}
        return {name: RNG.standard_normal(shape) for name, shape in {**arrays, "value": (3,)}.items()}

    for extents in ((2, 4, 2, 6, 7), (1, 1, 1, 1, 1), (2, 1, 2, 1, 7)):
        x = given(*extents)
        s = (Q * x["feature"]) @ np.repeat(K, 2, 1).swapaxes(-1, -2) + x["head"][:, None, None] * jj
        group = np.repeat(np.broadcast_to(x["group"], 2), 2)
        s = s + group[:, None, None] * x["row"][:, None] * jj + x["pair"]
        same(axes.reference(Q, K, V, **x), attended(s) * x["value"])


def test_out_of_range_is_clamped_where_it_is_not_refused():
    @at.attention
    def clamped(q, k, v, i, j, *, table: at.Tensor["n"], where: at.Tensor["j"]):
        return at.softmax(at.dot(q, k) + table[where[j]]) @ v

    table, where = RNG.standard_normal(4), np.array([-9, -1, 0, 1, 3, 4, 99])
    same(clamped.reference(Q, K, V, table=table, where=where), attended(S + table[np.clip(where, 0, 3)]))


def test_a_mask_as_an_index_picks_entry_0_or_1():
    @at.attention
    def picked(q, k, v, i, j, *, table: at.Tensor["n"]):
        return at.softmax(at.dot(q, k) + table[j <= i]) @ v

    same(picked.reference(Q, K, V, table=np.array([3.0, -1.0])), attended(S + np.where(jj <= ii, -1, 3)))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint32", "bool"])
def test_tables_of_integers_keep_their_meaning(dtype):
    @at.attention
    def documents(q, k, v, b, i, j, *, doc: at.Tensor["b", "j"]):
        return at.softmax(at.dot(q, k), where=(doc[b, i] == doc[b, j]) | (doc[b, j] - doc[b, i] == -1)) @ v

    doc = RNG.integers(0, 3, (2, 7)).astype(dtype)
    x = doc.astype(int)[:, None, :]
    want = attended(np.where((x[..., :6, None] == x[..., None, :]) | (x[..., None, :] - x[..., :6, None] == -1), S, -np.inf))  # fmt: skip
    same(documents.reference(Q, K, V, doc=doc), want)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_float_tables_of_every_dtype(dtype):
    import ml_dtypes

    bias = RNG.standard_normal((4, 7)).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    variant = at.attention(_biased)
    same(variant.reference(Q, K, V, bias=bias), attended(S + bias.astype(float)[:, None, :]))


def _biased(q, k, v, h, j, *, bias: at.Tensor["h", "j"] = None):
    s = at.dot(q, k)
    if bias is not None:
        s = s + bias[h, j]
    return at.softmax(s) @ v


def test_kinds_are_guessed_without_inputs_and_declared_where_wanted():
    @at.attention
    def guessed(
        q, k, v, b, i, j, *, pad: at.Tensor["b", "j"], idx: at.Tensor["j"], bits: at.Tensor["i"], x: at.Tensor["n"]
    ):
        keep = pad[b, j] & ~(bits[i] >> 1 == 0) & at.where(pad[b, i], True, j > 2)
        return at.softmax(at.dot(q, k) + x[idx[j]], where=keep) @ v

    kinds = {x["name"]: x["kind"] for x in guessed.graph.nodes() if x.op == "gather"}
    assert kinds == {"pad": "bool", "idx": "int", "bits": "int", "x": "float"}

    @at.attention
    def declared(q, k, v, j, *, keep: at.Tensor["j", bool]):
        return at.softmax(at.dot(q, k), where=keep[j]) @ v

    keep = np.array([True, False, True, True, False, False, True])
    same(declared.reference(Q, K, V, keep=keep), attended(np.where(keep, S, -np.inf)))
    with pytest.raises(errors.OperandError, match=r"declared at.Tensor\['j', bool\]"):
        declared.reference(Q, K, V, keep=keep.astype(int))


# ---- scalars, constants, optional operands


def test_scalars_are_values_of_the_call():
    @at.attention
    def scaled(q, k, v, i, j, *, scale: float = 1.0, window: int, on: bool = True):
        return at.softmax(at.dot(q, k) * scale, where=~(~(i - j < window) & on)) @ v

    def want(scale, window, on):
        return attended(np.where((ii - jj < window) | (not on), S * scale, -np.inf))

    same(scaled.reference(Q, K, V, window=3), want(1.0, 3, True))
    same(scaled.reference(Q, K, V, window=np.int32(2), scale=3, on=np.bool_(False)), want(3, 2, False))
    torch = pytest.importorskip("torch")
    same(scaled.reference(Q, K, V, window=torch.tensor(4), scale=torch.tensor(0.5)), want(0.5, 4, True))
    assert scaled.reference(Q, K, V, window=2**40).shape == (2, 4, 6, 3)


def test_constants_unroll_and_choose():
    @at.attention
    def polynomial(q, k, v, j, *, n: at.Const[int] = 2, how: at.Const[str] = "sum", at_keys: at.Const[tuple] = (1, 3)):
        s = at.dot(q, k)
        total = 0
        for power in range(1, n + 1):
            total = total + s**power / power
        keep = j < 0
        for key in at_keys:
            keep = keep | (j == key)
        return at.softmax(total if how == "sum" else -total, where=keep) @ v

    chosen = np.isin(jj, (1, 3))
    same(polynomial.reference(Q, K, V), attended(np.where(chosen, S + S**2 / 2, -np.inf)))
    want = attended(np.where(jj == 5, -(S + S**2 / 2 + S**3 / 3), -np.inf))
    same(polynomial.reference(Q, K, V, n=np.int64(3), how="minus", at_keys=(5,)), want)
    same(polynomial.reference(Q, K, V, n=1, at_keys=()), np.zeros_like(want))  # no key at all


def test_a_float_constant_accepts_a_whole_number():
    variant = at.attention(_tempered)
    same(variant.reference(Q, K, V, t=2), attended(S / 2))
    with pytest.raises(errors.OperandError, match=r"constant 't' = True is bool"):
        variant.reference(Q, K, V, t=True)


def _tempered(q, k, v, *, t: at.Const[float] = 1.0):
    return at.softmax(at.dot(q, k) / t) @ v


def test_optional_operands_may_be_left_out_or_given():
    variant, bias = at.attention(_biased), RNG.standard_normal((4, 7))
    same(variant.reference(Q, K, V), attended(S))
    same(variant.reference(Q, K, V, bias=None), attended(S))
    same(variant.reference(Q, K, V, bias=bias), attended(S + bias[:, None, :]))
    assert not [x for x in variant.graph.nodes() if x.op == "gather"]


@pytest.mark.parametrize("annotation", ["float | None", "Optional[float]", 'at.Tensor["h"] | None'])
def test_optional_annotations_of_type_checkers(annotation):
    from typing import Optional

    scope = {"at": at, "Optional": Optional}
    index = "[h]" if "Tensor" in annotation else ""
    body = f"q * 1.0 if x is None else q * x{index}"
    exec(f"@at.attention\ndef variant(q, h, *, x: {annotation} = None): return {body}", scope)
    value = np.arange(4.0) if index else 2.0
    same(scope["variant"].reference(Q, K, V), Q)
    same(scope["variant"].reference(Q, K, V, x=value), Q * (np.arange(4.0)[:, None, None] if index else 2))


# ---- outputs and roles


def test_tuple_outputs_of_values_and_vectors():
    @at.attention
    def several(q, k, v):
        s = at.dot(q, k)
        w = at.softmax(s)
        return w @ v, at.max(s, over="j"), at.sum(w * w, over="j"), w @ k, q

    out, top, purity, keys, queries = several.reference(Q, K, V)
    w = softmax(S, -1)
    same(out, attended(S))
    same(top, S.max(-1))
    same(purity, (w * w).sum(-1))
    same(keys, w @ np.repeat(K, 2, 1))
    same(queries, Q)
    single = at.attention(lambda q, k, v: (at.softmax(at.dot(q, k)) @ v,)).reference(Q, K, V)
    assert isinstance(single, tuple) and len(single) == 1


def test_roles_in_any_order_and_any_subset():
    same(
        at.attention(lambda j, v, i, k, q: at.softmax(at.dot(k, q) + i * j) @ v).reference(Q, K, V),
        attended(S + ii * jj),
    )
    uniform = at.attention(lambda v, i, j: at.softmax(0.0 * j, where=j <= i) @ v).reference(Q, K, V)
    same(uniform, np.cumsum(VALUES, -2)[..., :6, :] / np.arange(1, 7)[:, None])
    same(at.attention(lambda q: q).reference(Q, K, V), Q)


def test_helpers_are_plain_functions_and_loops_unroll():
    def capped(s, cap):
        return cap * at.tanh(s / cap)

    @at.attention
    def mixed(q, k, v, i, j):
        s = at.dot(q, k)
        for cap in (5.0, 3.0):
            s = capped(s, cap)
        s += 1  # rebinding a name is no mutation
        return sum(at.softmax(s, where=(i - j) % n == 0) @ v for n in (1, 2, 3)) / 3

    s = 3 * np.tanh(5 * np.tanh(S / 5) / 3)
    want = sum(attended(np.where((ii - jj) % n == 0, s, -np.inf)) for n in (1, 2, 3)) / 3
    same(mixed.reference(Q, K, V), want)


# ---- ways to define a variant


def test_lambdas_exec_and_notebook_cells():
    source = "@at.attention\ndef variant(q, k, v, i, j):\n    return at.softmax(at.dot(q, k), where=j <= i) @ v\n"
    want = attended(np.where(jj <= ii, S, -np.inf))
    same(at.attention(lambda q, k, v, i, j: at.softmax(at.dot(q, k), where=j <= i) @ v).reference(Q, K, V), want)
    for file in ("<stdin>", "<ipython-input-3-5f1d>", "/tmp/ipykernel_12/345.py"):
        scope = {"at": at}
        exec(compile(source, file, "exec"), scope)
        same(scope["variant"].reference(Q, K, V), want)


def test_errors_in_a_cell_show_its_source_where_the_shell_has_it():
    import linecache

    file = "<ipython-input-4-11aa>"
    source = "@at.attention\ndef variant(q, k, v, i, j):\n    return at.softmax(at.dot(q, v)) @ v\n"
    scope = {"at": at}
    exec(compile(source, file, "exec"), scope)
    with pytest.raises(errors.AxisError) as without:
        scope["variant"].reference(Q, K, V)
    assert f"where: {file}:3\n  cause" in str(without.value)
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        with pytest.raises(errors.AxisError) as shown:
            scope["variant"].reference(Q, K, V)
    finally:
        del linecache.cache[file]
    assert "return at.softmax(at.dot(q, v)) @ v\n                      ^^^^^^^^^^^^\n" in str(shown.value)


def test_string_annotations():
    scope = {"at": at}
    head = "from __future__ import annotations\n@at.attention\n"
    exec(head + 'def variant(q, k, v, h, j, *, slopes: at.Tensor["h"]): return at.softmax(at.dot(q, k) + slopes[h] * j) @ v', scope)  # fmt: skip
    slopes = RNG.standard_normal(4)
    same(scope["variant"].reference(Q, K, V, slopes=slopes), attended(S + slopes[:, None, None] * jj))


def test_from_flex():
    both = at.from_flex(
        lambda s, b, h, q_idx, kv_idx: at.tanh(s) + h * kv_idx, lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + b
    )
    head, batch = np.arange(4)[:, None, None], np.arange(2)[:, None, None, None]
    s = np.tanh(S / np.sqrt(5)) + head * jj
    same(both.reference(Q, K, V), attended(np.where(jj <= ii + batch, s, -np.inf)))
    same(at.from_flex().reference(Q, K, V), attended(S / np.sqrt(5)))
    with pytest.raises(errors.TraceError, match="no truth value"):
        at.from_flex(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx and kv_idx > 2).reference(Q, K, V)
