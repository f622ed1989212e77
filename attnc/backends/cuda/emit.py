"""The skeleton `mma`: a block of threads takes a tile of queries; while it works on one tile of keys, the next one is copied.

Fragments are those of mma.m16n8k16: of 16 x 8 numbers a thread of a warp holds rows lane / 4 and lane / 4 + 8 (hf 0 and 1), columns
2 (lane % 4) and the next (e 0 and 1). rt counts a warp's tiles of 16 queries, ct tiles of 8 keys, ft tiles of 8 features.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import replace

from attnc.backends.block import Layout
from attnc.backends.cuda import careful, items, parts, prepare, ptx, shared
from attnc.backends.cuda.body import Body, begin_states, feature_reduce, row_map
from attnc.backends.cuda.context import Context, Tile, Types
from attnc.backends.cuda.executable import FLAG, QUEUE
from attnc.backends.cuda.hopper import skeleton
from attnc.backends.cuda.output import reads_accumulators, reduce_features, store
from attnc.backends.cuda.search import Search
from attnc.backends.cuda.source import SUMMARY_THREADS, Source
from attnc.backends.extremes import begin_of, entries_of, others
from attnc.backends.printer import Printer
from attnc.ir.text import expression
from attnc.schedule.mma import Mma
from attnc.schedule.short import PLAIN, Form
from attnc.schedule.wgmma import Wgmma
from attnc.tile.merge import split
from attnc.tile.program import FeatureReduce, Keys, Load, Merge, Program, RowMap, Save, Store
from attnc.tile.share import shares

FIXED = (
    "row rest lane warp quad first_row first_key start item tile tiles b h i0 i1 ni j0 j1 now stage full last rt hf ct ft e kk n n0 n1 n2 n3 n4 n5 ia ib ja jb f i j c r p x even odd b0 b1 b2 b3 "
    "part parts length row0 kv records scratch address live first careful key turn value cursor approved span stop widest certain possible more end number items served waiting section first_head wide INF NAN INT_MIN INT_MAX range min max kernel"
)


def emit(
    program: Program,
    block: Layout,
    schedule: Mma | Wgmma,
    types: Types,
    features: Mapping[str, int],
    aligned: bool,
    title: str,
    form: Form = PLAIN,
    limit: int = 0,
) -> Source:
    """The source of a kernel, and of those that are launched with it. limit: bytes of shared memory of a block, for `Wgmma`."""
    assert not form.share or shares(program), "internal error: what the rows of a tile share depends on the head"

    def module(program: Program, schedule: Mma | Wgmma, share: bool, note: str, repairs: bool = False) -> Source:
        ctx = Context(program, block, schedule, types, features, Printer(), aligned, share, repairs)
        return _module(ctx, f"{title}\n\nThis kernel: {note}" if note else title, limit)

    if isinstance(schedule, Wgmma):
        source = module(program, schedule, False, "")
        if not careful.guarded(program.sweeps):
            return source
        small = Mma(4, 1, 64 if max(features[f] for f in ("d", "e")) <= 128 else 32)
        return replace(
            source,
            repair=module(carefully(program), small, False, "again, with care, where sums are not finite.", True),
        )
    if not form.split:
        return module(program, schedule, form.share, "")
    programs = split(program)
    assert programs is not None, "internal error: a program without a merge rule"
    first, last = programs
    source = module(first, schedule, form.share, "the states of a part of the keys.")
    merge = module(last, parts.MERGE, False, "the parts merged.")
    return replace(source, merge=merge, record=parts.record(first.sweeps[0].states, features).bytes)


def carefully(program: Program) -> Program:
    """The same with all tiles in one body, that with masks."""
    steps = [replace(s, full=(), partial=s.partial or s.full) if isinstance(s, Keys) else s for s in program.steps]
    return replace(program, steps=tuple(steps))


def _module(ctx: Context, title: str, limit: int) -> Source:
    """The source of one kernel."""
    body = Printer()
    works = (
        isinstance(ctx.schedule, Wgmma) or ctx.repairs or any(isinstance(s, Save | Merge) for s in ctx.program.steps)
    )
    without = ("counter", "scratch_stride") if works else ("counter", "scratch", "scratch_stride")
    words = tuple(name for name in ctx.layout.words if name not in without)
    ctx.names.used |= {
        *FIXED.split(),
        *words,
        *(x.removesuffix("_p") + ptx.MAP for x in words),  # the names of maps among them
        *keyword.kwlist,
        *(name for part in ptx.names().values() for name in part),
    }
    ctx.out = body
    if isinstance(ctx.schedule, Wgmma):
        body = skeleton.Block(ctx, limit).emit()
    else:
        _kernel(ctx)
    parameters = (*words, *ctx.maps)
    code = Printer()
    with code.block(f"def kernel({', '.join(parameters)}):"):
        for text in (*ctx.top.lines(), *body.lines()):
            code.line(text)
    text = "\n\n\n".join((_header(ctx, title, str(code)), str(code)))
    summary = _summary(ctx, words) if ctx.searches else None
    return Source(text, parameters, ctx.shared, summary, maps=tuple(ctx.maps.values()))


def _summary(ctx: Context, parameters: tuple[str, ...]) -> str:
    """A module whose kernel fills the summaries of the searched tables: a block takes a row."""
    code = Printer()
    with code.block(f"def kernel({', '.join(parameters)}):"):
        code.line("row = block()")
        for search in ctx.searches.values():
            axes = others(search)
            counts = [ctx.word(f"t_{search.name}_n{n}") for n in axes]
            rows = " * ".join(counts) or "1"
            with code.block(f"if row >= 0 and row < {rows}:"):
                code.line("rest = row")
                for n, count in reversed(list(zip(axes, counts, strict=True))):
                    code.line(f"n{n}, rest = mod(rest, {count}), floordiv(rest, {count})")
                code.line(f"{search.table} = {entries_of(ctx, search)}")
                place, number = begin_of(ctx, search)
                arguments = f"{ctx.reader(search)}, {search.table}, {place}, {number}, {SUMMARY_THREADS // 32}"
                code.line(f"summarise_{search.number}({arguments})")
            code.line(f"row -= {rows}")
    out = Printer()
    out.line(f'"""The least and greatest entries of blocks of the tables of {ctx.program.name}."""')
    out.line()
    _imports(out, str(code))
    return "\n\n\n".join((str(out).rstrip("\n"), str(code)))


def _header(ctx: Context, title: str, code: str) -> str:
    out, t = Printer(), ctx.types
    out.line(f'"""{title}')
    out.line()
    for s in (x for x in ctx.program.steps if isinstance(x, Store)):
        out.line(f"out{s.index} = {expression(s.graph)}")
    out.line(f"q k v {t.roles}, outputs {', '.join(t.outputs)}, computed in float32; {ctx.schedule}")
    out.line(f"features: {', '.join(f'{name} = {n}' for name, n in sorted(ctx.features.items()))}")
    out.line('"""')
    out.line()
    _imports(out, code)
    out.line()
    out.line('INF, NAN = float("inf"), float("nan")')
    out.line("INT_MIN, INT_MAX = -(2**63), 2**63 - 1")
    return str(out).rstrip("\n")


