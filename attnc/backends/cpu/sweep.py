"""Emission of a sweep: which tiles of keys are visited, what class a tile has, and the body for its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from attnc.backends import classes
from attnc.backends.cpu import ahead, earlier, few_rows, items, past
from attnc.backends.cpu import keys as key_side
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.columns import columns
from attnc.backends.cpu.context import KEYS, VECTORS, Context, Span
from attnc.backends.cpu.diagonals import diagonals
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.pairs import Pairs
from attnc.ir.graph import substitute
from attnc.passes.bound import Ends, corner
from attnc.schedule.cpu_form import PLAIN
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Map, Reduce, RowMap, SetRow, Statement


def sweep(ctx: Context, keys: Keys) -> None:
    """One sweep over the keys: its states, its loop, and where the products must be done again with care."""
    ctx.out.line(f"# sweep {keys.number} over the keys")
    ahead.begin_sweep(ctx, keys)
    for s in keys.states:
        row_side.state(ctx, s)
    if ctx.form.linear:
        past.begin(ctx)
    ctx.begin = ctx.out.place()
    if ctx.form.few:
        few_rows.queries(ctx, keys)
    if keys.run is not None or keys.possible.op == "const":
        if keys.run is not None or keys.possible["value"]:
            _run(ctx, keys)
    else:
        _spans(ctx, keys)
    products = {s.accumulator: s for s in (*keys.full, *keys.partial) if isinstance(s, DotAcc) and s.skip_zero}
    if products or ctx.form.linear:
        finite = past.finite(ctx) if ctx.form.linear else [_finite(ctx, s) for s in products.values()]
        with ctx.out.block(f"if careful == 0 and not ({' and '.join(finite)}):"):
            ctx.out.line("continue  # again, with weights of 0 kept from NaN and infinite values")
    if ctx.form.few and not ctx.form.split:
        few_rows.transpose(ctx, keys.states)


def _finite(ctx: Context, s: DotAcc) -> str:
    if ctx.form.few:
        return few_rows.finite(ctx, s)
    return row_side.finite(ctx, s.accumulator, s.feature)


def ends(ctx: Context, keys: Keys) -> tuple[str, str]:
    """Where the tiles of a sweep, or of this part of it, begin, and the number of keys behind the last."""
    if ctx.form.split:
        return "first", "last"
    found = classes.ends(ctx, keys.run or keys.hull, partial(Spelling, ctx))
    return past.ends(ctx, *found) if ctx.form.linear else found


def _run(ctx: Context, keys: Keys) -> None:
    """All tiles, or those of a run of keys: none of them is empty."""
    start, stop = ends(ctx, keys)
    with ctx.out.block(f"for j0 in range({start}, {stop}, {ctx.schedule.keys}):"):
        ctx.out.line(f"nj = min({ctx.schedule.keys}, {stop} - j0)")
        ahead.begin_tile(ctx, stop)
        if keys.full and keys.partial:
            ctx.out.line("j1 = j0 + nj - 1")
            classes.ask(ctx, keys, {"certain": keys.certain}, partial(Spelling, ctx))
        _bodies(ctx, keys)


def _spans(ctx: Context, keys: Keys) -> None:
    """Coarse to fine: a block of tiles is skipped where it is empty, run where it is full, else looked at in parts."""
    out, size = ctx.out, ctx.schedule.keys
    classes.widest(ctx, size)
    start, stop = ends(ctx, keys)
    out.line(f"j0, span = {start}, widest")
    with out.block(f"while j0 < {stop}:"):
        out.line(f"end = min(j0 + span, {stop})")
        out.line("j1 = end - 1")
        classes.ask(ctx, keys, classes.questions(keys), partial(Spelling, ctx))
        with out.block(f"if {classes.unsettled(keys)} and span > {size}:  # a block of tiles: look closer"):
            out.line(f"span //= {classes.BLOCK}")
            out.line("continue")
        with out.block("if possible:  # not empty"), out.block(f"for j0 in range(j0, end, {size}):"):
            out.line(f"nj = min({size}, end - j0)")
            ahead.begin_tile(ctx, stop)
            _bodies(ctx, keys)
        out.line("j0 = end")
        place = "j0" if start == "0" else f"(j0 - {start})"
        with out.block(f"while span < widest and {place} % ({classes.BLOCK} * span) == 0:"):
            out.line(f"span *= {classes.BLOCK}")


def _bodies(ctx: Context, keys: Keys) -> None:
    """The tile, in its class."""
    if not (keys.full and keys.partial):
        _body(ctx, keys.full or keys.partial, keys.run or keys.hull)
        return
    with ctx.out.block("if certain:  # full"):
        _body(ctx, keys.full, None)
    with ctx.out.block("else:  # partial"):
        _body(ctx, keys.partial, keys.run or keys.hull, main=False)


def _body(ctx: Context, statements: Sequence[Statement], ends: Ends | None, main: bool = True) -> None:
    """One class of tile: what concerns the keys alone, then scores, lanes and products, with `ends` block by block.

    main: whether most tiles are of this class, or may be.
    """
    ctx.begin_body()
    ctx.direct = few_rows.direct(statements) if ctx.form.few else set()
    dots: list[Dot] = []
    lanes: list[Statement] = []
    products: list[DotAcc] = []
    for s in statements:
        match s:
            case Load():
                key_side.load(ctx, s)
            case FeatureReduce(axes="j"):
                key_side.reduce(ctx, s)
            case Dot():
                dots.append(s)
            case DotAcc():
                products.append(s)
            case Map() | Reduce() | RowMap() | SetRow() | FeatureReduce():
                lanes.append(s)
    pairs = [s.graph for s in lanes if isinstance(s, Map | Reduce)]
    known = columns(ctx, pairs)
    if ctx.form == PLAIN or ctx.form.linear:
        known |= diagonals(ctx, pairs)
    kept = {s.scale for s in products if s.scale is not None}
    with _blocks(ctx, ends) as (vectors, keys):
        for dot in dots:
            key_side.dot(ctx, dot, vectors, keys)
        phase = Pairs(ctx, lanes, kept, {s.weights for s in products}, known, vectors, keys)
        found = earlier.of(phase, products) if main else None
        if found is None:
            phase.emit()
        risen = found is not None and earlier.emit(phase, found, dots)
        for product in products:
            key_side.dot_acc(ctx, product, vectors, keys)
        if found is not None and risen:
            earlier.follow(ctx, found)


@contextmanager
def _blocks(ctx: Context, ends: Ends | None) -> Iterator[tuple[Span, Span]]:
    """The queries and keys of the tile; a loop over blocks of queries where `ends` gives each its first and last key.

    A block is what the matrix products keep in registers, so that it costs no more to work on one after the other.
    """
    out, cols, width = ctx.out, ctx.schedule.block[1], ctx.schedule.width
    if ends is None or not any(map(ctx.corners, ends)) or ctx.schedule.rows <= cols * width:
        yield VECTORS, KEYS
        return
    with out.block(f"for x0 in range(0, nx, {cols}):  # {cols * width} queries, and the keys that they need"):
        out.line(f"x1 = min(x0 + {cols}, nx)")
        items.first_and_last(ctx)
        spelling = Spelling(ctx, [ctx.item, classes.scope_of(ctx, {"ia", "ib"})])
        first, last = substitute(ends, {corner("i0"): corner("ia"), corner("i1"): corner("ib")})
        spelling.expect((first, last))
        low, high = KEYS.first, KEYS.stop
        if ctx.corners(first):
            low = "lo"
            out.line(f"lo = max({spelling.spell(first)}, j0) - j0")
        if ctx.corners(last):
            high = "hi"
            out.line(f"hi = min({spelling.spell(last)} + 1, j0 + nj) - j0")
        with out.block(f"if {low} < {high}:"):
            yield Span("x0", "x1"), Span(low, high)
