"""What depends on i - j alone is computed once for each diagonal of a tile: which parts those are, and that kernels are right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.backends.cpu.diagonals import _Invariance
from attnc.interp import Inputs, Interpreter, align
from attnc.ir.graph import Node, const, node
from attnc.variants import t5

I, J = (node("index", name=name) for name in "ij")
C, N = node("scalar", name="c", kind="int"), node("extent", name="kv_len")
D = node("sub", I, J)
L = 12


def dense(x: Node) -> np.ndarray:
    """The values of x for all pairs of L queries and L keys."""
    a = np.zeros((1, 1, L, 1))
    (value,) = Interpreter(Inputs(a, a, a, {"c": 3}), np.float64, 0, L).run([x])
    return np.broadcast_to(align(value, ("i", "j")), (L, L))


def along_diagonals(values: np.ndarray) -> bool:
    return bool((values[1:, 1:] == values[:-1, :-1]).all())


integers = st.recursive(
    st.sampled_from([I, J, D, C, N, const(2), const(-3)]),
    lambda x: st.one_of(
        st.builds(lambda op, a, b: node(op, a, b), st.sampled_from(["add", "sub", "mul", "minimum", "maximum"]), x, x),
        st.builds(lambda op, a: node(op, a), st.sampled_from(["neg", "abs"]), x),
        st.builds(lambda op, a, b: node("cast", node(op, a, b), kind="int"), st.sampled_from(["lt", "le", "eq"]), x, x),
        st.builds(lambda op, a: node(op, a, const(4)), st.sampled_from(["floordiv", "mod"]), x),
    ),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(integers)
def test_what_is_called_invariant_is(x: Node) -> None:
    if _Invariance().holds(x):
        assert along_diagonals(dense(x)), x


@pytest.mark.parametrize(
    ("x", "invariant"),
    [
        (D, True),
        (node("sub", J, node("add", I, N)), True),
        (node("le", J, I), True),
        (node("le", node("add", J, C), node("sub", I, const(7))), True),
        (node("neg", node("add", node("neg", I), J)), True),
        (node("abs", D), True),
        (node("floordiv", D, const(4)), True),
        (node("add", I, J), False),
        (node("sub", node("floordiv", I, const(4)), node("floordiv", J, const(4))), False),
        (node("le", I, C), False),
        (node("mul", I, J), False),
        (node("eq", node("neg", I), J), False),
    ],
)
def test_invariance_of_known_forms(x: Node, invariant: bool) -> None:
    assert _Invariance().holds(x) == invariant == along_diagonals(dense(x))


@at.attention
def near(q, k, v, h, i, j, *, ok: at.Tensor["n", bool], code: at.Tensor["h", "n", int]):
    """Masks and integers by distance."""
    at_n = at.clip(i - j, -20, 20) + 20
    s = at.dot(q, k) + code[h, at_n] % 5
    return at.softmax(s, where=ok[at_n] & (j <= i + 30)) @ v


@at.attention
def far(q, k, v, i, j, *, table: at.Tensor["n"]):
    """A bias by distance from the end, and another by i + j, which is none."""
    p = i + at.kv_len - at.q_len
    s = at.dot(q, k) * at.rsqrt(at.size(q)) + table[at.abs(p - j) % 7]
    return at.softmax(s + table[(i + j) % 7], where=j <= p) @ v


def operands(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    match name:
        case "t5":
            return {"table": rng.standard_normal((4, 32))}
        case "near":
            return {"ok": rng.random(41) < 0.8, "code": rng.integers(-9, 9, (4, 41))}
        case _:
            return {"table": rng.standard_normal(7)}


VARIANTS = {"t5": t5, "near": near, "far": far}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", VARIANTS)
def test_kernels_are_right(name: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    for q_len, kv_len in ((1, 1), (17, 130), (63, 127), (65, 129), (200, 140), (129, 300)):
        q, k, v = (rng.standard_normal((2, h, n, 8)).astype(dtype) for h, n in ((4, q_len), (2, kv_len), (2, kv_len)))
        report = VARIANTS[name].verify(q, k, v, **operands(name, rng))
        assert report.ok, f"{q_len} x {kv_len}: {report}"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_is_read_once_for_a_diagonal(name: str) -> None:
    """In each body of the sweep one gather in the loop over diagonals, none in loops over pairs but that of i + j."""
    q = np.zeros((1, 4, 70, 8), np.float32)
    text = VARIANTS[name].source(q, q, q, **operands(name, np.random.default_rng(0)))
    assert "# diagonals" in text
    after = text.split("for jj in range")[1:]
    pairs = [part.split("for x in range")[0] for part in after]
    assert any("gather" in part for part in pairs) == (name == "far")


def test_cheap_parts_stay_with_the_pairs() -> None:
    """A load costs what it would save."""

    @at.attention
    def slope(q, k, v, i, j):
        return at.softmax(at.dot(q, k) - 0.5 * (i - j), where=j <= i) @ v

    q = np.zeros((1, 1, 70, 8), np.float32)
    assert "# diagonals" not in slope.source(q, q, q)