def _imports(out: Printer, code: str) -> None:
    """What the code uses of the package."""
    used = set(re.findall(r"\w+", code))
    for module, names in ptx.names().items():
        out.imports(f"attnc.backends.cuda.{module}", sorted(used & set(names)))


def _kernel(ctx: Context) -> None:
    """What a block takes, then the steps of the program."""
    top = ctx.top
    top.line("start = shared()")
    top.line("lane, warp = thread() & 31, thread() >> 5")
    top.line("quad = lane & 3")
    top.line(f"first_row, first_key = {16 * ctx.schedule.tall} * warp + (lane >> 2), 2 * quad")
    items.begin(ctx)
    if ctx.repairs:
        with ctx.out.block(f"if load_i32(scratch + {QUEUE} + {FLAG} * (item * tiles + tile)) != 0:"):
            _steps(ctx)
    else:
        _steps(ctx)


def _steps(ctx: Context) -> None:
    for step in ctx.program.steps:
        match step:
            case Load() if step.graph.op == "role":
                _load(ctx, step)
            case Load():
                prepare.of_rows(ctx, step)
            case RowMap():
                row_map(ctx, step)
            case FeatureReduce() if reads_accumulators(ctx, step.graph):
                reduce_features(ctx, step)
            case FeatureReduce():
                feature_reduce(ctx, step)
            case Keys():
                Sweep(ctx, step).emit()
            case Save():
                parts.save(ctx, step)
            case Merge():
                parts.merge(ctx, step)
            case Store():
                store(ctx, step)


