"""Declarations and calls that are refused before anything is computed, with the user's line, the cause and the cure."""

import numpy as np
import pytest
from refusal import K, Q, V, nothing_is_computed, refused, tracing  # noqa: F401

import attnc as at
from attnc import errors
from attnc.passes.check_features import check_features
from attnc.runtime.binding import bind
from attnc.runtime.out import check_out

TABLE = np.arange(5.0)


# ---- declarations


def test_unknown_role():
    def declare():
        @at.attention
        def variant(q, k, v, bias):
            return v

    refused(errors.RoleError, declare, "unknown role 'bias'", "b h i j", "*, bias: at.Tensor['h']", "bias")


def test_a_role_by_another_name_is_suggested():
    def declare():
        at.attention(lambda query, k, v: v)

    refused(errors.RoleError, declare, "unknown role 'query'", "positional", "did you mean 'q'?", None)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: at.attention(lambda *roles: 0), "*roles in a variant"),
        (lambda: at.attention(lambda q, k, v, i=0: 0), "role 'i' has a default"),
        (lambda: at.attention(lambda q, k, *, v: 0), "role 'v' as a keyword"),
        (lambda: at.attention(3), "int as a variant"),
    ],
)
def test_other_bad_roles(declare, message):
    refused(errors.RoleError, declare, message, "", "", None)


def test_operand_without_annotation():
    def declare():
        @at.attention
        def variant(q, k, v, *, window):
            return v

    refused(
        errors.OperandError,
        declare,
        "operand 'window' without annotation",
        "says what it is",
        "at.Const[int]",
        "window",
    )


@pytest.mark.parametrize("name", ["out", "return_lse", "layout", "self"])
def test_operands_named_like_arguments_of_the_call(name):
    def declare():
        exec(f"@at.attention\ndef variant(q, k, v, *, {name}: float): return v", {"at": at})

    refused(errors.OperandError, declare, f"operand '{name}'", "argument of every call", f"{name}_", None)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("np.ndarray", "operand 'x' annotated <class 'numpy.ndarray'>"),
        ("list[int]", "operand 'x' annotated list[int]"),
        ("at.Tensor[h]", "an annotation cannot be read"),
        ("at.Tensor[1]", "at.Tensor[1]"),
        ("int = 2.5", "operand 'x' has the default 2.5"),
    ],
)
def test_unusable_annotations(annotation, message):
    source = f"from __future__ import annotations\n@at.attention\ndef variant(q, k, v, *, x: {annotation}): return v"

    def declare():
        exec(source, {"at": at, "np": np})

    refused(errors.OperandError, declare, message, "", "", None)


# ---- operands at the call


@at.attention
def linear(q, k, v, h, i, j, *, slopes: at.Tensor["h"], window: int = 4, on: bool = True, steps: at.Const[int] = 2):
    s = at.dot(q, k) + slopes[h] * (i - j)
    return at.softmax(s, where=on & (i - j < window)) @ v


S = np.ones(2)
CALLS = [linear, linear.reference]
METHODS = pytest.mark.parametrize("call", CALLS, ids=["call", "reference"])


@METHODS
def test_missing_operand(call):
    refused(
        errors.OperandError, lambda: call(Q, K, V), "operand 'slopes' is missing", "at.Tensor['h'], without a default",
        "pass slopes=...", "call(Q, K, V)",
    )  # fmt: skip


@METHODS
def test_extra_operand(call):
    def action():
        call(Q, K, V, slopes=S, windw=3)

    message, under = "unexpected operand 'windw'", "call(Q, K, V, slopes=S, windw=3)"
    refused(errors.OperandError, action, message, "slopes, window, on, steps", "correct the name", under)


@METHODS
def test_wrongly_shaped_operand(call):
    def action():
        call(Q, K, V, slopes=np.ones(3))

    cause = "its shape is (3,), declared at.Tensor['h']; this call has 2"
    under = "call(Q, K, V, slopes=np.ones(3))"
    refused(errors.ShapeError, action, "'slopes' has 3 entries along 'h'", cause, "give it 2, or 1 to share", under)
    refused(
        errors.ShapeError, lambda: call(Q, K, V, slopes=np.ones((2, 2))), "'slopes' has 2 dimensions", "(2, 2)",
        "one dimension per axis", "call(Q, K, V, slopes=np.ones((2, 2)))",
    )  # fmt: skip
    refused(errors.ShapeError, lambda: call(Q, K, V, slopes=S[:0]), "'slopes' has 0 entries", "(0,)", "give it 2", None)


