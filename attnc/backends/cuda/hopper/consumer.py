"""Emission of the consumers: warpgroups of 64 queries each, which take the same tiles at about the same time.

Two forms of a sweep. In order: a tile is waited for, all is computed, its stages are released. Overlapped: the scores of the next
tile are started before the product of weights and values of this one, so that the tensor cores work during the softmax:

    scores 0
    each tile n: wait for scores n; softmax n; wait for the next tile and for product n - 1; rescale; start scores n + 1, product n
    product of the last

The wait for a product stands behind the wait for the next tile on purpose: the assembler moves it up, over the softmax if it can, but not
out of the block of code that begins where a barrier's state is asked for again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from attnc.backends.cuda import prepare
from attnc.backends.cuda.body import Body, begin_states
from attnc.backends.cuda.context import Context
from attnc.backends.cuda.hopper import products
from attnc.backends.cuda.hopper.rings import Ring
from attnc.ir.graph import topological
from attnc.schedule.wgmma import GROUP, Wgmma
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Map, Reduce, SetRow, Statement, graphs, reads

LARGE = {"sin", "cos", "pow"}  # ops of so much code that what stands twice in the source should have none of them
TURNS = 8  # the first named barrier by which consumers take turns; those below are where they meet


def split(keys: Keys) -> tuple[list[Dot], list[DotAcc]]:
    """Scores and accumulations of the sweep's tiles."""
    body = keys.full or keys.partial
    return [s for s in body if isinstance(s, Dot)], [s for s in body if isinstance(s, DotAcc)]


def needed(body: Sequence[Statement]) -> list[Statement]:
    """What must be computed before the scores can be: vectors of keys, and what these read."""
    names = {s.keys for s in body if isinstance(s, Dot)}
    found: list[Statement] = []
    for s in reversed(body):
        if not isinstance(s, Dot | DotAcc | SetRow) and s.name in names:
            names |= reads(s)
            if not isinstance(s, Load) or s.graph.op != "role":
                found.insert(0, s)
    return found


def overlaps(keys: Keys) -> bool:
    """Whether the scores of a tile can be started before the one before is done."""
    dots, accumulations = split(keys)
    bodies = [body for body in (keys.full, keys.partial) if body]
    if not dots or not accumulations or any(needed(body) != needed(bodies[0]) for body in bodies):
        return False
    if any([s for s in body if isinstance(s, DotAcc)] != accumulations for body in bodies):
        return False  # without a mask the scores themselves are the weights, with one others
    early = needed(bodies[0])
    computed = [s for body in bodies for s in body if isinstance(s, Load) and s.graph.op != "role"]
    if any(s not in early for s in computed) or any(isinstance(s, Reduce | Map) for s in early):
        return False
    if LARGE & {x.op for s in early for x in topological(graphs(s))}:
        return False
    values = {s.values for s in accumulations}
    others = {x for body in bodies for s in body if not isinstance(s, DotAcc) for x in reads(s)}
    first = [s.name for s in bodies[0] if isinstance(s, Load) and s.graph.op == "role" and s.name not in values]
    return bool(first) and not values & ({s.keys for s in dots} | others)


class Turn(Body):
    """The statements of a tile, where products are matrix instructions of four warps that are waited for at once."""

    def dot(self, s: Dot) -> None:
        products.scores(self.ctx, [s])
        self.ctx.out.line("wgmma_wait(0)")
        products.hold(self.ctx, [s])

    def dot_acc(self, s: DotAcc, body: Sequence[Statement]) -> None:
        products.prepare(self.ctx, s)
        products.accumulate(self.ctx, [s])
        self.ctx.out.line("wgmma_wait(0)")
        products.hold(self.ctx, [s])

    def early(self) -> None:
        """Print what scores need."""
        self.full = needed(self.full or self.edge)
        self.edge = self.full
        self.emit()

    def between(self) -> None:
        """Print all but that, and the products."""
        self.full, self.edge = _between(self.full), _between(self.edge)
        self.emit()


def _between(body: Sequence[Statement]) -> list[Statement]:
    early = needed(body)
    return [s for s in body if not isinstance(s, Load | Dot | DotAcc) and s not in early]


def _of_keys(ctx: Context, s: Load) -> None:
    """Vectors of the keys of a tile, where all consumers have read those of the tile before."""
    ctx.out.line(ctx.meet("j"))
    prepare.of_keys(ctx, s)


