"""The CPU skeleton: workers take tiles of rows from a queue; each sweeps the keys and stores its outputs."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping

from attnc.backends.arguments import Layout
from attnc.backends.cpu import keys as key_side
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.context import Context, Types
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.pairs import Pairs
from attnc.backends.printer import Printer
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, topological
from attnc.ir.text import expression
from attnc.schedule.schedule import Schedule
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
    Statement,
    Store,
)

ELEMENTWISE = (
    "abs add and_ cast_float cast_int cos div eq erf exp exp2 exp2_weight floor floordiv fma le log log1p log2 lt maximum "
    "maximum_fast minimum mod mul ne neg not_ or_ pow rsqrt shl shr sigmoid sign sin sqrt sub tanh weight where xor"
)
MEMORY = "fetch_add gather iota load load_as load_first reduce_max reduce_min reduce_sum splat storage store store_as store_first"
GEMM = "all_finite gemm_add gemm_add_masked gemm_scale gemm_scale_masked gemm_zero"
REARRANGE = "fill pack_rows unpack_rows widen"
FIXED = (
    "args worker scratch tiles items item tile b h i0 i1 ni nx j0 j1 nj j jj x o f careful F I B T INF NAN INT_MIN INT_MAX "
    "vec int64 boolean float32 float64 range min kernel"
)


def emit(
    program: Program, block: Layout, schedule: Schedule, types: Types, features: Mapping[str, int], title: str
) -> tuple[str, int]:
    """Source of the kernel module, and the bytes of scratch that each worker needs."""
    top, body = Printer(), Printer()
    ctx = Context(program, block, schedule, types, features, top)
    ctx.names.used |= set(f"{ELEMENTWISE} {MEMORY} {GEMM} {REARRANGE} {FIXED}".split()) | set(keyword.kwlist)
    ctx.out = body
    _kernel(ctx)
    lines = Printer()
    _header(lines, ctx, title)
    lines.line()
    lines.line()
    with lines.block("def kernel(args, worker):"):
        lines.line(
            f"scratch = load(int64, args + {8 * block.words['scratch']}) + worker * load(int64, args + "
            f"{8 * block.words['scratch_stride']})"
        )
        for text in top.lines():
            lines.line(text)
        for text in body.lines():
            lines.line(text)
    source = str(lines)
    return _pruned(source), ctx.scratch


def _header(out: Printer, ctx: Context, title: str) -> None:
    s, t = ctx.schedule, ctx.types
    out.line(f'"""{title}')
    out.line()
    for store in (x for x in ctx.program.steps if isinstance(x, Store)):
        out.line(f"out{store.index} = {expression(store.graph)}")
    out.line(f"compute {t.compute}, q k v {t.roles}, outputs {', '.join(t.outputs)}; {s}")
    extents = ", ".join(f"{name} = {n}" for name, n in sorted(ctx.features.items()))
    out.line(f"features: {extents}")
    out.line('"""')
    out.line()
    out.line("from numba.types import boolean, float32, float64, int64")
    out.line()
    for module, names in (
        ("elementwise", ELEMENTWISE), ("memory", MEMORY), ("microkernel", GEMM), ("rearrange", REARRANGE), ("vector", "vec"),
    ):  # fmt: skip
        for name in names.split():
            out.line(f"from attnc.backends.cpu.{module} import {name}")
    out.line()
    out.line(f"T = {t.compute}")
    out.line(f"F, I, B = vec(T, {s.width}), vec(int64, {s.width}), vec(boolean, {s.width})")
    out.line('INF, NAN = float("inf"), float("nan")')
    out.line("INT_MIN, INT_MAX = -(2**63), 2**63 - 1")
    for name in sorted({t.compute, t.roles, "float64", *t.tables.values(), *t.outputs}):
        out.line(f'AS_{name} = storage("{name}")')


def _pruned(source: str) -> str:
    """Without the imports of names that do not occur."""
    kept = []
    lines = source.split("\n")
    body = "\n".join(x for x in lines if not x.startswith("from "))
    words = set(re.findall(r"\w+", body))
    groups: dict[str, list[str]] = {}
    for x in lines:
        if x.startswith("from attnc"):
            module, name = x.removeprefix("from ").split(" import ")
            if name in words:
                groups.setdefault(module, []).append(name)
                if len(groups[module]) == 1:
                    kept.append(f"@{module}")
        else:
            kept.append(x)
    return "\n".join(_import(x[1:], groups[x[1:]]) if x.startswith("@attnc") else x for x in kept)