def _load(ctx: Context, s: Load) -> None:
    """Feature vectors of the queries into shared memory."""
    tile = ctx.tiles[s.name] = ctx.allocate(s.name, ctx.schedule.rows, s.feature)
    out = ctx.out
    out.line(f"# {s.name}: queries i0..i1")
    source = ctx.names.fresh(f"{s.name}_rows")
    base, row = items.queries(ctx)
    out.line(f"{source} = {base}")
    shared.copy(ctx, tile, tile.base, source, row, "ni")
    out.line("copy_commit()")
    out.line("copy_wait(0)")  # what follows may read them before the sweep waits
    out.line("barrier()")


class Sweep:
    """One sweep over the tiles of keys."""

    def __init__(self, ctx: Context, keys: Keys) -> None:
        self.ctx, self.keys = ctx, keys
        self.loads: dict[str, Load] = {}
        self.rooms: dict[str, Tile] = {}
        self.sources: dict[str, str] = {}
        for s in (*keys.full, *keys.partial):
            if isinstance(s, Load) and s.graph.op == "role":
                self.loads.setdefault(s.name, s)

    def emit(self) -> None:
        """States, then the loop: wait for a tile, look for the next and have it copied, work on the one that came."""
        ctx, keys = self.ctx, self.keys
        ctx.out.line(f"# sweep {keys.number} over the keys")
        for name, s in self.loads.items():
            self._room(name, s)
        with careful.runs(ctx, keys):
            self._run()

    def _run(self) -> None:
        ctx, out = self.ctx, self.ctx.out
        begin_states(ctx, self.keys.states)
        search = Search(ctx, self.keys)
        search.begin()
        out.line("now, full, stage = -1, False, 0")
        with out.block("while True:"):
            out.line("copy_wait(0)")
            out.line("barrier()")
            search.next()
            with out.block("if more:"):
                for name, s in self.loads.items():
                    self._copy(name, s)
                out.line("copy_commit()")
            with out.block("if now >= 0:"):
                for name in self.loads:
                    room = self.rooms[name]
                    out.line(f"{ctx.tiles[name].base} = {room.base} + stage * {room.shape.bytes}")
                Body(ctx, self.keys, prepare.of_keys).emit()
            with out.block("if not more:"):
                out.line("break")
            out.line("stage = 1 - stage")
            fast = " and not careful" if ctx.careful else ""
            out.line(f"now, full = cursor, {search.full()}{fast}")
            out.line(f"cursor += {ctx.schedule.keys}")

    def _room(self, name: str, s: Load) -> None:
        """Two tiles in shared memory, and where the keys of this head begin."""
        ctx = self.ctx
        room = ctx.allocate(name, ctx.schedule.keys, s.feature, 2)
        base = ctx.names.fresh(name)
        self.rooms[name] = room
        ctx.tiles[name] = Tile(base, room.shape, room.features)
        role = s.graph["name"]
        self.sources[name] = ctx.names.fresh(f"{name}_head")
        head = f"{items.kv_head(ctx)} * {role}_h"
        ctx.out.line(f"{self.sources[name]} = {role}_p + b * {role}_b + {head}")

    def _copy(self, name: str, s: Load) -> None:
        """Issue the copies of the next tile."""
        ctx, role, room = self.ctx, s.graph["name"], self.rooms[name]
        target = f"{room.base} + (1 - stage) * {room.shape.bytes}"
        source = f"{self.sources[name]} + cursor * {role}_l"
        shared.copy(ctx, room, target, source, f"{{}} * {role}_l", f"minimum(kv_len - cursor, {ctx.schedule.keys})")
