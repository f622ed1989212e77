"""The classes of tiles by NumPy: extremes of tables, boxes, single tiles, and the walk over all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.interp import Inputs, Interpreter, Value
from attnc.ir.graph import const, node
from attnc.ir.text import expression
from attnc.passes.bound import corner
from attnc.passes.cuts import UNITS, Cut
from attnc.tile import regions
from attnc.tile.program import Keys, RowMap
from attnc.tile.regions import boxes, classify, survey, visit

I0, I1, J0, J1 = map(corner, ("i0", "i1", "j0", "j1"))
B, H = (node("index", name=name) for name in "bh")
BODY = (RowMap("x", const(1.0)),)
KINDS = {"bool": np.bool_, "int": np.int64, "float": np.float64}
UNKNOWN = {
    ("bool", "min"): False, ("int", "min"): -(2**63), ("float", "min"): -np.inf,
    ("bool", "max"): True, ("int", "max"): 2**63 - 1, ("float", "max"): np.inf,
}  # fmt: skip


def inputs(q_len, kv_len, batch=1, heads=1, **operands):
    """A call of these lengths."""
    q, k = (np.zeros((batch, heads, n, 1), np.float32) for n in (q_len, kv_len))
    return Inputs(q, k, k, operands)


def sweep(possible, certain, **more):
    return Keys(0, (), possible, certain, BODY, BODY, **more)


def both(*conditions):
    result = const(True)
    for c in conditions:
        result = node("and", result, c)
    return result


# -- extreme


def entries(table, box, how, kind):
    """The extreme of one box, entry by entry."""
    spans = [range(*(int(np.clip(end, 0, n - 1)) + more for end, more in ((low, 0), (max(low, high), 1))))
             for (low, high), n in zip(box, table.shape, strict=True)]  # fmt: skip
    worst = -np.inf if how == "min" else np.inf
    found = [table[place] for place in itertools.product(*spans)]
    if kind == "bool":
        return all(found) if how == "min" else any(found)
    return (min if how == "min" else max)(worst if np.isnan(x) else x for x in found)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), how=st.sampled_from(["min", "max"]), rank=st.integers(1, 3),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_extreme_is_the_least_or_greatest_entry_of_its_box(data, kind, how, rank, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(data.draw(st.integers(1, 30)) for _ in range(rank))
    table = rng.integers(-9, 9, shape)
    if kind == "float":
        table = np.where(rng.random(shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf], shape), table / 2)
    elif kind == "bool":
        table = rng.random(shape) < data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    varying = sorted(data.draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=2)))
    operands, bindings, ends = [], {}, []
    for axis in range(rank):
        pair = []
        for side in ("low", "high") if axis in varying else ("both",):
            axes = data.draw(st.sampled_from([(), ("b",), ("i",), ("b", "i", "j"), ("j",)]))
            leaf = node("value", name=f"{side}{axis}", axes=axes, kind="int")
            bindings[leaf] = Value(rng.integers(-4, shape[axis] + 4, [{"b": 3, "i": 2, "j": 4}[a] for a in axes]), axes)
            pair.append(leaf)
        operands += [pair[0], pair[-1]]
        ends.append([np.broadcast_to(_spread(bindings[x]), (3, 2, 4)) for x in (pair[0], pair[-1])])
    x = node("extreme", *operands, name="t", how=how, dims=tuple("xyz"[:rank]), kind=kind, axis=varying[-1])
    (value,) = Interpreter(inputs(1, 1, t=table), np.float64, 0, 1, bindings=bindings).run([x])
    found = np.broadcast_to(_spread(value), (3, 2, 4))
    assert found.dtype == KINDS[kind]
    for place in np.ndindex(3, 2, 4):
        box = [(int(low[place]), int(high[place])) for low, high in ends]
        expected = entries(table, box, how, kind)
        for axis in varying[:-1]:
            low, high = (int(np.clip(end, 0, shape[axis] - 1)) for end in (box[axis][0], max(box[axis])))
            if high - low + 1 > 8:
                expected = UNKNOWN[kind, how]
        assert found[place] == expected, (box, table)


def _spread(x):
    return x.data.reshape([dict(zip(x.axes, x.data.shape, strict=True)).get(a, 1) for a in "bij"])


def test_extreme_of_an_empty_table_does_not_crash():
    x = node("extreme", J0, J1, name="t", how="min", dims=("j",), kind="int", axis=0)
    leaves = {J0: Value(np.asarray(0), ()), J1: Value(np.asarray(5), ())}
    (value,) = Interpreter(inputs(1, 0, t=np.zeros(0, int)), np.float64, 0, 1, bindings=leaves).run([x])
    assert value.data == 0


def test_extreme_reads_like_an_interval():
    x = node("extreme", B, B, J0, J1, name="doc", how="max", dims=("b", "j"), kind="int", axis=1)
    assert expression(node("le", x, const(3))) == "max doc[b, j0..j1] <= 3"


# -- boxes


def boxes_one_by_one(first, last, shift, radices):
    """As `Cut` words it."""
    found, p = [], first
    while p <= last:
        x, end = p + shift, last + shift
        for r in (max(r, 1) for r in reversed(radices)):
            if x % r == 0 and x + r - 1 <= end:
                end = (end + 1) // r * r - 1
                break
            end = min(end, x // r * r + r - 1)
        found.append((p, end - shift))
        p = end - shift + 1
    return found


@settings(max_examples=300, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 70)), min_size=1, max_size=4),
    shift=st.integers(-50, 50),
    factors=st.lists(st.integers(-1, 5), max_size=3),
    nested=st.booleans(),
)
def test_boxes_split_a_range_at_the_wraps(ranges, shift, factors, nested):
    radices = [int(np.prod(factors[: n + 1])) for n in range(len(factors))] if nested else factors
    first = np.array([p for p, _ in ranges])
    last = np.array([p + n for p, n in ranges])
    same = [np.full(len(first), r) for r in radices]
    starts, ends = boxes(first, last, np.full(len(first), shift), same)
    for n, (p, q) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        expected = boxes_one_by_one(p, q, shift, radices)
        found = list(zip(starts[n].tolist(), ends[n].tolist(), strict=True))
        assert found == expected + [expected[-1]] * (len(found) - len(expected))
        if nested and min(factors, default=1) > 0:
            assert len(expected) <= 2 * len(radices) + 1
            for start, end in expected:
                for r in radices:
                    one = (start + shift) // r == (end + shift) // r
                    assert one or ((start + shift) % r == 0 and (end + shift + 1) % r == 0)


@settings(max_examples=100, deadline=None)
@given(first=st.integers(0, 60), length=st.integers(1, 150), shift=st.integers(-50, 50), unit=st.integers(1, 40))
def test_few_units_of_a_table_are_boxes_of_their_own(first, length, shift, unit):
    last = first + length - 1
    given = [np.array([x]) for x in (first, last, shift)]
    starts, ends = (x[0].tolist() for x in boxes(*given, [np.array([unit])], apart=True))
    assert starts[0] == first and ends[-1] == last
    assert all(a == b + 1 for a, b in zip(starts[1:], ends, strict=False))
    whole = [(p, q) for p, q in zip(starts, ends, strict=True) if (p + shift) % unit == 0 and q - p + 1 >= unit]
    if sum(q - p + 1 for p, q in whole) <= UNITS * unit:
        assert all(q - p + 1 == unit for p, q in whole)
    else:
        assert len(whole) <= 2  # all at once, or the end of the range after them


def test_boxes_end_where_radices_overflow():
    one, radix = np.array([1]), 3 * 2**61  # x + radix - 1 wraps to a negative number
    starts, ends = boxes(one * 0, one * 9, one * radix, [one * radix])
    assert starts[0, 0] == 0 and ends[0, -1] == 9 and (starts <= ends).all()


# -- single tiles


def corners(q_len, kv_len, tile, batch=1, heads=1):
    """All tiles: b, h, i0, i1, j0, j1, flat."""
    grid = np.meshgrid(np.arange(batch), np.arange(heads), np.arange(0, q_len, tile[0]), np.arange(0, kv_len, tile[1]),
                       indexing="ij")  # fmt: skip
    b, h, i0, j0 = (x.ravel() for x in grid)
    return b, h, i0, np.minimum(i0 + tile[0], q_len) - 1, j0, np.minimum(j0 + tile[1], kv_len) - 1


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    radix=st.integers(1, 9),
    shift=st.integers(-5, 5),
    cut=st.sampled_from(["", "i", "j", "ij"]),
    run=st.booleans(),
)
def test_classify_asks_every_box(lengths, tile, radix, shift, cut, run):
    """Two graphs that mean nothing but differ from box to box, beside the same in Python."""
    r, s = node("scalar", name="r", kind="int"), const(shift)
    digit = node("mod", node("add", I0, s), r)
    possible = node("eq", node("floordiv", node("sub", I1, J0), r), node("add", node("mod", J1, r), B))
    certain = node("le", digit, node("add", node("mod", J0, r), H))
    ends = (node("sub", I0, node("add", H, const(3))), node("add", node("sub", I1, s), B)) if run else None
    cuts = {
        f"cut_{axis}": Cut(node("mul", s, node("add", B, const(1))) if axis == "i" else s, (r, const(2 * radix)))
        for axis in cut
    }
    batch, heads = 2, 2
    tiles = corners(*lengths, tile, batch, heads)
    call = inputs(*lengths, batch, heads, r=radix)
    found = classify(sweep(possible, certain, run=ends, **cuts), call, *tiles)
    for n, (b, h, i0, i1, j0, j1) in enumerate(zip(*(x.tolist() for x in tiles), strict=True)):
        spans = [boxes_one_by_one(p, q, a, (radix, 2 * radix)) if name in cut else [(p, q)]
                 for name, p, q, a in (("i", i0, i1, shift * (b + 1)), ("j", j0, j1, shift))]  # fmt: skip
        pairs = [(i, j) for i in spans[0] for j in spans[1]]
        some = any((i[1] - j[0]) // radix == j[1] % radix + b for i, j in pairs)
        if run:
            first, last = i0 - h - 3, i1 - shift + b
            some = first <= last and any(first <= j <= last for j in range(j0, j1 + 1))
        assert found[0][n] == some
        assert found[1][n] == all((i[0] + shift) % radix <= j[0] % radix + h for i, j in pairs)


def test_bodies_decide_what_certain_means():
    tiles = corners(4, 4, (2, 2))
    call = inputs(4, 4)
    for full, partial, expected in (((), BODY, False), (BODY, (), True)):
        keys = Keys(0, (), const(True), node("le", J1, I0), full, partial)
        possible, certain = classify(keys, call, *tiles)
        assert possible.all() and (certain == expected).all()


def test_no_tiles_are_no_crash():
    none = [np.zeros(0, np.int64)] * 6
    possible, certain = classify(
        sweep(node("le", J0, I1), const(False), cut_i=Cut(const(0), (const(3),))), inputs(3, 3), *none
    )
    assert possible.shape == certain.shape == (0,) and possible.dtype == certain.dtype == np.bool_


# -- all tiles


def causal_window(window, by_head=False, by_batch=False):
    """j <= i + b and i - j < window + h, as sound and exact bounds; its run besides."""
    width = node("add", const(window), H) if by_head else const(window)
    ahead = node("add", I1, B) if by_batch else I1
    behind = node("add", I0, B) if by_batch else I0
    possible = both(node("le", J0, ahead), node("lt", node("sub", I0, J1), width))
    certain = both(node("le", J1, behind), node("lt", node("sub", I1, J0), width))
    run = (node("add", node("sub", I0, width), const(1)), ahead)
    return possible, certain, run


def documents(by_batch=True):
    """doc[b, i] == doc[b, j] by the extremes of the ids."""
    b = B if by_batch else const(0)
    low, high = (
        [
            node("extreme", b, b, p, q, name="doc", how=how, dims=("b", "j"), kind="int", axis=1)
            for how in ("min", "max")
        ]
        for p, q in ((I0, I1), (J0, J1))
    )
    possible = both(node("le", low[0], high[1]), node("le", high[0], low[1]))
    certain = both(node("eq", low[0], high[1]), node("eq", high[0], low[1]))
    return possible, certain


def dense_tiles(keys, call, tile):
    x = call.extents
    tiles = corners(x["q_len"], x["kv_len"], tile, x["batch"], x["heads"])
    possible, certain = classify(keys, call, *tiles)
    b, h, i0, _, j0, _ = (t[possible] for t in tiles)
    return b, h, i0 // tile[0], j0 // tile[1], certain[possible]


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.tuples(st.integers(1, 90), st.integers(0, 200)),
    heads=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 4)),
    kind=st.sampled_from(["window", "run", "documents", "everything", "partial", "nothing"]),
    flags=st.tuples(st.booleans(), st.booleans()),
    window=st.integers(-3, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_walk_finds_what_classify_says_of_every_tile(lengths, heads, tile, kind, flags, window, seed):
    rng = np.random.default_rng(seed)
    possible, certain, run = causal_window(window, *flags)
    doc = rng.integers(0, 1 + rng.integers(0, 9), (heads[0], max(lengths)))
    if rng.random() < 0.7:
        doc.sort()
    keys = {
        "window": lambda: sweep(possible, certain),
        "run": lambda: sweep(possible, certain, run=run),
        "documents": lambda: sweep(*documents(flags[0])),
        "everything": lambda: Keys(0, (), const(True), const(True), BODY, ()),
        "partial": lambda: Keys(0, (), possible, const(False), (), BODY, run=run if flags[0] else None),
        "nothing": lambda: sweep(const(False), const(False)),
    }[kind]()
    call = inputs(*lengths, *heads, doc=doc)
    expected, found = dense_tiles(keys, call, tile), visit(keys, call, tile)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
    seen = survey(keys, call, tile)
    assert (seen.count(True), seen.count(False)) == (int(expected[-1].sum()), int((~expected[-1]).sum()))


def test_small_chunks_give_the_same(monkeypatch):
    possible, certain, run = causal_window(17, True, True)
    call = inputs(70, 210, 2, 3)
    for keys in (sweep(possible, certain), sweep(possible, certain, run=run)):
        expected = visit(keys, call, (3, 2))
        monkeypatch.setattr(regions, "BOXES", 5)
        monkeypatch.setattr(regions, "FOUND", 7)
        for a, b in zip(expected, visit(keys, call, (3, 2)), strict=True):
            np.testing.assert_array_equal(a, b)
        monkeypatch.undo()


def test_heads_that_nothing_reads_are_judged_once():
    for by_head, by_batch in itertools.product([False, True], repeat=2):
        possible, certain, _ = causal_window(9, by_head, by_batch)
        seen = survey(sweep(possible, certain), inputs(40, 40, 3, 4), (4, 4))
        assert seen.grid.judged == (3 if by_batch else 1, 4 if by_head else 1)
        assert len(seen.tiles()[0]) == seen.count(True) + seen.count(False)


@pytest.mark.parametrize("with_run", [False, True])
def test_a_million_queries_and_keys(with_run):
    """The window of 1024 at tiles of 64 x 128; expected from the ends of each row of tiles, in Python."""
    n, window, rows, columns = 1 << 20, 1024, 64, 128
    possible, certain, run = causal_window(window)
    zero = np.broadcast_to(np.zeros((), np.float32), (1, 1, n, 1))
    keys = sweep(possible, certain, run=run if with_run else None)
    seen = survey(keys, Inputs(zero, zero, zero), (rows, columns))
    full = total = 0
    for i0 in range(0, n, rows):
        i1 = i0 + rows - 1
        total += i1 // columns - max(i0 - window + 1, 0) // columns + 1
        low, high = -(-max(i1 - window + 1, 0) // columns), (i0 + 1) // columns - 1
        full += max(high - low + 1, 0)
    assert seen.grid.shape == (1, 1, n // rows, n // columns)
    assert (seen.count(True), seen.count(True) + seen.count(False)) == (full, total)
    assert total < 160_000 and len(seen.row) < 4 * n // rows


def test_counts_stay_exact_where_no_array_could_hold_the_tiles():
    zero = np.broadcast_to(np.zeros((), np.float32), (1 << 12, 1 << 8, 1 << 16, 1))
    keys = Keys(0, (), const(True), const(True), BODY, ())
    seen = survey(keys, Inputs(zero, zero, zero), (1, 1))
    assert seen.count(True) == 1 << 52 and seen.count(False) == 0