def _import(module: str, names: list[str]) -> str:
    text = f"from {module} import {', '.join(names)}"
    if len(text) <= 120:
        return text
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _kernel(ctx: Context) -> None:
    """The queue of work items: the tiles of a head one after the other, the last (under a causal mask heaviest) first."""
    rows, width = ctx.schedule.rows, ctx.schedule.width
    length, heads = ctx.word("q_len"), ctx.word("heads")
    out = ctx.out
    out.line(f"tiles = ({length} + {rows - 1}) // {rows}")
    out.line(f"items = {ctx.word('batch')} * {heads} * tiles")
    with out.block("while True:"):
        out.line("item = fetch_add(args, 1)")
        with out.block("if item >= items:"):
            out.line("break")
        out.line("tile = tiles - 1 - item % tiles")
        out.line(f"b, h = item // tiles // {heads}, item // tiles % {heads}")
        out.line(f"i0 = tile * {rows}")
        out.line(f"ni = min({rows}, {length} - i0)")
        out.line("i1 = i0 + ni - 1")
        out.line(f"nx = (ni + {width - 1}) // {width}")
        ctx.item = Scope(out.place(), lambda x: not x.axes - {"b", "h"} and not _corner(x))
        if _careful(ctx.program):
            with out.block("for careful in range(2):"):
                _steps(ctx)
                out.line("break")
        else:
            _steps(ctx)


def _corner(x: Node) -> bool:
    return any(y.op == "value" and not y.axes for y in topological([x]))


def _careful(program: Program) -> bool:
    return any(isinstance(s, DotAcc) and s.skip_zero for s in program.statements())


def _steps(ctx: Context) -> None:
    for step in ctx.program.steps:
        match step:
            case Load():
                row_side.load(ctx, step)
            case RowMap():
                row_side.row_map(ctx, step)
            case FeatureReduce():
                row_side.reduce(ctx, step)
            case Keys():
                _sweep(ctx, step)
            case Store():
                row_side.store(ctx, step)


def _sweep(ctx: Context, keys: Keys) -> None:
    out = ctx.out
    out.line(f"# sweep {keys.number} over the keys")
    for s in keys.states:
        row_side.state(ctx, s)
    with out.block(f"for j0 in range(0, {ctx.word('kv_len')}, {ctx.schedule.keys}):"):
        out.line(f"nj = min({ctx.schedule.keys}, {ctx.word('kv_len')} - j0)")
        if keys.possible.op != "const" or (keys.full and keys.partial):
            out.line("j1 = j0 + nj - 1")
        classes = Spelling(ctx, [ctx.item, Scope(out.place(), lambda x: True)])
        classes.expect([keys.possible, keys.certain])
        if keys.possible.op != "const":
            with out.block(f"if not_({classes.spell(keys.possible)}):  # empty"):
                out.line("continue")
        if keys.full and keys.partial:
            with out.block(f"if {classes.spell(keys.certain)}:  # full"):
                _body(ctx, keys, keys.full)
            with out.block("else:  # partial"):
                _body(ctx, keys, keys.partial)
        else:
            _body(ctx, keys, keys.full or keys.partial)
    products = {s.accumulator: s for s in (*keys.full, *keys.partial) if isinstance(s, DotAcc) and s.skip_zero}
    if products:
        finite = [
            f"all_finite(F, {ctx.places[s.accumulator]}, {ctx.features[s.feature]}, {ctx.pitch}, nx * {ctx.schedule.width})"
            for s in products.values()
        ]
        with out.block(f"if careful == 0 and not ({' and '.join(finite)}):"):
            out.line("continue  # again, with weights of 0 kept from NaN and infinite values")


def _body(ctx: Context, keys: Keys, statements: tuple[Statement, ...]) -> None:
    """One class of tile: vectors and scores, then the lanes, then the products."""
    ctx.begin_body()
    lanes: list[Statement] = []
    products: list[DotAcc] = []
    for s in statements:
        match s:
            case Load():
                key_side.load(ctx, s)
            case FeatureReduce(axes="j"):
                key_side.reduce(ctx, s)
            case Dot():
                key_side.dot(ctx, s)
            case DotAcc():
                products.append(s)
            case Map() | Reduce() | RowMap() | SetRow() | FeatureReduce():
                lanes.append(s)
    kept = {s.scale for s in products if s.scale is not None}
    Pairs(ctx, lanes, kept, {s.weights for s in products}).emit()
    for s in products:
        key_side.dot_acc(ctx, s)
