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
from attnc.schedule.wgmma import GROUP, Wgmma
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Statement, reads

TURNS = 8  # the first named barrier by which consumers take turns; those below are where they meet


def split(keys: Keys) -> tuple[list[Dot], list[DotAcc]]:
    """Scores and accumulations of the sweep's tiles."""
    body = keys.full or keys.partial
    return [s for s in body if isinstance(s, Dot)], [s for s in body if isinstance(s, DotAcc)]


def overlaps(keys: Keys) -> bool:
    """Whether the scores of a tile can be started before the one before is done."""
    dots, accumulations = split(keys)
    both = [s for body in (keys.full, keys.partial) for s in body]
    if not dots or not accumulations or any(isinstance(s, Load) and s.graph.op != "role" for s in both):
        return False
    values = {s.values for s in accumulations}
    early = {s.keys for s in dots} | {x for s in both if not isinstance(s, Load | DotAcc) for x in reads(s)}
    return not values & early


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

    def between(self) -> None:
        """Print all but loads and products."""
        self.full, self.edge = (
            [s for s in x if not isinstance(s, Load | Dot | DotAcc)] for x in (self.full, self.edge)
        )
        self.emit()


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

        def of_keys(ctx: Context, s: Load) -> None:
            ctx.out.line(ctx.meet("j"))  # the vectors of the tile before have been read
            prepare.of_keys(ctx, s)

        with out.block("while True:"):
            self._come()
            with out.block("if now < 0:"):
                self._release(self.rings[:1])
                out.line("break")
            for ring in self.rings[1:]:
                out.line(ring.wait("full"))
            self._places(self.rings)
            Turn(ctx, self.keys, of_keys).emit()
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
            self._scores(early)
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
                self._take_turn()
                self._scores(early)
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

    def _scores(self, early: list[Ring]) -> None:
        """Start the scores of the tile that has come."""
        for ring in early[1:]:
            self.ctx.out.line(ring.wait("full"))
        self._places(early)
        products.scores(self.ctx, self.dots)

    def _softmax(self, early: list[Ring]) -> None:
        """Wait for the scores, and compute all that stands between the products."""
        ctx = self.ctx
        ctx.out.line("wgmma_wait(1)")
        products.hold(ctx, self.dots)
        between = [s for body in (self.keys.full, self.keys.partial) for s in body if isinstance(s, FeatureReduce)]
        read = {x for s in between for x in reads(s)}
        self._release(ring for ring in early if ring.name not in read)
        Turn(ctx, self.keys, prepare.of_keys).between()
        self._release(ring for ring in early if ring.name in read)

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
