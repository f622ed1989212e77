"""The skeleton `mma`: a block of threads takes a tile of queries; while it works on one tile of keys, the next one is copied.

Fragments are those of mma.m16n8k16: of 16 x 8 numbers a thread of a warp holds rows lane / 4 and lane / 4 + 8 (hf 0 and 1), columns
2 (lane % 4) and the next (e 0 and 1). rt counts a warp's tiles of 16 queries, ct tiles of 8 keys, ft tiles of 8 features.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass

from attnc.backends.arguments import Layout
from attnc.backends.cuda import ptx, shared
from attnc.backends.cuda.body import Body, feature_reduce, row_map
from attnc.backends.cuda.context import Context, Tile, Types
from attnc.backends.cuda.output import store
from attnc.backends.cuda.search import Search
from attnc.backends.extremes import begin_of, entries_of, others
from attnc.backends.leaves import number
from attnc.backends.printer import Printer
from attnc.backends.spelling import Scope
from attnc.ir.text import expression
from attnc.schedule.mma import Mma
from attnc.tile.program import FeatureReduce, Keys, Load, Program, RowMap, Store

FIXED = (
    "row rest lane warp quad first_row first_key start item tile tiles b h i0 i1 ni j0 j1 now stage full last rt hf ct ft e kk n n0 n1 n2 n3 n4 n5 ia ib ja jb f i j c r p x even odd b0 b1 b2 b3 "
    "address live key turn value cursor approved span stop widest certain possible more end INF NAN INT_MIN INT_MAX range min kernel"
)
SUMMARY_THREADS = 256


@dataclass(frozen=True, slots=True)
class Source:
    """An emitted module; `parameters`: the words of the argument block that `kernel` takes; bytes of shared memory of a block.

    summary: a second module where tables are searched: its kernel, of the same parameters, is launched before, with a block of
    SUMMARY_THREADS for each row of each table.
    """

    text: str
    parameters: tuple[str, ...]
    shared: int
    summary: str | None = None


def emit(
    program: Program, block: Layout, schedule: Mma, types: Types, features: Mapping[str, int], aligned: bool, title: str
) -> Source:
    """The source of a kernel."""
    top, body = Printer(), Printer()
    ctx = Context(program, block, schedule, types, features, top, aligned)
    parameters = tuple(name for name in block.words if name not in ("counter", "scratch", "scratch_stride"))
    ctx.names.used |= {
        *FIXED.split(),
        *parameters,
        *keyword.kwlist,
        *(name for part in ptx.names().values() for name in part),
    }
    ctx.out = body
    _kernel(ctx)
    code = Printer()
    with code.block(f"def kernel({', '.join(parameters)}):"):
        for text in (*top.lines(), *body.lines()):
            code.line(text)
    text = "\n\n\n".join((_header(ctx, title, str(code)), str(code)))
    return Source(text, parameters, ctx.shared, _summary(ctx, parameters) if ctx.searches else None)


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
    """A block's queries, the last (under a causal mask heaviest) tile of a head first; then the steps of the program."""
    out, rows = ctx.out, ctx.schedule.rows
    top = ctx.top
    top.line("start = shared()")
    top.line("lane, warp = thread() & 31, thread() >> 5")
    top.line("quad = lane & 3")
    top.line(f"first_row, first_key = {16 * ctx.schedule.tall} * warp + (lane >> 2), 2 * quad")
    out.line(f"tiles = floordiv(q_len + {rows - 1}, {rows})")
    out.line("tile, item = tiles - 1 - mod(block(), tiles), floordiv(block(), tiles)")
    out.line("b, h = floordiv(item, heads), mod(item, heads)")
    out.line(f"i0 = tile * {rows}")
    out.line(f"ni = minimum({rows}, q_len - i0)")
    out.line("i1 = i0 + ni - 1")
    ctx.item = Scope(out.place(), lambda x: x.axes <= {"b", "h"} and ctx.corners(x) <= {"i0", "i1"})
    for step in ctx.program.steps:
        match step:
            case Load():
                _load(ctx, step)
            case RowMap():
                row_map(ctx, step)
            case FeatureReduce():
                feature_reduce(ctx, step)
            case Keys():
                Sweep(ctx, step).emit()
            case Store():
                store(ctx, step)


def _load(ctx: Context, s: Load) -> None:
    """Feature vectors of the queries into shared memory."""
    tile = ctx.tiles[s.name] = ctx.allocate(s.name, ctx.schedule.rows, s.feature)
    out = ctx.out
    out.line(f"# {s.name}: queries i0..i1")
    source = ctx.names.fresh(f"{s.name}_rows")
    out.line(f"{source} = q_p + b * q_b + h * q_h + i0 * q_l")
    shared.copy(ctx, tile, tile.base, source, "q_l", "ni")
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
            if isinstance(s, Load):
                self.loads.setdefault(s.name, s)

    def emit(self) -> None:
        """States, then the loop: wait for a tile, look for the next and have it copied, work on the one that came."""
        ctx, out, keys = self.ctx, self.ctx.out, self.keys
        out.line(f"# sweep {keys.number} over the keys")
        self._states()
        for name, s in self.loads.items():
            self._room(name, s)
        search = Search(ctx, keys)
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
                Body(ctx, keys).emit()
            with out.block("if not more:"):
                out.line("break")
            out.line("stage = 1 - stage")
            out.line(f"now, full = cursor, {search.full()}")
            out.line(f"cursor += {ctx.schedule.keys}")

    def _states(self) -> None:
        """Initial values."""
        ctx = self.ctx
        for s in self.keys.states:
            initial = number(s.initial)
            if s.feature is None:
                array = ctx.row(s.name, s.kind)
                with ctx.rows():
                    ctx.out.line(f"{array}[rt, hf] = {initial}")
            else:
                array = ctx.accumulator(s.name, s.feature)
                count = ctx.vectors(1, s.feature).length // 8
                with ctx.rows(), ctx.out.block(f"for ft in unrolled({count}):"), ctx.out.block("for e in unrolled(2):"):
                    ctx.out.line(f"{array}[rt, ft, 2 * hf + e] = {initial}")

    def _room(self, name: str, s: Load) -> None:
        """Two tiles in shared memory, and where the keys of this head begin."""
        ctx = self.ctx
        room = ctx.allocate(name, ctx.schedule.keys, s.feature, 2)
        base = ctx.names.fresh(name)
        self.rooms[name] = room
        ctx.tiles[name] = Tile(base, room.shape, room.features)
        role = s.graph["name"]
        self.sources[name] = ctx.names.fresh(f"{name}_head")
        head = f"floordiv(h, group) * {role}_h"
        ctx.out.line(f"{self.sources[name]} = {role}_p + b * {role}_b + {head}")

    def _copy(self, name: str, s: Load) -> None:
        """Issue the copies of the next tile."""
        ctx, role, room = self.ctx, s.graph["name"], self.rooms[name]
        target = f"{room.base} + (1 - stage) * {room.shape.bytes}"
        source = f"{self.sources[name]} + cursor * {role}_l"
        shared.copy(ctx, room, target, source, f"{role}_l", f"minimum(kv_len - cursor, {ctx.schedule.keys})")