@pytest.mark.parametrize(
    ("operands", "message", "cause", "cure"),
    [
        ({"window": 2.5}, "operand 'window' is float", "it is declared int", "pass a Python int"),
        ({"window": True}, "operand 'window' is bool", "it is declared int", "pass a Python int"),
        ({"on": 1}, "operand 'on' is int", "it is declared bool", "pass a Python bool"),
        ({"window": np.arange(3)}, "operand 'window' is ndarray of shape (3,)", "int", "window: at.Tensor['h']"),
        ({"window": 2**63}, "operand 'window' = 9223372036854775808", "64 bits", "smaller"),
        ({"window": None}, "operand 'window' is None", "not optional", "window: int = None"),
        ({"steps": 2.5}, "constant 'steps' = 2.5 is float", "at.Const[int]", "of that type"),
        ({"slopes": [1.0, 2.0]}, "`slopes` is not an array", "it is a list", "numpy.asarray"),
    ],
)
def test_wrongly_typed_operand(operands, message, cause, cure):
    def action():
        linear(Q, K, V, **{"slopes": S, **operands})

    refused(errors.OperandError, action, message, cause, cure, 'linear(Q, K, V, **{"slopes": S, **operands})')


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a", "b"]), "`slopes` has the dtype <U1"),
        (S.astype(np.uint64), "operand 'slopes' is uint64"),
        (S + 0j, "slopes is complex128"),
    ],
)
def test_operand_of_a_dtype_without_meaning(array, message):
    def action():
        linear(Q, K, V, slopes=array)

    refused(errors.DTypeError, action, message, "", "", "linear(Q, K, V, slopes=array)")


# ---- q, k, v at the call

plain = at.attention(lambda q, k, v: at.softmax(at.dot(q, k)) @ v)
BAD_INPUTS = [
    # class, Q, K, V, message, cause, cure
    (errors.ShapeError, Q, K[..., :3], V, "head dims of Q and K differ", "Q has 4, K has 3", "same last axis"),
    (errors.ShapeError, Q.repeat(3, 1)[:, :3], K, V, "heads of Q are no multiple", "Hq = 3, Hkv = 2", "Hq = group * Hkv"),
    (errors.ShapeError, Q.repeat(3, 0), K.repeat(2, 0), V.repeat(2, 0), "batch sizes differ", "Q has 3, K has 2", "or both 1"),
    (errors.ShapeError, Q, K, V[:, :1], "head counts of K and V differ", "K has 2, V has 1", "same number of heads"),
    (errors.ShapeError, Q, K, V[:, :, :3], "K and V of different length", "K has 5 keys, V has 3", "every key one value"),
    (errors.ShapeError, Q[..., :0], K[..., :0], V, "Q has head dim 0", "(1, 2, 5, 0)", "at least one feature"),
    (errors.ShapeError, Q, K, V[..., :0], "V has head dim 0", "(1, 2, 5, 0)", "at least one feature"),
    (errors.ShapeError, Q[:, :, :0], K, V, "Q is empty", "(1, 2, 0, 4)", "at least one batch, head and query"),
    (errors.ShapeError, Q[None], K[None], V[None], "Q has 5 dimensions", "(1, 1, 2, 5, 4)", "(B, H, L, D), (H, L, D) or (L, D)"),
    (errors.ShapeError, Q, K[0], V[0], "Q, K and V of different rank", "K (2, 5, 4)", "same number of dimensions"),
    (errors.DTypeError, Q.astype(int), K, V, "Q is int64", "float16, bfloat16, float32 or float64", "Q.astype(numpy.float32)"),
    (errors.DTypeError, Q, K, V > 0, "V is bool", "float16, bfloat16, float32 or float64", "V.astype(numpy.float32)"),
    (errors.DTypeError, Q, K + 0j, V, "K is complex128", "are real", "[K.real, K.imag]"),
    (errors.DTypeError, Q, K.astype("f"), V, "Q, K and V of different dtypes", "Q float64, K float32", "one dtype"),
    (errors.OperandError, Q.tolist(), K, V, "`Q` is not an array", "it is a list", "pass a NumPy array"),
]  # fmt: skip


@pytest.mark.parametrize("call", [plain, plain.reference], ids=["call", "reference"])
@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case[4])
def test_inputs_that_do_not_fit(call, case):
    kind, q, k, v, message, cause, cure = case
    refused(kind, lambda: call(q, k, v), message, cause, cure, "call(q, k, v)")


def test_an_unknown_layout():
    def action():
        plain(Q, K, V, layout="bdhl")

    refused(errors.ShapeError, action, "layout='bdhl'", "unknown", "'blhd'", 'plain(Q, K, V, layout="bdhl")')


@pytest.mark.parametrize("call", [plain, plain.reference], ids=["call", "reference"])
def test_an_input_that_requires_gradients(call):
    torch = pytest.importorskip("torch")
    q, k, v = (torch.ones(1, 2, 5, 4, requires_grad=n == 1) for n in range(3))
    refused(errors.GradientError, lambda: call(q, k, v), "`K` requires gradients", "no backward", "K.detach()", "call(q, k, v)")  # fmt: skip


def test_a_learned_scalar_or_table_is_not_detached_in_silence():
    torch = pytest.importorskip("torch")
    scaled = at.attention(_scaled)

    def action():
        scaled(Q, K, V, scale=torch.tensor(2.0, requires_grad=True))

    refused(errors.GradientError, action, "operand 'scale' requires gradients", "no backward", "scale.item()", None)
    slopes = torch.ones(2, requires_grad=True)
    refused(errors.GradientError, lambda: linear(Q, K, V, slopes=slopes), "`slopes`", "no backward", "detach", None)
    captured = torch.tensor(2.0, requires_grad=True)
    baked = tracing(lambda q, k, v: at.softmax(at.dot(q, k) * captured) @ v)
    refused(errors.GradientError, baked, "inside the variant", "baked", "make it an operand", "at.dot(q, k) * captured")


