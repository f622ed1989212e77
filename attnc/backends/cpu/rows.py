"""Emission of what concerns query rows outside the loop over keys: loads, row expressions, feature sums, stores."""

from __future__ import annotations

from attnc.backends.cpu.context import LANES, SIZE, Context
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node
from attnc.passes.expand import feature_axes
from attnc.passes.stabilise import ROW_AXES, value
from attnc.tile.program import FeatureReduce, Load, RowMap, State, Store

COMBINE = {"sum": "add", "max": "maximum", "min": "minimum"}
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
        step, stored = ctx.word("q_l"), ctx.types.roles
        source = ctx.names.fresh("q_rows")
        start = f"{ctx.word('q_p')} + b * {ctx.word('q_b')} + h * {ctx.word('q_h')} + i0 * {step}"
        ctx.out.line(f"{source} = {start}")
        lanes = f"nx * {ctx.schedule.width}"
        ctx.out.line(f"pack_rows(T, {target}, {ctx.pitch}, {source}, {step}, AS_{stored}, ni, {lanes}, {n})")
    elif s.graph.op == "project":
        vector, matrix = s.graph.operands
        address, row = matrix_place(ctx, matrix)
        source = ctx.places[vector["name"]]
        length = str(ctx.features[s.graph["contract"]])
        ctx.out.line(ctx.gemm("gemm_zero", str(n), address, str(ctx.size), row, source, target, length))
    else:
        with features(ctx, s.graph, n) as spelling:
            ctx.out.line(f"store({target} + f * {ctx.pitch} + o, {spelling.vector(s.graph)})")


def matrix_place(ctx: Context, x: Node) -> tuple[str, str]:
    """Address of a matrix operand, and bytes from row to row."""
    name = x["name"]
    spelling = Spelling(ctx, [ctx.item])
    place = spelling.place(x, [spelling.spell(operand) for operand in x.operands])
    result: str = x["features"][-1]
    return f"{ctx.word(f't_{name}_p')} + ({place}) * {ctx.size}", str(ctx.padded(result))


class features:
    """A loop over lane blocks around a loop over features, with a speller for its body."""

    def __init__(self, ctx: Context, graph: Node, count: int) -> None:
        self.ctx, self.graph, self.count = ctx, graph, count

    def __enter__(self) -> Spelling:
        ctx = self.ctx
        self.outer = ctx.out.block("for x in range(nx):")
        self.outer.__enter__()
        ctx.out.line(f"o = x * {ctx.schedule.width * ctx.size}")
        rows = Scope(ctx.out.place(), no_features)
        self.inner = ctx.out.block(f"for f in range({self.count}):")
        self.inner.__enter__()
        spelling = Spelling(ctx, [ctx.item, rows, Scope(ctx.out.place(), anything)])
        spelling.expect([self.graph])
        return spelling

    def __exit__(self, *error: object) -> None:
        self.inner.__exit__(None, None, None)
        self.outer.__exit__(None, None, None)


def row_map(ctx: Context, s: RowMap) -> None:
    """A row expression into scratch."""
    target = ctx.row(s.name)
    with ctx.out.block("for x in range(nx):"):
        ctx.out.line(f"o = x * {ctx.schedule.width * ctx.size}")
        spelling = Spelling(ctx, [ctx.item, Scope(ctx.out.place(), anything)])
        spelling.expect([s.graph])
        ctx.out.line(f"store({target} + {ctx.offset(s.graph.dtype)}, {spelling.vector(s.graph)})")


def reduce(ctx: Context, s: FeatureReduce) -> None:
    """A reduction over the features of each row."""
    target = ctx.row(s.name)
    with ctx.out.block("for x in range(nx):"):
        ctx.out.line(f"o = x * {ctx.schedule.width * ctx.size}")
        rows = Scope(ctx.out.place(), no_features)
        total = ctx.names.fresh(s.name)
        ctx.out.line(f"{total} = splat({LANES[s.graph.dtype]}, {neutral(s.how, s.graph.dtype)})")
        with ctx.out.block(f"for f in range({ctx.features[s.feature]}):"):
            spelling = Spelling(ctx, [ctx.item, rows, Scope(ctx.out.place(), anything)])
            spelling.expect([s.graph])
            ctx.out.line(f"{total} = {COMBINE[s.how]}({total}, {spelling.vector(s.graph)})")
        ctx.out.line(f"store({target} + {ctx.offset(s.graph.dtype)}, {total})")


def neutral(how: str, kind: str) -> str:
    """The value that a reduction starts with."""
    if kind == "int":
        return {"sum": "0", "max": "INT_MIN", "min": "INT_MAX"}[how]
    return NEUTRAL[how]


def state(ctx: Context, s: State) -> None:
    """The initial value of a state."""
    if s.feature is not None:
        place = ctx.row_features(s.name, s.feature)
        ctx.out.line(f"fill(F, {place}, {ctx.features[s.feature]}, {ctx.pitch}, nx, {ctx.schedule.width * ctx.size})")
        return
    place = ctx.row(s.name)
    initial = {float("-inf"): "-INF", float("inf"): "INF", -(2**63): "INT_MIN", 2**63 - 1: "INT_MAX"}.get(
        s.initial, repr(s.initial)
    )
    with ctx.out.block("for x in range(nx):"):
        ctx.out.line(f"o = x * {ctx.schedule.width * ctx.size}")
        ctx.out.line(f"store({place} + {ctx.offset(s.kind)}, splat({LANES[s.kind]}, {initial}))")


def store(ctx: Context, s: Store) -> None:
    """An output."""
    stored = ctx.types.outputs[s.index]
    word = f"out{s.index}_"
    base = ctx.names.fresh(f"out{s.index}")
    step = ctx.word(word + "l")
    start = f"{ctx.word(word + 'p')} + b * {ctx.word(word + 'b')} + h * {ctx.word(word + 'h')} + i0 * {step}"
    ctx.out.line(f"{base} = {start}")
    if s.feature is None:
        with ctx.out.block("for x in range(nx):"):
            ctx.out.line(f"o = x * {ctx.schedule.width * ctx.size}")
            spelling = Spelling(ctx, [ctx.item, Scope(ctx.out.place(), anything)])
            spelling.expect([s.graph])
            width = ctx.schedule.width
            lanes = f"minimum(ni - x * {width}, {width})"
            text = spelling.vector(s.graph)
            ctx.out.line(f"store_first({base} + x * {width * SIZE[stored]}, {text}, {lanes}, AS_{stored})")
        return
    n = ctx.features[s.feature]
    out = ctx.row_features(f"out{s.index}_rows", s.feature)
    with features(ctx, s.graph, n) as spelling:
        ctx.out.line(f"store({out} + f * {ctx.pitch} + o, {spelling.vector(s.graph)})")
    ctx.out.line(f"unpack_rows(T, {base}, {step}, AS_{stored}, {out}, {ctx.pitch}, ni, {n})")


def leaf(name: str, kind: str = "float") -> Node:
    """The value leaf of a row."""
    return value(name, ROW_AXES, kind)
