"""Emission of what concerns query rows outside the loop over keys: loads, row expressions, feature sums, stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attnc.backends.cpu import few_rows, items
from attnc.backends.cpu.context import LANES, VECTORS, Context, Span
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.leaves import number
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, topological
from attnc.passes.expand import feature_axes
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule.cpu_form import PLAIN
from attnc.tile.lower import COMBINE, row
from attnc.tile.program import FeatureReduce, Load, RowMap, State, Store, reads

NEUTRAL = {"sum": "0.0", "max": "-INF", "min": "INF"}


def no_features(x: Node) -> bool:
    """Whether x can be computed outside a loop over features."""
    return not feature_axes(x)


def anything(x: Node) -> bool:
    """The innermost scope."""
    return True


def load(ctx: Context, s: Load) -> None:
    """Feature vectors of the rows into scratch, transposed."""
    target = ctx.row_features(s.name, s.feature)
    n = ctx.features[s.feature]
    if s.graph.op == "role":
        stored = ctx.types.roles
        if s.name in ctx.paired:  # pairs move as if they were numbers of 32 bits
            stored, n = "float32", n // 2
        items.load(ctx, target, stored, n)
    elif s.graph.op == "project":
        vector, matrix = s.graph.operands
        address, row = matrix_place(ctx, matrix)
        source = ctx.places[vector["name"]]
        length = str(ctx.features[s.graph["contract"]])
        ctx.out.line(ctx.gemm("gemm_zero", str(n), address, str(ctx.size), row, source, target, length))
    else:
        _store_features(ctx, s.graph, target, n)


def matrix_place(ctx: Context, x: Node) -> tuple[str, str]:
    """Address of a matrix operand, and bytes from row to row."""
    name = x["name"]
    spelling = Spelling(ctx, [ctx.item])
    place = spelling.place(x, [spelling.spell(operand) for operand in x.operands])
    result: str = x["features"][-1]
    return f"{ctx.word(f't_{name}_p')} + ({place}) * {ctx.size}", str(ctx.padded(result))


@contextmanager
def lanes(ctx: Context, vectors: Span = VECTORS) -> Iterator[None]:
    """A loop over the lane blocks of the rows."""
    with ctx.out.block(f"for x in {vectors}:"):
        ctx.out.line(f"o = x * {ctx.schedule.width * ctx.size}")
        yield


@contextmanager
def features(ctx: Context, graph: Node, count: int, *outer: Scope) -> Iterator[Spelling]:
    """A loop over features inside one over lane blocks, with a speller for its body."""
    with ctx.out.block(f"for f in range({count}):"):
        yield _spelling(ctx, graph, *outer)


def _spelling(ctx: Context, graph: Node, *outer: Scope) -> Spelling:
    """A speller of one graph in the block that is being printed."""
    spelling = Spelling(ctx, [ctx.item, *outer, Scope(ctx.out.place(), anything)])
    spelling.expect([graph])
    return spelling


def _store_features(ctx: Context, graph: Node, target: str, count: int) -> None:
    """Features of the rows into scratch."""
    with lanes(ctx):
        rows = Scope(ctx.out.place(), no_features)
        with features(ctx, graph, count, rows) as spelling:
            ctx.out.line(f"store({target} + f * {ctx.pitch} + o, {spelling.vector(graph)})")


def row_map(ctx: Context, s: RowMap) -> None:
    """A row expression into scratch."""
    target = ctx.row(s.name)
    with lanes(ctx):
        spelling = _spelling(ctx, s.graph)
        kind = spelling.kind(row(s.name, s.graph.dtype))
        ctx.out.line(f"store({target} + {ctx.offset(kind)}, {spelling.vector(s.graph, kind)})")


def reduce(ctx: Context, s: FeatureReduce) -> None:
    """A reduction over the features of each row."""
    target = ctx.row(s.name)
    with lanes(ctx):
        rows = Scope(ctx.out.place(), no_features)
        total = ctx.names.fresh(s.name)
        ctx.out.line(f"{total} = splat({LANES[s.graph.dtype]}, {neutral(s.how, s.graph.dtype)})")
        with features(ctx, s.graph, ctx.features[s.feature], rows) as spelling:
            ctx.out.line(f"{total} = {COMBINE[s.how]}({total}, {spelling.vector(s.graph)})")
        ctx.out.line(f"store({target} + {ctx.offset(s.graph.dtype)}, {total})")


def neutral(how: str, kind: str) -> str:
    """The value that a reduction starts with."""
    if kind == "int":
        return {"sum": "0", "max": "INT_MIN", "min": "INT_MAX"}[how]
    return NEUTRAL[how]


def state(ctx: Context, s: State) -> None:
    """The initial value of a state."""
    if s.feature is not None and ctx.form.few:
        few_rows.state(ctx, s.name, s.feature)
        return
    if s.feature is not None:
        place = ctx.row_features(s.name, s.feature)
        ctx.out.line(f"fill(F, {place}, {ctx.features[s.feature]}, {ctx.pitch}, nx, {ctx.schedule.width * ctx.size})")
        return
    place = ctx.row(s.name)
    with lanes(ctx):
        ctx.out.line(f"store({place} + {ctx.offset(s.kind)}, splat({LANES[s.kind]}, {number(s.initial)}))")


def finite(ctx: Context, name: str, feature: str | None) -> str:
    """The test whether numbers, or features, of the rows are all finite."""
    m = 1 if feature is None else ctx.features[feature]
    return f"all_finite(F, {ctx.places[name]}, {m}, {ctx.pitch}, nx * {ctx.schedule.width})"


def store(ctx: Context, s: Store) -> None:
    """An output."""
    stored, word = ctx.types.outputs[s.index], f"out{s.index}_"
    base = ctx.names.fresh(f"out{s.index}")
    step = ctx.word(word + "l")
    if not ctx.form.share:
        ctx.out.line(f"{base} = {items.begin_of(ctx, word)[0]}")
    if s.feature is None:
        _store_numbers(ctx, s, base, stored)
        return
    n = ctx.features[s.feature]
    out = _result(ctx, s, s.feature)
    _store_features(ctx, s.graph, out, n)
    if not ctx.form.share:
        ctx.out.line(f"unpack_rows(T, {base}, {step}, AS_{stored}, {out}, {ctx.pitch}, ni, {n})")
        return
    with items.runs(ctx):
        start, step = items.begin_of(ctx, word)
        ctx.out.line(f"{base} = {start}")
        ctx.out.line(f"unpack_rows(T, {base}, {step}, AS_{stored}, {out} + run * {ctx.size}, {ctx.pitch}, count, {n})")


def _result(ctx: Context, s: Store, feature: str) -> str:
    """Scratch for an output's rows: those of an accumulator with its features that nothing reads any more, else their own."""
    steps = ctx.program.steps
    if ctx.form == PLAIN and all(isinstance(x, Store) for x in steps[steps.index(s) :]):
        busy = {name for x in steps[steps.index(s) + 1 :] if isinstance(x, Store) for name in reads(x)}
        for x in topological([s.graph]):
            if x.op == "value" and feature_axes(x) == {feature} and x["name"] in ctx.places and x["name"] not in busy:
                return ctx.places[x["name"]]
    return ctx.row_features(f"out{s.index}_rows", feature)


def _store_numbers(ctx: Context, s: Store, base: str, stored: str) -> None:
    """An output of one number per row."""
    width, word = ctx.schedule.width, f"out{s.index}_"
    if not ctx.form.share:
        with lanes(ctx):
            text = _spelling(ctx, s.graph).vector(s.graph)
            place = f"{base} + x * {width * ITEMSIZE[stored]}"
            ctx.out.line(f"store_first({place}, {text}, minimum(ni - x * {width}, {width}), AS_{stored})")
        return
    row = ctx.row(f"out{s.index}_row")
    with lanes(ctx):
        ctx.out.line(f"store({row} + o, {_spelling(ctx, s.graph).vector(s.graph)})")
    with items.runs(ctx):
        start, step = items.begin_of(ctx, word)
        ctx.out.line(f"{base} = {start}")
        with ctx.out.block("for r in range(count):"):
            ctx.out.line(f"store_as({base} + r * {step}, load(T, {row} + (run + r) * {ctx.size}), AS_{stored})")
