"""Blocks of tiles that are full at once, and questions that are asked only where they matter: the same classes, tile by tile.

Kernels of real masks, as `lower` classifies them; the bodies tell which tiles run in which class. A block is 8 tiles of 16 keys.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_sweep import KEYS, ROWS, B, I, J, K, Q, V, attention, called, compiled, emitted, gather, only, op, sums

from attnc.compile import lower
from attnc.interp import Inputs, Interpreter, align
from attnc.ir.graph import Graph, Node, const, node
from attnc.tile.program import Keys, Program
from attnc.tile.regions import Classifier, survey

LENGTHS = (1, 129, 300, 777)
DIMS = ("b", "n")
CAUSAL = op("le", J, I)
S = node("dot", Q, K, axis="d")


def table(name: str, x: Node, kind: str = "int") -> Node:
    return gather(name, DIMS, B, x, kind=kind)


def same(name: str) -> Node:
    return op("eq", table(name, I), table(name, J))


def runs(values: Any, low: int, high: int, shuffled: bool = False) -> Callable[..., np.ndarray]:
    """Rows of runs of equal values, each `low` to `high` long; sorted unless shuffled."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        rows = []
        for _ in range(2):
            lengths = rng.integers(low, high, n // low + 1)
            chosen = values(rng, len(lengths))
            rows.append(np.repeat(chosen if shuffled else np.sort(chosen), lengths)[:n])
        return np.stack(rows)

    return draw


def ids(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 99, n)


def flags(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.random(n) < 0.6


def with_nan(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice([np.nan, -np.inf, 0.0, 1.0, 2.0, np.inf], n, p=[0.2, 0.1, 0.2, 0.2, 0.2, 0.1]).astype(np.float32)


def weights(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice([0.0, 1.0], n).astype(np.float32)


LONG, SHORT, MIXED = runs(ids, 200, 300), runs(ids, 5, 40), runs(ids, 5, 300, shuffled=True)
BELOW = op("lt", const(0.5), table("x", J, "float"))
ABOVE_I = op("le", table("x", I, "float"), table("x", J, "float"))
MASKS: dict[str, tuple[Node, dict[str, Callable[..., np.ndarray]]]] = {
    "long documents": (same("doc"), {"doc": LONG}),
    "packed causal": (op("and", CAUSAL, same("doc")), {"doc": LONG}),
    "short packed": (op("and", CAUSAL, same("doc")), {"doc": SHORT}),
    "unsorted": (op("and", CAUSAL, same("doc")), {"doc": MIXED}),
    "either": (op("and", op("or", same("doc"), same("group")), CAUSAL), {"doc": LONG, "group": MIXED}),
    "both or few": (op("or", op("and", same("doc"), same("group")), op("lt", J, 40)), {"doc": LONG, "group": LONG}),
    "not in document": (op("and", CAUSAL, op("not", op("or", same("doc"), same("group")))), {"doc": LONG, "group": MIXED}),
    "strided": (op("and", op("lt", op("mod", J, 200), 150), same("doc")), {"doc": LONG}),
    "flags": (op("or", op("and", table("on", J, "bool"), CAUSAL), op("eq", I, J)), {"on": runs(flags, 100, 300, True)}),
    "numbers": (BELOW, {"x": runs(with_nan, 100, 300, True)}),
    "numbers of both": (op("and", CAUSAL, ABOVE_I), {"x": runs(with_nan, 100, 300, True)}),
}  # fmt: skip
DTYPES = {"doc": "int64", "group": "int64", "on": "bool", "x": "float32", "w": "float32"}


def telling(program: Program) -> Program:
    """Full tiles add up the values of their keys, partial ones three times these."""
    keys, one, three = only(program), only(sums(1.0)), only(sums(3.0))
    body, other = one.full or one.partial, three.full or three.partial
    keys = replace(keys, states=one.states, full=keys.full and body, partial=keys.partial and other)
    whole = sums(1.0)
    return replace(whole, steps=tuple(keys if isinstance(x, Keys) else x for x in whole.steps))


def classes(keys: Keys, inputs: Inputs) -> np.ndarray:
    """(B, tiles of rows, keys): 0 where the key's tile is empty, 1 full, 3 partial, each tile judged by itself."""
    (batch, _, q_len, _), kv_len = inputs.q.shape, inputs.k.shape[2]
    judge, ends = Classifier(keys, inputs), Classifier(replace(keys, run=keys.run or keys.hull), inputs)
    factor = np.zeros((batch, -(-q_len // ROWS), kv_len))
    for b, row in np.ndindex(factor.shape[:2]):
        place = [np.array([x]) for x in (b, 0, row * ROWS, min((row + 1) * ROWS, q_len) - 1)]
        first, last = (int(x[0]) for x in ends.rows(*place)) if ends.run else (0, kv_len - 1)
        start = max(first, 0)
        stop = max(min(last + 1, kv_len), start)
        j0 = np.arange(start, stop, KEYS)
        j1 = np.minimum(j0 + KEYS, stop) - 1
        some, every = judge(*(np.repeat(x, len(j0)) for x in place), j0, j1)
        kind = np.where(some, np.where(every, 1.0, 3.0), 0.0)
        factor[b, row, start:stop] = np.repeat(kind, j1 - j0 + 1)
    return factor


def calls(draws: dict[str, Callable[..., np.ndarray]], rng: np.random.Generator) -> list[Inputs]:
    """Inputs whose values are worth a random number per key."""
    found = []
    for n in LENGTHS:
        q, v = np.zeros((2, 1, n, 1)), np.zeros((2, 1, n, 1))
        v[:, 0, :, 0] = rng.integers(1, 2**36, n)
        found.append(Inputs(q, q, v, {name: draw(rng, n) for name, draw in draws.items()}))
    return found


def check(program: Program, draws: dict[str, Callable[..., np.ndarray]], mask: Node | None = None) -> set[float]:
    """The kernel's classes are those of the tiles, and say of the mask what is true; gives the classes that came up."""
    program = telling(program)
    kernel, seen = compiled(program, {name: DTYPES[name] for name in draws}), set[float]()
    for inputs in calls(draws, np.random.default_rng(0)):
        n, worth = inputs.q.shape[2], inputs.v[0, 0, :, 0]
        factor = classes(only(program), inputs)
        wanted = np.repeat(factor @ worth, ROWS, axis=1)[:, None, :n]
        np.testing.assert_array_equal(called(kernel, inputs), wanted, f"{n} keys: {inputs.operands}")
        seen |= set(factor.flat)
        if mask is not None:
            (value,) = Interpreter(inputs, np.float64, 0, n).run([mask])
            live = np.broadcast_to(align(value, ("b", "h", "i", "j"))[:, 0], (2, n, n))
            of_row = np.repeat(factor, ROWS, axis=1)[:, :n]
            assert live[of_row == 1].all() and not live[of_row == 0].any()
    return seen


@pytest.mark.parametrize("name", MASKS)
def test_blocks_that_are_full_at_once_are_made_of_full_tiles(name: str) -> None:
    mask, draws = MASKS[name]
    seen = check(lower(attention(mask)), draws, mask)
    assert seen == {0.0, 1.0, 3.0}


def test_weights_of_0_are_skipped_in_blocks_whose_mask_is_true() -> None:
    """What is certain is not possible where the weight is 0: a full block has empty tiles."""
    weight = op("where", op("and", CAUSAL, same("doc")), table("w", J, "float"), const(0.0))
    program = lower(Graph((node("attend", weight, V),)))
    assert not only(program).implied
    draws = {"w": runs(weights, 10, 60, True), "doc": LONG}
    assert check(program, draws) == {0.0, 1.0, 3.0}
    for inputs in calls(draws, np.random.default_rng(1)):
        n = inputs.q.shape[2]
        seen = survey(only(program), inputs, (ROWS, KEYS))
        some = np.pad(inputs.operands["w"] != 0, ((0, 0), (0, -n % KEYS))).reshape(2, -1, KEYS).any(axis=2)
        b, _, _, j, _ = seen.tiles()
        assert some[b, j].all()


def test_masks_that_are_only_refuted_are_asked_where_the_others_are_certain() -> None:
    """Of the second condition no tile is known to be true, but many are known to be false."""
    either = op("or", op("and", CAUSAL, op("lt", const(0.0), S)), op("and", CAUSAL, op("lt", S, const(-1.0))))
    program = lower(attention(op("and", op("lt", op("sub", I, J), 50), either)))
    assert only(program).open and not only(program).implied
    assert 1.0 in check(program, {})
    plain = lower(attention(op("and", op("lt", op("sub", I, J), 50), op("lt", const(0.0), S))))
    assert only(plain).open and only(plain).implied, "what no corner says anything about is always possible"


def test_tables_are_searched_only_where_the_corners_do_not_decide() -> None:
    mask, _ = MASKS["packed causal"]
    source = emitted(telling(lower(attention(mask))), {"doc": "int64"})[0]
    loop = source.split("while j0 < stop:")[1]
    assert "certain = and_(le(j1, i0), " in loop and "possible = certain\n" in loop
    assert "if possible and not certain and span > 16:" in loop, "a block that is full is not looked at in parts"
    asked = [line.strip() for line in loop[: loop.index("# not empty")].splitlines()]
    before = {line: asked[n - 1] for n, line in enumerate(asked)}
    searches = [line for line in asked if "least_int(" in line or "greatest_int(" in line]
    assert len(searches) == 4 and all(before[line].startswith(("if ", "x_")) for line in searches)
    assert loop.count("for j0 in range(j0, end, 16):") == 1, "bodies are printed once"