def _scaled(q, k, v, *, scale: float):
    return at.softmax(at.dot(q, k) * scale) @ v


@pytest.mark.parametrize("call", [plain, plain.reference], ids=["call", "reference"])
def test_return_lse_needs_exactly_one_softmax(call):
    variant = at.attention(lambda q, k, v: at.sigmoid(at.dot(q, k)) @ v)
    two = at.attention(lambda q, k, v: at.softmax(at.dot(q, k)) @ v - at.softmax(at.dot(q, -k)) @ v)
    for bad, count in ((variant, "0 softmaxes"), (two, "2 softmaxes")):
        method = bad if call is plain else bad.reference

        def action(method=method):
            method(Q, K, V, return_lse=True)

        refused(errors.OutputError, action, "return_lse", count, "exactly one softmax", None)


def test_unsupported_out():
    shape = (1, 2, 5, 4)
    packed = np.zeros((2, 1, 2, 5, 4), np.float32)
    read_only = np.zeros(shape, np.float32)
    read_only.flags.writeable = False
    spread = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), shape, (0, 0, 0, 4))
    bad = [
        (errors.ShapeError, np.zeros((1, 2, 5, 3), np.float32), "the shape (1, 2, 5, 3)", "has the shape (1, 2, 5, 4)", "allocate"),
        (errors.DTypeError, np.zeros(shape), "out is float64", "is float32, as q is", "allocate it as float32"),
        (errors.OperandError, read_only, "out cannot be written", "read-only", "a writable NumPy array"),
        (errors.OperandError, [0.0], "`out` is not an array", "list", "pass a NumPy array"),
        (errors.OperandError, packed[0], "out shares memory with an input", "overwritten", "pass another array"),
        (errors.OperandError, packed[0, :, ::-1], "out shares memory with an input", "overwritten", "pass another array"),
        (errors.OperandError, spread, "out shares memory with itself", "strides", "not broadcast"),
    ]  # fmt: skip
    for kind, out, message, cause, cure in bad:

        def action(out=out):
            check_out(out, "out", shape, "float32", [packed[0]])

        refused(kind, action, message, cause, cure, 'check_out(out, "out", shape, "float32", [packed[0]])')
    assert check_out(packed[1], "out", shape, "float32", [packed[0]]).shape == shape
    interleaved = np.zeros((1, 2, 5, 2, 4), np.float32)
    assert check_out(interleaved[..., 0, :], "out", shape, "float32", [interleaved[..., 1, :]])


def test_out_through_the_call():
    q = Q.astype(np.float32)

    def action():
        plain(q, q, q, out=np.zeros((1, 2, 5, 3), np.float32))

    refused(errors.ShapeError, action, "out has the shape (1, 2, 5, 3)", "(1, 2, 5, 4)", "allocate it so", None)


@pytest.mark.parametrize("method", ["__call__", "reference"])
def test_table_index_out_of_range(method):
    @at.attention
    def relative(q, k, v, i, j, *, table: at.Tensor["n"]):
        return at.softmax(at.dot(q, k) + table[i - j]) @ v

    def action():
        getattr(relative, method)(Q, K, V, table=np.arange(5.0))

    cause = "i - j is -4 at i = 0, j = 4; 'table' has 5 entries along 'n', 0 to 4"
    refused(errors.IndexRangeError, action, "an index of 'table'", cause, "shift the index", "table[i - j]")


def test_operands_that_disagree_about_a_feature_axis():
    @at.attention
    def additive(q, k, v, *, u: at.Tensor["r"], wq: at.Tensor["d", "r"], wk: at.Tensor["d", "r"]):
        return at.softmax(at.sum(u * at.tanh(q @ wq + k @ wk), over="r")) @ v

    def action():
        check_features(additive.graph, {"u": (6,), "wq": (4, 6), "wk": (4, 7)})

    message, cause = "disagree about the feature axis 'r'", "'u' has 6 entries along 'r', 'wk' has 7"
    under = 'check_features(additive.graph, {"u": (6,), "wq": (4, 6), "wk": (4, 7)})'
    refused(errors.ShapeError, action, message, cause, "the same extent", under)
    operands = {"u": np.ones(6), "wq": np.ones((4, 6)), "wk": np.ones((4, 6))}
    assert bind(additive.signature, Q, K, V, operands).features == {"d": 4, "e": 4, "r": 6}

    general = at.attention(_general)
    with pytest.raises(errors.ShapeError, match="operand 'm' is not square"):
        check_features(general.graph, {"m": (2, 6, 5)})


def _general(q, k, v, h, *, m: at.Tensor["h", "d", "d"]):
    return at.softmax(at.dot(q @ m[h], k)) @ v
