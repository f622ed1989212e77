"""Every function and operator of the language, evaluated by the interpreter, against plain NumPy and SciPy."""

import operator

import numpy as np
import pytest
from scipy import special

import attnc as at

RNG = np.random.default_rng(7)
N = 41
Q, K, V = (RNG.standard_normal((1, 1, N, 3)) for _ in range(3))
FLOATS = np.concatenate([RNG.standard_normal(N - 9) * 4, [0.0, -0.0, 1.0, -1.0, 30.0, -30.0, np.inf, -np.inf, np.nan]])
OTHERS = np.roll(RNG.permutation(FLOATS), 3)
POSITIVE = np.abs(RNG.standard_normal(N)) + 0.01
INTS = np.concatenate([RNG.integers(-20, 20, N - 6), [0, 1, -1, 63, -64, 7]])
DIVISORS = np.concatenate([RNG.integers(-6, 7, N - 4), [1, -1, 5, -5]])
BOOLS, MASK = RNG.random(N) < 0.5, RNG.random(N) < 0.5


def along_i(function, *arrays, exact=False):
    """function(x[i], y[i], ...) for operands of those arrays, as (values, kind)."""

    def variant(q, i, *, x: at.Tensor["i"], y: at.Tensor["i"] = None, z: at.Tensor["i"] = None):
        return function(*(t[i] for t in (x, y, z) if t is not None)) + 0 * i

    def kinds(q, i, *, x: at.Tensor["i"], y: at.Tensor["i"] = None, z: at.Tensor["i"] = None):
        seen.append(function(*(t[i] for t in (x, y, z) if t is not None)).node.dtype)
        return q

    seen = []
    operands = dict(zip("xyz", arrays, strict=False))
    at.attention(kinds).reference(Q, K, V, **operands)
    return at.attention(variant).reference(Q, K, V, **operands)[0, 0], seen[0]


def check(function, expected, *arrays, rtol=1e-12):
    with np.errstate(all="ignore"):
        wanted = np.asarray(expected(*arrays))
    values, kind = along_i(function, *arrays)
    np.testing.assert_allclose(values, np.broadcast_to(wanted, values.shape).astype(float), rtol=rtol, atol=1e-14)
    assert kind == {"b": "bool", "i": "int", "f": "float"}[wanted.dtype.kind]