class Sweep:
    """One sweep of the consumers. last: prints that the queries are not needed any more."""

    def __init__(self, ctx: Context, keys: Keys, rings: list[Ring], overlap: bool, last: Callable[[], None]) -> None:
        self.ctx, self.keys, self.rings, self.last = ctx, keys, rings, last
        self.overlap = overlap
        self.dots, self.accumulations = split(keys)

    def emit(self) -> None:
        """Print states and the loop over the tiles."""
        self.ctx.out.line(f"# sweep {self.keys.number} over the keys")
        for ring in self.rings:
            if ring.room is not None:
                self.ctx.tiles[ring.name] = replace(ring.room, base=self.ctx.names.fresh(ring.name))
        begin_states(self.ctx, self.keys.states)
        if self.overlap:
            self._overlapped()
        else:
            self._in_order()

    def _come(self) -> None:
        """Wait for the first ring, and learn which tile has come."""
        out, first = self.ctx.out, self.rings[0]
        out.line(first.wait("full"))
        out.line(f"now = broadcast(load_shared_r({first.info}))")
        if self.keys.full:
            out.line(f"full = ne(broadcast(load_shared_r({first.info} + 4)), 0)")

    def _release(self, rings: Iterable[Ring]) -> None:
        for ring in rings:
            for text in ring.release():
                self.ctx.out.line(text)

    def _places(self, rings: Iterable[Ring]) -> None:
        for ring in rings:
            if ring.room is not None:
                self.ctx.out.line(f"{self.ctx.tiles[ring.name].base} = {ring.place}")

    def _in_order(self) -> None:
        ctx, out = self.ctx, self.ctx.out
        with out.block("while True:"):
            self._come()
            with out.block("if now < 0:"):
                self._release(self.rings[:1])
                out.line("break")
            for ring in self.rings[1:]:
                out.line(ring.wait("full"))
            self._places(self.rings)
            Turn(ctx, self.keys, _of_keys).emit()
            out.line("warp_sync()  # all threads have read what one of them releases")
            self._release(self.rings)
        self.last()

    def _overlapped(self) -> None:
        ctx, out = self.ctx, self.ctx.out
        values = {s.values for s in self.accumulations}
        late = [ring for ring in self.rings if ring.name in values]
        early = [ring for ring in self.rings if ring.name not in values]
        assert self.rings[0] in early, "internal error: the first ring of a sweep is that of its scores"
        self._come()
        with out.block("if now >= 0:"):
            self._vectors(early)
            products.scores(ctx, self.dots)
            out.line("wgmma_wait(0)")
            out.line("waiting = False")
            with out.block("while True:"):
                self._softmax(early)
                self._come()
                out.line("wgmma_wait(0)")
                products.hold(ctx, self.accumulations)
                self._release_late(late)
                for s in self.accumulations:
                    products.prepare(ctx, s)
                with out.block("if now < 0:"):
                    out.line("break")
                self._vectors(early)
                self._take_turn()
                products.scores(ctx, self.dots)
                self._accumulate(late)
                self._give_turn()
                out.line("waiting = True")
            self.last()
            self._accumulate(late)
            out.line("wgmma_wait(0)")
            products.hold(ctx, self.accumulations)
            self._release(late)
        with out.block("else:"):
            self.last()
        self._release(self.rings[:1])

    def _vectors(self, early: list[Ring]) -> None:
        """The vectors of keys that scores need, of the tile that has come; where some are computed, all consumers meet."""
        for ring in early[1:]:
            self.ctx.out.line(ring.wait("full"))
        self._places(early)
        Turn(self.ctx, self.keys, _of_keys).early()

    def _softmax(self, early: list[Ring]) -> None:
        """Wait for the scores, and compute all that stands between the products."""
        ctx = self.ctx
        ctx.out.line("wgmma_wait(1)")
        products.hold(ctx, self.dots)
        between = [s for body in (self.keys.full, self.keys.partial) for s in _between(body)]
        read = {x for s in between if isinstance(s, FeatureReduce) for x in reads(s)}
        self._release(ring for ring in early if ring.name not in read)
        Turn(ctx, self.keys, _of_keys).between()
        held = [ring for ring in early if ring.name in read]
        if held:
            ctx.out.line("warp_sync()  # all threads have read what one of them releases")
        self._release(held)

    def _accumulate(self, late: list[Ring]) -> None:
        """Start the product of weights and values."""
        for ring in late:
            self.ctx.out.line(ring.wait("full"))
        self._places(late)
        products.accumulate(self.ctx, self.accumulations)

    def _release_late(self, late: list[Ring]) -> None:
        """The values of the product that was waited for, if there was one."""
        for ring in late:
            self.ctx.out.line(f"mbar_arrive_if(and_(eq(lane, 0), waiting), {ring.barrier('empty')})")
            self.ctx.out.line(f"{ring.turn} = resize({ring.turn} + where(waiting, 1, 0), 32)")

    def _take_turn(self) -> None:
        schedule = self.ctx.schedule
        assert isinstance(schedule, Wgmma)
        if schedule.pingpong:
            self.ctx.out.line(f"named_barrier({TURNS} + (warp >> 2), {2 * GROUP})  # until it is this consumer's turn")

    def _give_turn(self) -> None:
        schedule = self.ctx.schedule
        assert isinstance(schedule, Wgmma)
        if schedule.pingpong:
            following = f"where(eq(warp >> 2, {schedule.consumers - 1}), {TURNS}, {TURNS + 1} + (warp >> 2))"
            self.ctx.out.line(f"named_arrive({following}, {2 * GROUP})")
