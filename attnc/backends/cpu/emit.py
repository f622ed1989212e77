"""The CPU skeleton: workers take tiles of rows from a queue; each sweeps the keys and stores its outputs."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from attnc.backends.block import Layout
from attnc.backends.cpu import extremes, items, parts, past, past_pieces
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.bf16 import paired
from attnc.backends.cpu.context import Context, Types
from attnc.backends.cpu.room import Room
from attnc.backends.cpu.sweep import sweep
from attnc.backends.printer import Printer
from attnc.ir.text import expression
from attnc.schedule.cpu_form import PLAIN, CpuForm
from attnc.schedule.schedule import Schedule
from attnc.tile.merge import split
from attnc.tile.program import DotAcc, FeatureReduce, Keys, Load, Program, RowMap, Store

ELEMENTWISE = (
    "abs add and_ cast_float cast_int cos div eq erf exp exp2 floor floordiv floordiv_short fma le log log1p log2 lt maximum "
    "maximum_fast minimum mod mod_short mul ne neg not_ or_ pow resize rsqrt saturate shl shr sigmoid sign sin sqrt sub tanh weight where xor"
)
MEMORY = "any ask_to_read ask_to_write fetch_add gather iota load load_as load_first reduce_max reduce_min reduce_sum splat storage store store_as store_first"
FEW = "few_add few_add_masked few_dot few_scale few_scale_masked"
GEMM = "all_finite gemm_add gemm_add_masked gemm_pairs gemm_scale gemm_scale_masked gemm_zero"
REARRANGE = "fill pack_rows unpack_rows widen"
BOXES = "box_last"
SUMMARY = (
    "greatest_float greatest_float_rows greatest_int greatest_int_rows least_float least_float_rows least_int least_int_rows "
    "summarise_float summarise_int"
)
IMPORTS = {
    "boxes": BOXES, "elementwise": ELEMENTWISE, "few": FEW, "memory": MEMORY, "microkernel": GEMM, "rearrange": REARRANGE,
    "summary": SUMMARY, "vector": "vec",
}  # fmt: skip
FIXED = (
    "args worker scratch tiles items item following last q_ahead out_ahead moving reach own risen far tile b h i0 i1 ni nx j0 j1 nj j jj jc x o f careful F G I J B T INF NAN INT_MIN INT_MAX "
    "start stop end span widest possible certain ia ib ja jb x0 x1 lo hi n0 n1 n2 n3 n4 n5 vec int32 "
    "int64 boolean float32 float64 range min max kernel"
)


def emit(
    program: Program,
    block: Layout,
    schedule: Schedule,
    types: Types,
    features: Mapping[str, int],
    title: str,
    form: CpuForm = PLAIN,
) -> tuple[str, Room]:
    """Source of the kernel module, and the memory that a call of it needs."""
    top, body = Printer(), Printer()
    pairs = frozenset() if form.share or form.few or form.linear else paired(program, schedule, types, features)
    ctx = Context(program, block, schedule, types, features, top, form, paired=pairs)
    ctx.names.used |= set(" ".join((FIXED, *IMPORTS.values())).split()) | set(keyword.kwlist)
    if form != PLAIN:
        ctx.names.used |= set(parts.NAMES.split()) | set(past.NAMES.split())
    ctx.out = body
    room = _kernel(ctx)
    summaries = extremes.summarise(ctx)
    code = Printer()
    with code.block("def kernel(args, worker):"):
        code.line(
            f"scratch = load(int64, args + {8 * block.words['scratch']}) + worker * load(int64, args + "
            f"{8 * block.words['scratch_stride']})"
        )
        for text in (*top.lines(), *summaries.lines(), *body.lines()):
            code.line(text)
    source = "\n\n\n".join((_header(ctx, title, str(code)), str(code)))
    return source, replace(room, worker=ctx.scratch)


def _header(ctx: Context, title: str, code: str) -> str:
    """What stands before the kernel: its title, what it imports, and the types that it works with."""
    s, t, out = ctx.schedule, ctx.types, Printer()
    out.line(f'"""{title}')
    out.line()
    for store in (x for x in ctx.program.steps if isinstance(x, Store)):
        out.line(f"out{store.index} = {expression(store.graph)}")
    out.line(f"compute {t.compute}, q k v {t.roles}, outputs {', '.join(t.outputs)}; {s}")
    extents = ", ".join(f"{name} = {n}" for name, n in sorted(ctx.features.items()))
    out.line(f"features: {extents}")
    out.line('"""')
    out.line()
    out.line("from numba.types import boolean, float32, float64, int32, int64")
    out.line()
    needed = {"storage", "vec", *re.findall(r"\w+", code)}
    for module, names in IMPORTS.items():
        out.imports(f"attnc.backends.cpu.{module}", [name for name in names.split() if name in needed])
    out.line()
    out.line(f"T = {t.compute}")
    out.line(f"F, I, J, B = (vec(kind, {s.width}) for kind in (T, int64, int32, boolean))")
    if ctx.form.few:
        out.line(f"G = vec(T, {s.wide})  # features")
    out.line('INF, NAN = float("inf"), float("nan")')
    out.line("INT_MIN, INT_MAX = -(2**63), 2**63 - 1")
    for name in sorted({x.removeprefix("AS_") for x in needed if x.startswith("AS_")}):
        out.line(f'AS_{name} = storage("{name}")')
    return str(out).rstrip("\n")


def _kernel(ctx: Context) -> Room:
    """Work items from the queue; the room for parts of keys."""
    halves = split(ctx.program) if ctx.form.split else None
    if halves is None:
        with past.items(ctx) if ctx.form.linear else items.items(ctx):
            _run(ctx, ctx.program)
        return past_pieces.room(ctx) if ctx.form.linear else Room(0)
    parts.begin(ctx)
    with items.items(ctx):
        parts.emit(ctx, partial(_run, ctx), *halves)
    return parts.room(ctx, halves[0].sweeps[0].states)


def _run(ctx: Context, program: Program) -> None:
    """The steps of a program, again with care where they ask for it."""
    if not _careful(program) and not ctx.form.linear:
        _steps(ctx, program)
        return
    with ctx.out.block("for careful in range(2):"):
        _steps(ctx, program)
        ctx.out.line("break")


def _careful(program: Program) -> bool:
    return any(isinstance(s, DotAcc) and s.skip_zero for s in program.statements())


def _steps(ctx: Context, program: Program) -> None:
    for step in program.steps:
        match step:
            case Load():
                row_side.load(ctx, step)
            case RowMap():
                row_side.row_map(ctx, step)
            case FeatureReduce():
                row_side.reduce(ctx, step)
            case Keys():
                sweep(ctx, step)
            case Store():
                row_side.store(ctx, step)
