"""Emission of elementwise work on pairs: loops over the keys of a tile, as few as the running statistics allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from attnc.backends.cpu import ahead
from attnc.backends.cpu.context import LANES, Context, Span
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.rows import anything, features, lanes, neutral, no_features
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, substitute, topological
from attnc.passes.stabilise import value
from attnc.tile.lower import COMBINE, PAIR, row
from attnc.tile.program import FeatureReduce, Map, Reduce, RowMap, SetRow, Statement, reads

Loop = Sequence[FeatureReduce | Map | Reduce]
CHUNK = 128  # keys of a sum that are added one by one


def no_keys(x: Node) -> bool:
    """Whether x can be computed outside a loop over keys."""
    return "j" not in x.axes and no_features(x)


def again(statements: Sequence[Statement], stored: set[str]) -> list[Statement]:
    """The statements without pair tiles that are cheaper to compute again than to store: others times numbers of the row."""
    found: list[Statement] = []
    cheap: dict[Node, Node] = {}
    for s in statements:
        if not isinstance(s, SetRow | RowMap | Map | Reduce | FeatureReduce):
            found.append(s)
            continue
        (graph,) = substitute([s.graph], cheap)
        if isinstance(s, Map) and s.name not in stored and graph.op == "mul":
            tiles = [x for x in graph.operands if "j" in x.axes]
            if len(tiles) == 1 and tiles[0].op == "value" and tiles[0].axes == frozenset(PAIR):
                cheap[value(s.name, PAIR, graph.dtype)] = graph
                continue
        found.append(replace(s, graph=graph))
    return found


@dataclass(slots=True)
class Pairs:
    """The lane phase of one body of a sweep."""

    ctx: Context
    statements: Sequence[Statement]
    kept: set[str]  # rows that are read after this phase
    stored: set[str]  # pair tiles that are read after this phase
    columns: Mapping[Node, str]  # texts of what has been computed for each key
    vectors: Span
    keys: Span
    rows: Scope = field(init=False)
    held: dict[Node, Node] = field(default_factory=dict)  # pair tiles of the present loop that are in registers only
    loops: int = 0  # printed so far

    def emit(self) -> None:
        """Print `for x in range(nx)`: one block of lanes after the other through all loops."""
        ctx = self.ctx
        self.statements = again(self.statements, self.stored)
        if not self.statements:
            return
        with lanes(ctx, self.vectors):
            self.run()

    def run(self) -> None:
        """The statements for one block of lanes."""
        self.rows = Scope(self.ctx.out.place(), no_keys)
        loop: list[FeatureReduce | Map | Reduce] = []
        for n, s in enumerate(self.statements):
            if isinstance(s, RowMap | SetRow):
                if loop and reads(s) & {x.name for x in loop}:
                    self.loop(loop, self.statements[n:])
                    loop = []
                self.row(s)
            else:
                assert isinstance(s, FeatureReduce | Map | Reduce)
                if loop and reads(s) & {x.name for x in loop if isinstance(x, Reduce)}:
                    self.loop(loop, self.statements[n:])
                    loop = []
                loop.append(s)
        if loop:
            self.loop(loop, ())

    def row(self, s: RowMap | SetRow) -> None:
        """A row expression, and where it is read later its memory."""
        ctx = self.ctx
        spelling = Spelling(ctx, [ctx.item, self.rows])
        spelling.expect([s.graph])
        name = s.name if isinstance(s, RowMap) else s.state
        target = row(name, s.graph.dtype)
        text = spelling.vector(s.graph, spelling.kind(target))
        if isinstance(s, SetRow):
            stale = [x for x in self.rows.names if target in topological([x])]
            for x in stale:
                del self.rows.names[x]
        spelling.name(target, text, self.rows, name)
        if isinstance(s, SetRow) or name in self.kept:
            place = ctx.row(name)
            self.rows.out.line(f"store({place} + {ctx.offset(spelling.kind(target))}, {self.rows.names[target]})")

    def loop(self, loop: Loop, after: Sequence[Statement], alone: bool = False) -> None:
        """One loop over the keys; `after` it come these. alone: it is the only one of the tile."""
        ctx = self.ctx
        later = self.stored | {name for s in after for name in reads(s)}
        sums = {s.name: ctx.names.fresh(s.name) for s in loop if isinstance(s, Reduce)}
        before = self.rows.out = ctx.out.place()
        lines = ahead.lines_of(ctx, self.loops, alone)
        self.loops += 1
        self.held = {}
        with self._chunks(loop, sums) as (keys, parts), ctx.out.block(f"for jj in {keys}:"):
            ahead.request(ctx, lines)
            inner = Scope(ctx.out, anything)
            if any(x.op == "index" and x["name"] == "j" for s in loop for x in topological([s.graph])):
                ctx.out.line("j = j0 + jj")
            spelling = Spelling(ctx, [ctx.item, self.rows, inner])
            spelling.columns = self.columns
            spelling.expect([s.graph for s in loop if not isinstance(s, FeatureReduce)])
            for n, s in enumerate(loop):
                if isinstance(s, FeatureReduce):
                    self._features(s, spelling, inner, s.name in later)
                elif isinstance(s, Map):
                    self._map(s, spelling, inner, s.name in later, loop[n + 1 :], after)
                else:
                    total = parts.get(s.name, sums[s.name])
                    combine = "maximum_fast" if s.drop_nan else COMBINE[s.how]
                    ctx.out.line(f"{total} = {combine}({spelling.vector(s.graph)}, {total})")
        for s in loop:
            if isinstance(s, Reduce):
                before.line(f"{sums[s.name]} = splat({LANES[s.graph.dtype]}, {neutral(s.how, s.graph.dtype)})")
                self.rows.names[row(s.name, s.graph.dtype)] = sums[s.name]
        self.rows.out = ctx.out.place()

    @contextmanager
    def _chunks(self, loop: Loop, sums: Mapping[str, str]) -> Iterator[tuple[Span, Mapping[str, str]]]:
        """The keys of the loop, and what its sums are called; in long tiles a loop around it adds sums of a chunk of keys."""
        ctx = self.ctx
        own = {s.name: s.graph.dtype for s in loop if isinstance(s, Reduce) and s.how == "sum"}
        if ctx.schedule.keys <= CHUNK or not own:
            yield self.keys, {}
            return
        first, stop = self.keys.first, self.keys.stop
        with ctx.out.block(
            f"for jc in range({first}, {stop}, {CHUNK}):  # rounding errors grow with the length of a sum"
        ):
            parts = {name: ctx.names.fresh(name) for name in own}
            for name, part in parts.items():
                ctx.out.line(f"{part} = splat({LANES[own[name]]}, 0)")
            yield Span("jc", f"min(jc + {CHUNK}, {stop})"), parts
            for name, part in parts.items():
                ctx.out.line(f"{sums[name]} = add({sums[name]}, {part})")

    def _map(
        self, s: Map, spelling: Spelling, inner: Scope, stored: bool, loop: Loop, after: Sequence[Statement]
    ) -> None:
        ctx = self.ctx
        text = spelling.vector(s.graph)
        name = spelling.name(value(s.name, PAIR), text, inner, s.name)
        if stored:
            free = self._free(s, loop, after)
            place = ctx.alias(s.name, free) if free is not None else ctx.pair(s.name)
            ctx.out.line(f"store({place} + jj * {ctx.pitch} + o, {name})")
        else:
            (self.held[value(s.name, PAIR)],) = substitute([s.graph], self.held)

    def _free(self, s: Map, loop: Loop, after: Sequence[Statement]) -> str | None:
        """A pair tile whose last reader is s: its memory can be written in place."""
        busy = self.stored | {name for x in (*loop, *after) for name in reads(x)}
        busy_places = {self.ctx.places[name] for name in busy if name in self.ctx.places}
        (written_out,) = substitute([s.graph], self.held)
        for x in topological([written_out]):
            if x.op == "value" and x.axes == frozenset(PAIR) and x["name"] in self.ctx.places:
                name: str = x["name"]
                if name not in busy and self.ctx.places[name] not in busy_places:
                    return name
        return None

    def _features(self, s: FeatureReduce, spelling: Spelling, inner: Scope, stored: bool) -> None:
        """A reduction over features for each pair."""
        ctx = self.ctx
        total = ctx.names.fresh(s.name)
        ctx.out.line(f"{total} = splat({LANES[s.graph.dtype]}, {neutral(s.how, s.graph.dtype)})")
        pairs = Scope(ctx.out.place(), no_features)  # what this loop has of the pair, another sum over features perhaps
        pairs.names = dict(inner.names)
        with features(ctx, s.graph, ctx.features[s.feature], self.rows, pairs) as deepest:
            ctx.out.line(f"{total} = {COMBINE[s.how]}({total}, {deepest.vector(s.graph)})")
        inner.names[value(s.name, PAIR, s.graph.dtype)] = total
        if stored and s.graph.dtype == "int":
            place = ctx.integers(s.name)
            ctx.out.line(f"store({place} + jj * {ctx.schedule.rows * 8} + {ctx.offset('int')}, {total})")
        elif stored:
            ctx.out.line(f"store({ctx.pair(s.name)} + jj * {ctx.pitch} + o, {total})")
