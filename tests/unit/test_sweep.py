"""The loop over the tiles of keys in compiled kernels: just the tiles that hand-made classes say, each in its class."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from attnc.backends.arguments import layout
from attnc.backends.cpu.context import Types
from attnc.backends.cpu.emit import emit
from attnc.backends.cpu.kernel import Kernel, build
from attnc.backends.launch import Output, pack
from attnc.compile import lower
from attnc.interp import Inputs, interpret
from attnc.ir.graph import Graph, Node, const, node
from attnc.passes.bound import corner
from attnc.passes.cuts import Cut
from attnc.runtime.cache import Cache
from attnc.schedule.schedule import Schedule
from attnc.tile.program import Keys, Program
from attnc.tile.regions import Classifier

ROWS = KEYS = 16
SCHEDULE = Schedule(rows=ROWS, keys=KEYS, width=8, tile=(6, 2))
LENGTHS = (1, 17, 127, 128, 129, 1024, 5000)
FAR = 2**62
Q, K, V = (node("role", name=name) for name in "qkv")
B, I, J = (node("index", name=name) for name in "bij")
I0, I1, J0, J1 = (corner(name) for name in ("i0", "i1", "j0", "j1"))
TRUE, FALSE = const(True), const(False)


def op(name: str, *operands: Node | int) -> Node:
    return node(name, *(x if isinstance(x, Node) else const(x) for x in operands))


def joined(name: str, *parts: Node) -> Node:
    result = parts[0]
    for x in parts[1:]:
        result = op(name, result, x)
    return result


def scalar(name: str) -> Node:
    return node("scalar", name=name, kind="int")


def gather(name: str, dims: tuple[str, ...], *indices: Node, kind: str = "int") -> Node:
    return node("gather", *indices, name=name, dims=dims, features=(), kind=kind)


def extremes(name: str, dims: tuple[str, ...], axis: int, *ends: tuple[Node, Node], kind: str = "int") -> list[Node]:
    """(least, greatest) of a table between these ends."""
    flat = [x for pair in ends for x in pair]
    return [node("extreme", *flat, name=name, dims=dims, how=how, axis=axis, kind=kind) for how in ("min", "max")]


@dataclass(frozen=True)
class Case:
    """A mask, its classes by hand, and inputs: called with (random numbers, q_len, kv_len) they give the operands."""

    mask: Node
    possible: Node
    certain: Node
    inputs: tuple[Callable[..., dict[str, Any]], ...]
    lengths: tuple[tuple[int, int], ...] = ((1, 1), (70, 129), (33, 300))
    dtypes: dict[str, str] = field(default_factory=dict)
    cut_i: Cut | None = None
    cut_j: Cut | None = None
    run: tuple[Node, Node] | None = None
    batch: int = 1
    hull: tuple[Node, Node] | None = None


def fixed(**operands: Any) -> Callable[..., dict[str, Any]]:
    return lambda *_: operands


def window() -> Case:
    """From i - a to i + c, as a run: before the keys, behind them, backwards, from wherever to wherever."""
    a, c = scalar("a"), scalar("c")
    ends = ((30, 0), (0, 0), (60, -5), (-5, -60), (FAR, FAR), (FAR, -FAR), (-FAR, FAR), (-60, 90), (200, -80), (-3, 3))
    return Case(
        op("and", op("le", op("sub", I, a), J), op("le", J, op("add", I, c))),
        TRUE,
        op("and", op("le", op("sub", I1, a), J0), op("le", J1, op("add", I0, c))),
        tuple(fixed(a=a, c=c) for a, c in ends),
        lengths=((1, 1), (40, 17), (40, 128), (100, 129), (40, 1024)),
        run=(op("sub", I0, a), op("add", I1, c)),
    )


def causal() -> Case:
    a = scalar("a")
    return Case(
        op("le", J, op("sub", I, a)), TRUE, op("le", J1, op("sub", I0, a)),
        tuple(fixed(a=a) for a in (-7, 0, 40, 400, -FAR)), run=(const(0), op("sub", I1, a)),
    )  # fmt: skip


def sink_and_window() -> Case:
    """Coarse to fine."""
    a, c, sink = map(scalar, ("a", "c", "sink"))

    def near(i: tuple[Node, Node], j: tuple[Node, Node]) -> Node:
        between = op("and", op("le", op("sub", i[0], j[1]), a), op("le", op("sub", j[0], i[1]), c))
        return op("or", between, op("lt", j[0], sink))

    ends = ((3, 0, 0), (20, 20, 1), (-40, 50, 33), (-2000, 2100, 0), (-4000, 4800, 200), (-FAR, 0, 0), (-FAR, 0, 160))
    return Case(
        near((I, I), (J, J)), near((I0, I1), (J0, J1)), near((I1, I0), (J1, J0)),
        tuple(fixed(a=a, c=c, sink=sink) for a, c, sink in ends),
        lengths=tuple((50, kv_len) for kv_len in LENGTHS),
    )  # fmt: skip


def digit(x: tuple[Node, Node], radix: Node | int) -> tuple[Node, Node]:
    """The least and greatest remainder of a box."""
    same = joined("eq", *(op("floordiv", end, radix) for end in x))
    top = op("sub", radix, 1) if isinstance(radix, Node) else const(radix - 1)
    return op("where", same, op("mod", x[0], radix), 0), op("where", same, op("mod", x[1], radix), top)


def stripes() -> Case:
    """A constant radix for the keys alone."""
    low, high = digit((J0, J1), 24)
    w = scalar("w")
    return Case(
        op("lt", op("mod", J, 24), w), op("lt", low, w), op("lt", high, w),
        tuple(fixed(w=w) for w in (0, 3, 16, 24)), lengths=((1, 1), (20, 300), (5, 5000)),
        cut_j=Cut(const(0), (const(24),)),
    )  # fmt: skip


def block_diagonal() -> Case:
    """A radix and a shift that are known at run time, the radix even 0 and below."""
    r, s = scalar("r"), scalar("s")
    i, j = [op("floordiv", op("add", x, s), r) for x in (I0, I1)], [op("floordiv", x, r) for x in (J0, J1)]
    i_low, i_high, j_low, j_high = (op(name, *x) for x in (i, j) for name in ("minimum", "maximum"))
    return Case(
        op("eq", op("floordiv", op("add", I, s), r), op("floordiv", J, r)),
        op("and", op("le", i_low, j_high), op("le", j_low, i_high)),
        joined("and", op("eq", i_low, i_high), op("eq", j_low, j_high), op("eq", i_low, j_low)),
        tuple(fixed(r=r, s=s) for r, s in ((10, 0), (16, 5), (50, -37), (1, 3), (0, 3), (-6, 1), (FAR, 0), (FAR, -10))),
        cut_i=Cut(s, (r,)), cut_j=Cut(const(0), (r,)),
    )  # fmt: skip


def tiled() -> Case:
    """Two digits of both indices, inside a run of the keys."""

    def row(ends: tuple[Node, Node]) -> list[Node]:
        return [op("floordiv", x, 4) for x in digit(ends, 24)]

    (i_low, i_high), (j_low, j_high) = row((I0, I1)), row((J0, J1))
    cut = Cut(const(0), (const(4), const(24)))
    return Case(
        joined("eq", *(op("floordiv", op("mod", x, 24), 4) for x in (I, J))),
        op("and", op("le", i_low, j_high), op("le", j_low, i_high)),
        joined("and", op("eq", i_low, i_high), op("eq", j_low, j_high), op("eq", i_low, j_low)),
        (fixed(),), lengths=((1, 1), (70, 129), (20, 1024)), cut_i=cut, cut_j=cut,
    )  # fmt: skip


def documents() -> Case:
    """Ids by batch, or one row for all; stored backwards."""
    dims = ("b", "j")
    i, j = (extremes("doc", dims, 1, (B, B), ends) for ends in ((I0, I1), (J0, J1)))

    def ids(rng: np.random.Generator, rows: int, length: int) -> dict[str, Any]:
        doc = np.sort(rng.integers(0, 3 + length // 60, (rows, length)).astype(np.int16), axis=1)
        return {"doc": np.ascontiguousarray(doc[:, ::-1])[:, ::-1]}

    return Case(
        joined("eq", *(gather("doc", dims, B, x) for x in (I, J))),
        op("and", op("le", i[0], j[1]), op("le", j[0], i[1])),
        joined("and", op("eq", *i), op("eq", *j), op("eq", i[0], j[0])),
        (lambda rng, q, k: ids(rng, 2, max(q, k)), lambda rng, q, k: ids(rng, 1, max(q, k))),
        lengths=((1, 1), (70, 129), (300, 1024), (17, 5000)), dtypes={"doc": "int16"}, batch=2,
    )  # fmt: skip


def not_numbers() -> Case:
    """Numbers per key, some NaN, and a table that is shorter than the keys."""
    x = extremes("x", ("n",), 0, (J0, J1), kind="float")
    low = const(0.25)

    def numbers(rng: np.random.Generator, q: int, k: int) -> dict[str, Any]:
        # runs of equal numbers: some tiles are all NaN, or all small, or all large
        runs = rng.choice([np.nan, 0.0, 1.0, np.inf], -(-k // 40))
        return {"x": np.repeat(runs, 40)[: max(k * 3 // 4, 1)].astype(np.float32)}

    return Case(
        op("lt", low, gather("x", ("n",), J, kind="float")), op("lt", low, x[1]), op("lt", low, x[0]),
        (numbers, numbers), lengths=((1, 1), (20, 129), (5, 1024)), dtypes={"x": "float32"},
    )  # fmt: skip


def blocks() -> Case:
    """Blocks chosen by a table [i // g, j // 4]: of up to 8 rows of the table at once, more are unknown."""
    g = scalar("g")
    places = [[op("floordiv", x, radix) for x in ends] for ends, radix in (((I, I0, I1), g), ((J, J0, J1), const(4)))]
    box = [(x[1], x[2]) for x in places]
    any_, all_ = (extremes("chosen", ("m", "n"), 1, *box, kind="bool")[side] for side in (1, 0))

    def chosen(g: int) -> Callable[..., dict[str, Any]]:
        def draw(rng: np.random.Generator, q: int, k: int) -> dict[str, Any]:
            coarse = rng.integers(0, 2, (q // (4 * g) + 1, k // 32 + 1)).astype(bool)
            return {"chosen": np.repeat(np.repeat(coarse, 4, axis=0), 8, axis=1), "g": g}

        return draw

    return Case(
        gather("chosen", ("m", "n"), *(x[0] for x in places), kind="bool"), any_, all_,
        (chosen(3), chosen(1), chosen(40)), lengths=((1, 1), (50, 129), (70, 1024)), dtypes={"chosen": "bool"},
    )  # fmt: skip


def inner_axis() -> Case:
    """Tables of three axes, searched along the last and the middle one, the others uniform."""
    lasts, middles = ("b", "n", "j"), ("b", "j", "n")
    one, two = const(1), const(2)
    last = extremes("last", lasts, 2, (B, B), (one, one), (J0, J1))
    middle = extremes("middle", middles, 1, (B, B), (I0, I1), (two, two))

    def draw(rng: np.random.Generator, q: int, k: int) -> dict[str, Any]:
        return {
            "last": np.repeat(rng.integers(0, 9, (2, 3, k // 30 + 1), np.uint8), 30, axis=2),
            "middle": np.repeat(rng.integers(0, 9, (2, q // 20 + 1, 4)), 20, axis=1),
        }

    return Case(
        op("le", gather("last", lasts, B, one, J), gather("middle", middles, B, I, two)),
        op("le", last[0], middle[1]), op("le", last[1], middle[0]),
        (draw, draw), lengths=((1, 1), (70, 129)), dtypes={"last": "uint8", "middle": "int64"}, batch=2,
    )  # fmt: skip


CASES = {f.__name__: f for f in (
    window, causal, sink_and_window, stripes, block_diagonal, tiled, documents, not_numbers, blocks, inner_axis,
)}  # fmt: skip


def sums(factor: float) -> Program:
    """The sum of all values, times a factor."""
    weight = op("add", op("mul", node("dot", Q, K, axis="d"), const(0.0)), const(factor))
    return lower(Graph((node("attend", weight, V),)))


def attention(*mask: Node) -> Graph:
    softmax = node("softmax", node("dot", Q, K, axis="d"), *mask, masked=bool(mask), sink=False)
    return Graph((node("attend", softmax, V),))


def only(program: Program) -> Keys:
    (keys,) = program.sweeps
    return keys


def classified(case: Case, full: Program, partial: Program) -> Program:
    """A program whose full tiles run the body of one program, and its partial tiles that of another."""
    a, b = only(full), only(partial)
    assert a.states == b.states
    keys = Keys(
        0, b.states, case.possible, case.certain, a.full or a.partial, b.partial or b.full, False, case.cut_i,
        case.cut_j, case.run, case.hull,
    )  # fmt: skip
    return replace(partial, steps=tuple(keys if isinstance(x, Keys) else x for x in partial.steps))


def emitted(program: Program, dtypes: dict[str, str], schedule: Schedule = SCHEDULE) -> tuple[str, int]:
    types = Types("float64", "float64", dtypes, ("float64",))
    return emit(program, layout(program), schedule, types, {"d": 1, "e": 1}, "a test")


def compiled(program: Program, dtypes: dict[str, str], schedule: Schedule = SCHEDULE) -> Kernel:
    source, scratch = emitted(program, dtypes, schedule)
    return build(source, layout(program), scratch, Cache())


def called(kernel: Kernel, inputs: Inputs) -> np.ndarray:
    """The output (B,1,Lq)."""
    out = np.full((*inputs.q.shape[:3], 1), np.nan)
    place = Output(out.ctypes.data, (out.strides[0], out.strides[1], out.strides[2]))
    block, keep = pack(kernel.layout, inputs, [place], "float64", SCHEDULE.width)
    kernel.run(block, 2)
    del keep
    return out[..., 0]


def needed(keys: Keys, inputs: Inputs, b: int, i0: int, i1: int) -> range:
    """The keys between the ends that these queries have."""
    kv_len, ends = inputs.k.shape[2], keys.run or keys.hull
    if ends is None:
        return range(kv_len)
    judge = Classifier(replace(keys, run=ends), inputs)
    first, last = (int(x[0]) for x in judge.rows(*(np.array([x]) for x in (b, 0, i0, i1))))
    return range(max(first, 0), min(last + 1, kv_len))


def classes(keys: Keys, inputs: Inputs, rows: int = ROWS) -> np.ndarray:
    """(B, tiles of rows, keys): 0 where the key's tile is empty, 1 full, 3 partial. Tiles begin at the first key of the ends."""
    (batch, _, q_len, _) = inputs.q.shape
    judge = Classifier(keys, inputs)
    factor = np.zeros((batch, -(-q_len // rows), inputs.k.shape[2]))
    for b, row in np.ndindex(factor.shape[:2]):
        i0, i1 = row * rows, min((row + 1) * rows, q_len) - 1
        place = [np.array([x]) for x in (b, 0, i0, i1)]
        span = needed(keys, inputs, b, i0, i1)
        start, stop = span.start, span.stop
        for j0 in range(start, stop, KEYS):
            j1 = min(j0 + KEYS, stop) - 1
            some, every = judge(*place, np.array([j0]), np.array([j1]))
            factor[b, row, j0 : j1 + 1] = (1.0 if every[0] else 3.0) if some[0] else 0.0
    return factor


@pytest.mark.parametrize("name", CASES)
def test_every_tile_is_visited_in_its_class(name: str) -> None:
    """Each key is worth a random number, so that the sum over the visited tiles tells which they are."""
    case, rng = CASES[name](), np.random.default_rng(0)
    program = classified(case, sums(1.0), sums(3.0))
    kernel = compiled(program, case.dtypes)
    seen: set[float] = set()
    for q_len, kv_len in case.lengths:
        worth = rng.integers(1, 2**36, kv_len).astype(float)
        q, k, v = (np.zeros((case.batch, 1, n, 1)) for n in (q_len, kv_len, kv_len))
        v[:, 0, :, 0] = worth
        for draw in case.inputs:
            inputs = Inputs(q, k, v, draw(rng, q_len, kv_len))
            factor = classes(only(program), inputs)
            wanted = np.repeat(factor @ worth, ROWS, axis=1)[:, None, :q_len]
            np.testing.assert_array_equal(called(kernel, inputs), wanted, f"{q_len} x {kv_len}: {inputs.operands}")
            seen |= set(factor.flat)
    assert seen == {0.0, 1.0, 3.0}


@pytest.mark.parametrize("name", CASES)
def test_classes_do_not_change_the_result(name: str) -> None:
    case, rng = CASES[name](), np.random.default_rng(1)
    graph = attention(case.mask)
    kernel = compiled(classified(case, lower(attention()), lower(graph)), case.dtypes)
    for q_len, kv_len in case.lengths[:3]:
        q, k, v = (rng.standard_normal((case.batch, 1, n, 1)) for n in (q_len, kv_len, kv_len))
        for draw in case.inputs:
            inputs = Inputs(q, k, v, draw(rng, q_len, kv_len))
            (wanted,) = interpret(graph, inputs)
            np.testing.assert_allclose(called(kernel, inputs), wanted[..., 0], rtol=1e-9, atol=1e-12)


def test_constant_classes() -> None:
    """Everything possible: a plain loop; nothing possible: none; no keys: no tile."""
    always = replace(window(), run=None, certain=op("eq", J0, 32))
    never = replace(always, possible=FALSE)
    worth = np.arange(1.0, 6.0)
    q, v = np.zeros((1, 1, 5, 1)), np.zeros((1, 1, 70, 1))
    v[0, 0, ::KEYS, 0] = worth
    for case, wanted in ((always, 3 * worth.sum() - 2 * worth[2]), (never, 0)):
        kernel = compiled(classified(case, sums(1.0), sums(3.0)), {})
        inputs = Inputs(q, np.zeros_like(v), v, {"a": 0, "c": 0})
        np.testing.assert_array_equal(called(kernel, inputs), np.full((1, 1, 5), wanted))
    kernel = compiled(classified(sink_and_window(), sums(1.0), sums(3.0)), {})
    none = Inputs(q, v[:, :, :0], v[:, :, :0], {"a": 9, "c": 9, "sink": 9})
    np.testing.assert_array_equal(called(kernel, none), np.zeros((1, 1, 5)))


def test_the_source_is_as_short_as_the_question() -> None:
    def source(name: str) -> str:
        return emitted(classified(CASES[name](), sums(1.0), sums(3.0)), CASES[name]().dtypes)[0]

    assert "for j0 in range(0, stop, 16):" in source("causal")
    assert "span" not in source("window") and "while ja" not in source("window")
    spans = source("sink_and_window")
    assert spans.count("# not empty") == 1 and "box_last" not in spans and "worker < 0" not in spans
    assert "box_last(ja, j1, 0, (24,), 0)" in source("stripes") and "while ia" not in source("stripes")
    assert "box_last(ia, i1, s, (r,), 0)" in source("block_diagonal")
    # what the rows' corners decide is asked once per work item, before the loop over the keys
    head = source("documents").split("while j0 < kv_len:")[0]
    assert head.count("least_int(") == head.count("greatest_int(") == 1