UNARY = {
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "log1p": np.log1p, "tanh": np.tanh, "sin": np.sin,
    "cos": np.cos, "sigmoid": special.expit, "erf": special.erf, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "floor": np.floor, "abs": np.abs, "sign": np.sign, "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * special.expit(x), "gelu": lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2))),
    "softplus": lambda x: np.logaddexp(0, x),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_floats(name):
    check(getattr(at, name), UNARY[name], FLOATS)
    check(getattr(at, name), UNARY[name], POSITIVE)


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_integers_and_masks(name):
    keeps = name in ("abs", "sign", "relu")  # the others give floats; floor leaves an integer as it is
    for x in (INTS, BOOLS):
        values = x.astype(np.int64 if keeps or (name == "floor" and x is INTS) else np.float64)
        with np.errstate(all="ignore"):
            expected = values if name == "floor" and x is INTS else UNARY[name](values)
        check(getattr(at, name), lambda _, e=expected: e, x)


def test_gelu_by_tanh():
    def expected(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    check(lambda x: at.gelu(x, approximate="tanh"), expected, FLOATS)
    with pytest.raises(at.AttncError, match="'none' or 'tanh'"):
        along_i(lambda x: at.gelu(x, approximate="fast"), FLOATS)


@pytest.mark.parametrize("sign", ["+", "-", "*", "<", "<=", ">", ">=", "==", "!="])
@pytest.mark.parametrize("x", [FLOATS, INTS], ids=["float", "int"])
@pytest.mark.parametrize("y", [OTHERS, DIVISORS, BOOLS], ids=["float", "int", "bool"])
def test_arithmetic_and_comparisons_of_mixed_kinds(sign, x, y):
    functions = {
        "+": operator.add, "-": operator.sub, "*": operator.mul, "<": operator.lt, "<=": operator.le,
        ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    }  # fmt: skip
    f = functions[sign]
    check(f, lambda a, b: f(a, b.astype(np.int64) if b.dtype == bool else b), x, y)
    check(lambda a, b: f(b, a), lambda a, b: f(b.astype(np.int64) if b.dtype == bool else b, a), x, y)


def test_division_is_true_division():
    for x in (FLOATS, INTS):
        check(lambda a, b: a / b, lambda a, b: a / b, x, OTHERS)
        check(lambda a, b: a / b, lambda a, b: a.astype(float) / b, x, DIVISORS)
        check(lambda a: 1 / a, lambda a: 1 / a.astype(float), x)


def test_floor_division_and_remainder_have_pythons_signs():
    safe = np.where(DIVISORS == 0, 1, DIVISORS)
    check(lambda a, b: a // b, np.floor_divide, INTS, safe)
    check(lambda a, b: a % b, np.mod, INTS, safe)
    check(lambda a, b: a // b, lambda a, b: np.where(b == 0, 0, a // safe), INTS, DIVISORS)  # by 0: 0
    check(lambda a, b: a % b, lambda a, b: np.where(b == 0, 0, a % safe), INTS, DIVISORS)
    check(lambda a, b: a // b, np.floor_divide, FLOATS, OTHERS)
    check(lambda a, b: a % b, np.mod, FLOATS, OTHERS)
    for c in (3, -3):
        values, _ = along_i(lambda a, c=c: (a // c) * c + a % c, INTS)
        assert values.tolist() == INTS.tolist() == [(a // c) * c + a % c for a in INTS.tolist()]


@pytest.mark.parametrize("f", [operator.and_, operator.or_, operator.xor])
def test_bits_and_logic(f):
    check(f, f, INTS, DIVISORS)
    check(f, f, BOOLS, MASK)
    check(f, f, INTS, BOOLS)
    check(lambda a: f(a, 6), lambda a: f(a, 6), INTS)
    check(lambda a: f(True, a), lambda a: f(True, a), BOOLS)


def test_inversion():
    check(operator.invert, np.invert, INTS)
    check(operator.invert, np.invert, BOOLS)


def test_shifts_of_negative_numbers_and_by_any_count():
    counts = np.abs(DIVISORS)
    check(operator.lshift, np.left_shift, INTS, counts)
    check(operator.rshift, np.right_shift, INTS, counts)
    check(lambda a: 1 << (a % 5), lambda a: 1 << (a % 5), INTS)
    check(lambda a: a >> 64, lambda a: np.where(a < 0, -1, 0), INTS)  # every bit shifted out
    check(lambda a: a << 64, lambda a: 0 * a, INTS)
    check(lambda a, b: a << b, lambda a, b: 0 * a, INTS, -1 - counts)


def test_signs_of_a_traced_value():
    for x in (FLOATS, INTS):
        check(operator.neg, np.negative, x)
        check(operator.pos, np.positive, x)
        check(operator.abs, np.abs, x)
    check(operator.neg, lambda x: -x.astype(np.int64), BOOLS)


def test_powers():
    for n in (0, 1, 2, 3, 7, 8):
        check(lambda x, n=n: x**n, lambda x, n=n: x**n, FLOATS)
        check(lambda x, n=n: at.pow(x, n), lambda x, n=n: x**n, INTS)
    check(lambda x: x**11, lambda x: x**11, INTS % 7)  # an integer to a whole constant stays an integer
    check(lambda x: x**11, lambda x: x**11, np.clip(FLOATS, -9, 9), rtol=1e-11)
    check(lambda x: x**-1, lambda x: 1 / x, FLOATS)
    check(lambda x: x**0.5, lambda x: x**0.5, FLOATS)
    check(lambda x: x**at.inf, lambda x: x**np.inf, FLOATS)
    check(lambda x: x**2.0, lambda x: x.astype(float) ** 2, INTS)
    check(lambda x, y: x**y, lambda x, y: x**y, POSITIVE, OTHERS)
    check(lambda x: 2**x, lambda x: 2.0**x, INTS)
    check(lambda x, y: x**y, lambda x, y: x.astype(float) ** y, np.abs(INTS) % 4, np.abs(DIVISORS))


def test_extremes_of_two_keep_nan():
    for f, g in ((at.minimum, np.minimum), (at.maximum, np.maximum)):
        check(f, g, FLOATS, OTHERS)
        check(f, g, INTS, DIVISORS)
        check(f, g, FLOATS, INTS)
        check(lambda a, f=f: f(0, a), lambda a, g=g: g(0, a), INTS)


def test_clip():
    check(lambda x: at.clip(x, -1, 2.5), lambda x: np.clip(x, -1, 2.5), FLOATS)
    check(lambda x: at.clip(x, low=-3), lambda x: np.maximum(x, -3), INTS)
    check(lambda x: at.clip(x, high=3), lambda x: np.minimum(x, 3), INTS)
    check(lambda x, y: at.clip(x, y, y + 1), lambda x, y: np.minimum(np.maximum(x, y), y + 1), INTS, DIVISORS)


def test_where_promotes_and_the_side_not_taken_cannot_spoil():
    check(at.where, np.where, BOOLS, FLOATS, OTHERS)
    check(at.where, np.where, BOOLS, INTS, OTHERS)
    check(lambda c, x: at.where(c, x, 0), lambda c, x: np.where(c, x, 0), BOOLS, INTS)
    check(lambda c, x: at.where(c, x, ~x), lambda c, x: np.where(c, x, ~x), BOOLS, MASK)
    check(lambda x: at.where(x > 0, at.log(x), -1.0), lambda x: np.where(x > 0, np.log(np.where(x > 0, x, 1)), -1), FLOATS)  # fmt: skip


def test_python_and_numpy_numbers_on_either_side():
    for c in (2, 2.5, np.float32(1.5), np.float64(2.5), np.int64(3), np.float16(0.5), np.array(2.0)):
        number = c if isinstance(c, int | float) else c.item()
        for f in (operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.ge, operator.eq):
            check(lambda x, f=f, c=c: f(x, c), lambda x, f=f, n=number: f(x, n), FLOATS)
            check(lambda x, f=f, c=c: f(c, x), lambda x, f=f, n=number: f(n, x), FLOATS)
    for c in (3, np.int64(3)):
        for f in (operator.floordiv, operator.mod, operator.and_, operator.or_, operator.xor):
            check(lambda x, f=f, c=c: f(c, x), lambda x, f=f: f(3, x), np.abs(INTS) + 1)
    check(lambda x: np.float64(2) ** x, lambda x: 2.0**x, INTS)
    check(lambda x: at.inf * x + at.pi, lambda x: np.inf * x + np.pi, POSITIVE)


def test_integers_are_64_bits():
    big = np.full(N, 2**62)
    values, _ = along_i(lambda x: (x // 2**40 == 2**22) & (x - (x - 1) == 1) & (x * 4 == 0), big)
    assert (values == 1).all()
    values, _ = along_i(lambda x: x == 2**53 + 1, np.full(N, 2**53 + 1))
    assert (values == 1).all() and (2.0**53 + 1 == 2.0**53)


def test_indices_extents_and_sizes():
    q, k, v = RNG.standard_normal((2, 6, 4, 5)), RNG.standard_normal((2, 3, 7, 5)), RNG.standard_normal((2, 3, 7, 2))

    @at.attention
    def all_of_them(v, q, h, b, i):
        numbers = (
            b * 1000 + h * 100 + i * 10 + at.group,
            at.q_len * 10 + at.kv_len + 0 * i,
            at.size(q) * 10 + at.size(v) + 0 * i,
        )
        return numbers

    b, h, i = np.ix_(range(2), range(6), range(4))
    numbers, lengths, sizes = all_of_them.reference(q, k, v)
    np.testing.assert_array_equal(numbers, b * 1000 + h * 100 + i * 10 + 2)
    assert (lengths == 47).all() and (sizes == 52).all()


def test_reductions_over_keys_and_features():
    q, k, v = RNG.standard_normal((2, 4, 5, 6)), RNG.standard_normal((2, 2, 7, 6)), RNG.standard_normal((2, 2, 7, 3))

    @at.attention
    def reduced(q, k, v, i, j):
        s, d = at.dot(q, k), at.abs(q - k)
        near = at.sum(i - j < 2, over="j"), at.max(j * i - j, over="j"), at.min(v, over="j") + 0 * i
        return (
            at.sum(s, over="j"),
            at.max(s, over="j"),
            at.min(s, over="j"),
            at.max(at.sum(d, over="d"), over="j"),
            *near,
        )

    wide, values = np.repeat(k, 2, 1), np.repeat(v, 2, 1)
    s = q @ wide.swapaxes(-1, -2)
    d = np.abs(q[..., :, None, :] - wide[..., None, :, :]).sum(-1)
    i, j = np.arange(5)[:, None], np.arange(7)
    expected = [s.sum(-1), s.max(-1), s.min(-1), d.max(-1), (i - j < 2).sum(-1), (j * i - j).max(-1), values.min(-2)[..., None, :]]  # fmt: skip
    for got, wanted in zip(reduced.reference(q, k, v), expected, strict=True):
        np.testing.assert_allclose(got, np.broadcast_to(wanted, got.shape), rtol=1e-12, atol=1e-12)
    empty = [x[0, 0, 0] for x in reduced.reference(q, k[:, :, :0], v[:, :, :0])[:5]]
    assert empty[0] == 0 and np.isneginf(empty[1]) and np.isposinf(empty[2]) and np.isneginf(empty[3]) and empty[4] == 0


def test_matrices_from_either_side_by_head_and_by_dot():
    q, k, v = (RNG.standard_normal((1, 2, 5, n)) for n in (4, 4, 3))
    w, t, square, heads, u = (RNG.standard_normal(shape) for shape in ((4, 6), (6, 4), (4, 4), (2, 4, 6), (4,)))

    @at.attention
    def projected(
        q, k, v, h, *, w: at.Tensor["d", "r"], t: at.Tensor["s", "d"], square: at.Tensor["d", "d"],
        heads: at.Tensor["h", "d", "m"], u: at.Tensor["d"], wo: at.Tensor["e", "o"],
    ):  # fmt: skip
        s = at.dot(q @ w, at.dot(k, w)) + at.dot(t @ q, t @ k) + at.dot(q @ heads[h], k @ heads[h, :, :])
        s = s + (q @ u) * at.dot(u, k) + at.dot(q @ square @ square, k)
        return at.softmax(s * at.rsqrt(at.size(q))) @ (v @ wo)

    wo = RNG.standard_normal((3, 7))
    kt = k.swapaxes(-1, -2)
    s = q @ w @ w.T @ kt + q @ t.T @ t @ kt + q @ heads @ heads.swapaxes(-1, -2) @ kt
    s = (s + (q @ u)[..., None] * (k @ u)[..., None, :] + q @ square @ square @ kt) / 2
    got = projected.reference(q, k, v, w=w, t=t, square=square, heads=heads, u=u, wo=wo)
    np.testing.assert_allclose(got, special.softmax(s, -1) @ v @ wo, atol=1e-12)


def test_softmax_with_masks_sinks_and_masked_scores():
    q, k, v = (RNG.standard_normal((1, 2, 6, 4)) for _ in range(3))
    sinks = np.array([0.5, -1.0])

    @at.attention
    def everything(q, k, v, h, i, j, *, sink: at.Tensor["h"]):
        s = at.dot(q, k)
        additive = at.where(j < 4, 0.0, -3.4028235e38)
        minus_infinity = at.where(j != 1, s, -at.inf)
        return (
            at.softmax(s, where=j <= i, sink=sink[h]) @ v,
            at.softmax(s + additive) @ v,
            at.softmax(minus_infinity, where=True) @ v,
            at.softmax(s, where=(j > 5) & (i > j)) @ v,
            at.softmax(i - j) @ v,
        )

    i, j = np.arange(6)[:, None], np.arange(6)
    s = q @ k.swapaxes(-1, -2)
    e = np.where(j <= i, np.exp(s), 0)
    expected = [
        e / (e.sum(-1, keepdims=True) + np.exp(sinks)[:, None, None]) @ v,
        special.softmax(s[..., :4], -1) @ v[:, :, :4],
        special.softmax(np.where(j != 1, s, -np.inf), -1) @ v,
        0 * q,
        special.softmax((i - j).astype(float), -1) @ v,
    ]
    for got, wanted in zip(everything.reference(q, k, v, sink=sinks), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-13)


def test_attend_sums_over_the_keys_even_where_one_side_does_not_read_them():
    q, k, v = (RNG.standard_normal((1, 1, 5, 3)) for _ in range(3))

    @at.attention
    def sums(q, k, v, i, j):
        return at.dot(q, q) @ v, at.dot(q, k) @ q, (j <= i) @ v, at.softmax(at.dot(q, k)) @ (v * at.sigmoid(at.sum(v, over="e")))  # fmt: skip

    first, second, third, fourth = sums.reference(q, k, v)
    s = q @ k.swapaxes(-1, -2)
    np.testing.assert_allclose(first, (q * q).sum(-1, keepdims=True) * v.sum(-2, keepdims=True), atol=1e-13)
    np.testing.assert_allclose(second, s.sum(-1, keepdims=True) * q, atol=1e-13)
    np.testing.assert_allclose(third, np.cumsum(v, -2), atol=1e-13)
    np.testing.assert_allclose(fourth, special.softmax(s, -1) @ (v * special.expit(v.sum(-1, keepdims=True))), atol=1e-13)  # fmt: skip
