"""The skeleton `wgmma`: what a block does, from its barriers to the last output.

Threads of warps -4..-1 are the producer's, those of warps 0 and later the consumers'. Work items come from a queue; an item's
queries, and its tiles of keys, go through shared memory. While consumers work on an item, the producer is ahead by as many tiles as
there are stages, also across items.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnc.backends.cuda import careful, output, prepare
from attnc.backends.cuda.body import feature_reduce, row_map
from attnc.backends.cuda.context import Context, Tile
from attnc.backends.cuda.hopper import queue
from attnc.backends.cuda.hopper.consumer import TURNS, Sweep
from attnc.backends.cuda.hopper.output import copied
from attnc.backends.cuda.hopper.output import store as copy_out
from attnc.backends.cuda.hopper.producer import Producer
from attnc.backends.cuda.hopper.rings import FIRST, INFO, Barriers, Ring
from attnc.backends.cuda.hopper.shape import computed, roles
from attnc.backends.printer import Printer
from attnc.schedule.wgmma import GROUP, Wgmma
from attnc.tile.program import FeatureReduce, Keys, Load, RowMap, Store, reads

NOTHING = "tiles"  # the ring of sweeps that copy no vectors of keys
PATTERN = 1024  # bytes after which the swizzle of rows of 128 bytes repeats: tiles begin at multiples


class Block:
    """One kernel under construction."""

    def __init__(self, ctx: Context, limit: int) -> None:
        """limit: bytes of shared memory of a block."""
        assert isinstance(ctx.schedule, Wgmma)
        self.ctx, self.schedule, self.limit = ctx, ctx.schedule, limit
        sweeps = ctx.program.sweeps
        self.guarded = careful.guarded(sweeps)
        self.uneven = any(x.run is not None or x.hull is not None or x.possible.op != "const" for x in sweeps)
        self.bars = Barriers(ctx)
        self.full, self.empty = self.bars.new(1, 1), self.bars.new(1, ctx.schedule.warps)
        self.slot = ctx.names.fresh("slot")
        self.rings: dict[int, list[Ring]] = {}

    def emit(self) -> Printer:
        """The body of the kernel, behind what is printed to `ctx.top`."""
        ctx, schedule = self.ctx, self.schedule
        ctx.unit = PATTERN
        sweeps = ctx.program.sweeps
        ctx.top.line("start = shared()")
        ctx.top.line("lane, warp = thread() & 31, (thread() >> 5) - 4")
        self._tiles()
        consumers, producer = Printer(), Printer()
        ctx.out = consumers
        self._consumers()
        ctx.out = producer
        loaded = next(
            (ctx.tiles[s.name] for s in ctx.program.steps if isinstance(s, Load) and s.graph.op == "role"), None
        )
        found = [(keys, self.rings[keys.number]) for keys in sweeps]
        Producer(ctx, loaded, self.full, self.empty, self.slot, found).emit(self.uneven)
        infos = INFO * (1 + schedule.stages * len({ring.name for rings in self.rings.values() for ring in rings}))
        ctx.top.line(f"{self.slot} = {ctx.room(self.slot, infos)}")
        self.bars.begin()
        body = Printer()
        with body.block("if warp < 0:"):
            body.insert(producer)
        with body.block("else:"):
            body.insert(consumers)
        return body

    def _tiles(self) -> None:
        """Room for the queries, and rings for the keys: one for each name, whose sweeps have it in turn."""
        ctx, schedule = self.ctx, self.schedule
        for s in ctx.program.steps:
            if isinstance(s, Load):
                ctx.tiles[s.name] = ctx.allocate(s.name, schedule.rows, s.feature)
        rings: dict[str, Ring] = {}
        for s in computed(ctx.program):
            ctx.allocate(s.name, schedule.keys, s.feature)
        for keys in ctx.program.sweeps:
            found: Mapping[str, Load | None] = roles(keys) or {NOTHING: None}
            for name, load in found.items():
                if name not in rings:
                    rings[name] = self._ring(name, load, len(rings))
            self.rings[keys.number] = [rings[name] for name in found]

    def _ring(self, name: str, s: Load | None, number: int) -> Ring:
        ctx, schedule = self.ctx, self.schedule
        stages = schedule.stages
        room = None if s is None else ctx.allocate(name, schedule.keys, s.feature, stages)
        full, empty = self.bars.new(stages, 1), self.bars.new(stages, schedule.warps)
        infos = f"{self.slot} + {INFO * (1 + stages * number)}"
        turn, role = ctx.names.fresh(f"turn_{name}"), "" if s is None else s.graph["name"]
        return Ring(name, role, room, full, empty, infos, turn, stages)

    def _consumers(self) -> None:
        ctx, out, schedule = self.ctx, self.ctx.out, self.schedule
        out.line(f"registers_more({schedule.registers[1]})")
        out.line("quad = lane & 3")
        out.line("first_row, first_key = 16 * warp + (lane >> 2), 2 * quad")
        out.line("served = 0")
        for turn in dict.fromkeys(ring.turn for rings in self.rings.values() for ring in rings):
            out.line(f"{turn} = resize(0, 32)")
        if schedule.pingpong:
            with out.block(f"if warp >> 2 == {schedule.consumers - 1}:  # the first consumer begins"):
                out.line(f"named_arrive({TURNS}, {2 * GROUP})")
        with out.block("while True:"):
            out.line(f"mbar_wait({self.full}, served & 1)")
            out.line(f"item = broadcast(load_shared_r({self.slot}))")
            out.line(f"tile = broadcast(load_shared_r({self.slot} + 4))")
            with out.block("if item < 0:"):
                out.line("break")
            queue.item(ctx)
            self._steps()
            out.line("served += 1")
        out.line("tma_wait_read(0)")

    def _steps(self) -> None:
        """The steps of the program; the queries are released as soon as nothing reads them."""
        ctx, steps = self.ctx, self.ctx.program.steps
        last = max(n for n, s in enumerate(steps) if isinstance(s, Keys))
        tiles = {s.name for s in steps if isinstance(s, Load)}
        room = self._room(last)
        held = any(reads(s) & tiles for s in steps[last + 1 :] if not isinstance(s, Keys))
        held = held or (room is not None and any(room.base == ctx.tiles[name].base for name in tiles))

        def release() -> None:
            ctx.out.line("warp_sync()")
            ctx.out.line(f"mbar_arrive_if({FIRST}, {self.empty})")

        def keep() -> None:
            pass

        for n, step in enumerate(steps):
            match step:
                case Load() if step.graph.op == "role":
                    pass  # the producer has it copied
                case Load():
                    prepare.of_rows(ctx, step)
                case RowMap():
                    row_map(ctx, step)
                case FeatureReduce() if output.reads_accumulators(ctx, step.graph):
                    output.reduce_features(ctx, step)
                case FeatureReduce():
                    feature_reduce(ctx, step)
                case Keys():
                    free = release if n == last and not held else keep
                    Sweep(ctx, step, self.rings[step.number], self.schedule.overlap, free).emit()
                    if n == last and self.guarded:
                        self._note()
                case Store() if room is not None and copied(ctx, step):
                    copy_out(ctx, step, room)
                case Store():
                    output.store(ctx, step)
        if held:
            ctx.out.line("tma_wait_read(0)")
            ctx.out.line(ctx.meet("i"))
            release()

    def _room(self, last: int) -> Tile | None:
        """Where outputs are put together: room of its own if there is some left, else that of queries that lie the same way."""
        ctx = self.ctx
        found = [s for s in ctx.program.steps[last + 1 :] if isinstance(s, Store) and copied(ctx, s)]
        features = {s.feature for s in found if s.feature is not None}
        if len(features) != 1:
            return None
        (feature,) = features
        shape = ctx.vectors(ctx.schedule.rows, feature)
        if ctx.shared + shape.bytes + 2 * PATTERN <= self.limit:
            return ctx.allocate("out", ctx.schedule.rows, feature)
        for s in ctx.program.steps:
            if isinstance(s, Load) and s.graph.op == "role":
                tile = ctx.tiles[s.name]
                if tile.shape.width == shape.width and tile.shape.bytes >= shape.bytes:
                    return Tile(tile.base, shape, ctx.features[feature])
        return None

    def _note(self) -> None:
        """Set the flag of rows with a sum that is not finite: they are computed again, with care, by another kernel."""
        ctx, out = self.ctx, self.ctx.out
        careful.not_finite(ctx, self.guarded)
        out.line(f"store_r_if(and_(vote_any(more), {FIRST}), {queue.flag(ctx)}, 1)")
