"""Each op of the tile program alone, in a program written by hand, against one line of NumPy."""

import numpy as np
import pytest

from attnc.interp import Inputs
from attnc.ir.graph import Node, const, node
from attnc.passes.bound import corner
from attnc.passes.stabilise import value
from attnc.tile.interp import run
from attnc.tile.program import (
    Dot,
    DotAcc,
    FeatureReduce,
    Keys,
    Load,
    Map,
    Program,
    Reduce,
    RowMap,
    SetRow,
    State,
    Statement,
    Step,
    Store,
)

RNG = np.random.default_rng(0)
Q, K, V = RNG.standard_normal((5, 3)), RNG.standard_normal((7, 3)), RNG.standard_normal((7, 2))
W, U = RNG.standard_normal((3, 4)), RNG.standard_normal(3)
TILES = [(1, 1), (2, 3), (5, 7), (8, 8)]
YES, NO = const(True), const(False)

q, k, v = (node("role", name=name) for name in "qkv")
i, j = (node("index", name=name) for name in "ij")
w = node("gather", name="w", dims=("d", "r"), features=("d", "r"), kind="float")
u = node("gather", name="u", dims=("d",), features=("d",), kind="float")
LOAD_Q, LOAD_K, LOAD_V = Load("Q", "i", "d", q), Load("K", "j", "d", k), Load("V", "j", "e", v)
ROW, PAIR = ("b", "h", "i"), ("b", "h", "i", "j")


def rows(name: str, feature: str = "d") -> Node:
    return value(name, (*ROW, feature))


def keys(name: str, feature: str = "d") -> Node:
    return value(name, ("b", "h", "j", feature))


def row(name: str) -> Node:
    return value(name, ROW)


def pair(name: str) -> Node:
    return value(name, PAIR)


def op(name: str, *operands: Node) -> Node:
    return node(name, *operands)


def execute(*steps: Step, tile: tuple[int, int], **roles: np.ndarray) -> np.ndarray:
    """The first output for one batch and head, (5,) or (5, features)."""
    given = [roles.get(name, x)[None, None] for name, x in (("q", Q), ("k", K), ("v", V))]
    outputs = run(Program("by hand", steps), Inputs(*given, {"w": W, "u": U}), tile=tile)
    return outputs[0][0, 0]


def summed(
    *body: Statement, tile: tuple[int, int], before: tuple[Step, ...] = (LOAD_Q,), how: str = "sum", **roles: np.ndarray
):
    """What the statements leave in the pair tile S, reduced over the keys."""
    combine, first = {"sum": ("add", 0.0), "max": ("maximum", -np.inf), "min": ("minimum", np.inf)}[how]
    end = (Reduce("part", how, pair("S")), SetRow("total", op(combine, row("total"), row("part"))))
    sweep = Keys(0, (State("total", first, "float"),), YES, NO, (), (*body, *end))
    return execute(*before, sweep, Store(0, None, row("total")), tile=tile, **roles)  # fmt: skip


def accumulated(product: DotAcc, *body: Statement, tile: tuple[int, int], values: np.ndarray = V) -> np.ndarray:
    """The accumulator after weights P and a scale have been made by `body`."""
    sweep = Keys(0, (State("acc", 0.0, "float", "e"),), YES, NO, (), (LOAD_V, *body, product))
    return execute(sweep, Store(0, "e", rows("acc", "e")), tile=tile, v=values)


@pytest.mark.parametrize("tile", TILES)
def test_load_and_dot(tile: tuple[int, int]) -> None:
    found = summed(LOAD_K, Dot("S", "Q", "K", "d"), tile=tile)
    np.testing.assert_allclose(found, (Q @ K.T).sum(1), atol=1e-13)


@pytest.mark.parametrize("tile", TILES)
def test_load_prepares_features_of_keys(tile: tuple[int, int]) -> None:
    norm = FeatureReduce("norm", "j", "sum", "d", op("mul", keys("K"), keys("K")))
    ready = Load("unit", "j", "d", op("mul", keys("K"), op("rsqrt", value("norm", ("b", "h", "j")))))
    found = summed(LOAD_K, norm, ready, Dot("S", "Q", "unit", "d"), tile=tile)
    np.testing.assert_allclose(found, (Q @ (K / np.linalg.norm(K, axis=1, keepdims=True)).T).sum(1), atol=1e-13)


@pytest.mark.parametrize("tile", TILES)
def test_load_prepares_features_of_rows(tile: tuple[int, int]) -> None:
    angle = op("mul", node("cast", i, kind="float"), u)
    before = (LOAD_Q, Load("turned", "i", "d", op("mul", rows("Q"), op("cos", angle))))
    found = summed(LOAD_K, Dot("S", "turned", "K", "d"), before=before, tile=tile)
    np.testing.assert_allclose(found, ((Q * np.cos(np.arange(5)[:, None] * U)) @ K.T).sum(1), atol=1e-13)


@pytest.mark.parametrize("tile", TILES)
def test_load_projects_rows_and_keys(tile: tuple[int, int]) -> None:
    project = {"contract": "d", "result": "r"}
    before = (LOAD_Q, Load("QW", "i", "r", node("project", rows("Q"), w, **project)))
    body = (LOAD_K, Load("KW", "j", "r", node("project", keys("K"), w, **project)), Dot("S", "QW", "KW", "r"))
    found = summed(*body, before=before, tile=tile)
    np.testing.assert_allclose(found, (Q @ W @ (K @ W).T).sum(1), atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("how", "numpy"), [("sum", np.sum), ("max", np.max), ("min", np.min)])
def test_feature_reduce(how: str, numpy, tile: tuple[int, int]) -> None:
    of_row = FeatureReduce("a", "i", how, "d", op("abs", rows("Q")))
    np.testing.assert_allclose(execute(LOAD_Q, of_row, Store(0, None, row("a")), tile=tile), numpy(abs(Q), axis=1))
    of_key = FeatureReduce("c", "j", how, "d", op("mul", keys("K"), u))
    found = summed(LOAD_K, of_key, Map("S", value("c", ("b", "h", "j"))), tile=tile)
    np.testing.assert_allclose(found, np.full(5, numpy(K * U, axis=1).sum()), atol=1e-13)
    of_pair = FeatureReduce("S", "ij", how, "d", op("tanh", op("add", rows("Q"), keys("K"))))
    found = summed(LOAD_K, of_pair, tile=tile)
    np.testing.assert_allclose(found, numpy(np.tanh(Q[:, None] + K), axis=2).sum(1), atol=1e-13)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("how", "numpy"), [("sum", np.sum), ("max", np.max), ("min", np.min)])
def test_map_and_reduce(how: str, numpy, tile: tuple[int, int]) -> None:
    numbers = op("add", op("mul", i, const(10)), op("mul", j, j))
    found = summed(Map("S", node("cast", numbers, kind="float")), how=how, tile=tile)
    np.testing.assert_array_equal(found, numpy(10 * np.arange(5)[:, None] + np.arange(7) ** 2, axis=1))


@pytest.mark.parametrize("tile", TILES)
def test_a_maximum_keeps_nan_or_drops_it(tile: tuple[int, int]) -> None:
    bad = K.copy()
    bad[2, 1] = np.nan
    scores = Q @ bad.T
    for drop, expected in ((False, scores.max(1)), (True, np.nanmax(scores, axis=1))):
        body = (LOAD_K, Dot("S", "Q", "K", "d"), Reduce("t", "max", pair("S"), drop))
        new = op("maximum", row("m"), row("t"))
        sweep = Keys(0, (State("m", -np.inf, "float"),), YES, NO, (), (*body, SetRow("m", new)))
        found = execute(LOAD_Q, sweep, Store(0, None, row("m")), tile=tile, k=bad)
        np.testing.assert_allclose(found, expected, atol=1e-13)
    assert np.isnan(summed(LOAD_K, Dot("S", "Q", "K", "d"), how="max", tile=tile, k=bad)).all()


@pytest.mark.parametrize("tile", TILES)
def test_set_row_takes_effect_at_once_and_row_map_keeps_the_old(tile: tuple[int, int]) -> None:
    """Horner's rule over key tiles: state <- 2 * state + 1, with the old state kept beside it."""
    states = (State("a", 0.0, "float"), State("before", 0.0, "float"))
    body = (
        RowMap("old", row("a")),
        SetRow("a", op("add", op("mul", row("a"), const(2.0)), const(1.0))),
        SetRow("before", op("sub", row("a"), row("old"))),
    )
    sweep = Keys(0, states, YES, NO, (), body)
    count = -(-7 // tile[1])
    found = execute(sweep, Store(0, None, op("mul", row("a"), row("before"))), tile=tile)
    np.testing.assert_array_equal(found, np.full(5, (2.0**count - 1) * 2.0 ** (count - 1)))


@pytest.mark.parametrize("tile", TILES)
def test_dot_acc_adds_and_rescales(tile: tuple[int, int]) -> None:
    weights = Map("P", node("cast", op("sub", i, j), kind="float"))
    p = np.arange(5)[:, None] - np.arange(7.0)
    found = accumulated(DotAcc("acc", "P", "V", "e", None, False), weights, tile=tile)
    np.testing.assert_allclose(found, p @ V, atol=1e-12)
    half = RowMap("half", const(0.5))
    found = accumulated(DotAcc("acc", "P", "V", "e", "half", False), weights, half, tile=tile)
    starts = range(0, 7, tile[1])
    scales = [0.5 ** (len(starts) - 1 - n) for n in range(len(starts))]
    expected = sum(c * p[:, s : s + tile[1]] @ V[s : s + tile[1]] for c, s in zip(scales, starts, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_dot_acc_skips_values_of_zero_weights_only_where_told(bad: float, tile: tuple[int, int]) -> None:
    values = V.copy()
    values[4, 1] = bad
    weights = Map("P", op("where", op("le", j, i), const(0.5), const(0.0)))
    skipped = accumulated(DotAcc("acc", "P", "V", "e", None, True), weights, tile=tile, values=values)
    mask = np.tri(5, 7)
    np.testing.assert_allclose(skipped[:4], 0.5 * mask[:4] @ V, atol=1e-13)
    np.testing.assert_allclose(skipped[4, 0], 0.5 * mask[4] @ V[:, 0], atol=1e-13)
    np.testing.assert_equal(skipped[4, 1], bad)  # a live weight
    plain = accumulated(DotAcc("acc", "P", "V", "e", None, False), weights, tile=tile, values=values)
    assert np.isnan(plain[:4, 1]).all(), "0 * NaN and 0 * inf are NaN in a plain sum"


def test_keys_are_empty_full_or_partial_as_the_corners_say() -> None:
    """8 queries by 12 keys in tiles of 4: the bodies leave their mark, 100 for full and 1 for partial."""

    def marked(amount: float) -> tuple[Statement, ...]:
        return (SetRow("n", op("add", row("n"), const(amount))),)

    possible = op("le", corner("j0"), corner("i1"))
    certain = op("le", corner("j1"), corner("i0"))
    sweep = Keys(0, (State("n", 0.0, "float"),), possible, certain, marked(100.0), marked(1.0))
    roles = {"q": np.zeros((8, 3)), "k": np.zeros((12, 3)), "v": np.zeros((12, 2))}
    found = execute(sweep, Store(0, None, row("n")), tile=(4, 4), **roles)
    np.testing.assert_array_equal(found, [1] * 4 + [101] * 4)
    always = Keys(0, sweep.states, YES, YES, marked(100.0), ())
    np.testing.assert_array_equal(execute(always, Store(0, None, row("n")), tile=(4, 4), **roles), [300] * 8)


def test_a_second_sweep_reads_what_the_first_left() -> None:
    tile = (2, 3)
    first = Keys(0, (State("m", -np.inf, "float"),), YES, NO, (), (
        LOAD_K, Dot("S", "Q", "K", "d"), Reduce("t", "max", pair("S")), SetRow("m", op("maximum", row("m"), row("t"))),
    ))  # fmt: skip
    gap = Map("D", op("sub", pair("S"), row("top")))
    second = Keys(1, (State("l", 0.0, "float"),), YES, NO, (), (
        LOAD_K, Dot("S", "Q", "K", "d"), gap, Reduce("t", "sum", pair("D")), SetRow("l", op("add", row("l"), row("t"))),
    ))  # fmt: skip
    found = execute(LOAD_Q, first, RowMap("top", row("m")), second, Store(0, None, row("l")), tile=tile)
    s = Q @ K.T
    np.testing.assert_allclose(found, (s - s.max(1, keepdims=True)).sum(1), atol=1e-13)


def test_store_keeps_rows_and_features_apart() -> None:
    out = execute(LOAD_Q, Store(0, "d", op("mul", rows("Q"), const(2.0))), tile=(2, 2))
    np.testing.assert_array_equal(out, 2 * Q)
    both = Program("two", (LOAD_Q, Store(0, "d", rows("Q")), Store(1, None, node("cast", i, kind="float"))))
    first, second = run(both, Inputs(Q[None, None], K[None, None], V[None, None]), tile=(3, 3))
    np.testing.assert_array_equal(first[0, 0], Q)
    np.testing.assert_array_equal(second[0, 0], np.arange(5))


def test_no_statement_outlives_its_tile() -> None:
    """What one tile of keys computed is gone in the next: a statement that reads it fails, and is not silently stale."""
    stale = Keys(0, (State("n", 0.0, "float"),), YES, op("le", corner("j0"), const(0)),
                 (Map("S", const(1.0)), SetRow("n", const(1.0))), (Reduce("t", "sum", pair("S")),))  # fmt: skip
    with pytest.raises(AttributeError, match="_value"):
        execute(stale, Store(0, None, row("n")), tile=(5, 3))
