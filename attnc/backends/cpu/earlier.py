"""Emission of tiles whose weights are relative to the maximum of earlier tiles (`attnc.tile.earlier`): one loop over the pairs.

Rows that have no maximum yet begin with that of a few keys. A block of queries whose scores rise too far above theirs computes them
again, and takes the tile's own maximum first, in two loops; so do some tiles after one that had to. Where scores rose only a little, the
states follow after the tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnc.backends.cpu import keys as key_side
from attnc.backends.cpu.context import VECTORS, Context, Span
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.pairs import Pairs, again, no_keys
from attnc.backends.cpu.rows import anything, lanes
from attnc.backends.printer import Printer
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, topological
from attnc.schedule.cpu_form import PLAIN
from attnc.tile.earlier import NEAR, Earlier, Exponent, earlier, first, follows, rescaling
from attnc.tile.lower import row
from attnc.tile.program import Dot, DotAcc, Map, Reduce

FAR = {4: "64.0", 8: "512.0"}  # REACH, by the size of numbers
PATIENCE = 8  # tiles that look for their own maximum after one that had to
LONG = frozenset(
    ["tanh", "sigmoid", "erf", "exp", "exp2", "log", "log2", "log1p", "sin", "cos", "pow", "div", "sqrt", "rsqrt"]
)
FEW = 8  # keys that give a row its first reference
ONE_VECTOR = Span("x", "x + 1")


def of(pairs: Pairs, products: Sequence[DotAcc]) -> Earlier | None:
    """What can be done so; None where every tile takes its own maximum.

    Not below functions of scores that take long: a processor has a few hundred instructions under way, that is few pairs at a time
    whose function and weight, one after the other, it would wait for. In two loops it has more.
    """
    exponents = topological(s.graph for s in pairs.statements if isinstance(s, Map) and s.graph.op != "weight")
    if pairs.ctx.form != PLAIN or pairs.vectors != VECTORS or any(x.op in LONG and "j" in x.axes for x in exponents):
        return None
    return earlier(pairs.statements, products)


def emit(pairs: Pairs, found: Earlier, dots: Sequence[Dot]) -> bool:
    """The lane phase of a tile, with one loop or two. False where only two would do: one would leave weights in other places."""
    ctx, out, statements = pairs.ctx, pairs.ctx.out, pairs.statements
    places, tiles = dict(ctx.places), list(ctx.pairs)
    one, two = Printer(), Printer()
    ctx.out = one
    _loop(pairs, found)
    left, rows = {name: ctx.places[name] for name in pairs.stored}, pairs.rows
    ctx.out, ctx.places, ctx.pairs = two, dict(places), list(tiles)
    pairs.loops, pairs.statements = 0, again(found.own, pairs.stored)
    pairs.run()
    pairs.loops = 0
    own = pairs.rows.names
    ctx.out, pairs.rows = out, rows
    if left != {name: ctx.places[name] for name in pairs.stored}:
        pairs.statements, ctx.places, ctx.pairs = statements, places, tiles
        pairs.emit()
        return False
    if not ctx.begin.lines():
        _begin(ctx, found)
    ctx.out.line("own, moving, risen = moving > 0, max(moving - 1, 0), False")
    with lanes(ctx):
        for x in found.exponents:
            _first(pairs, found, x)
        ctx.out.line("far = own")
        with ctx.out.block("if not far:"):
            ctx.out.insert(one)
            _check(pairs, found, dots)
        with ctx.out.block("if far:"):
            ctx.out.insert(two)
            _keep(ctx, found, own)
    return True


def _begin(ctx: Context, found: Earlier) -> None:
    """Before the first tile. A careful sweep takes maxima as they are: its sums must be finite if they can be."""
    reach, careful = FAR[ctx.size], any(x.products for x in found.exponents)
    ctx.begin.line(
        f"moving, reach = 0, {reach}  # tiles that take their own maximum; powers of two that others may be above theirs"
    )
    if careful:
        with ctx.begin.block("if careful != 0:"):
            ctx.begin.line("moving, reach = INT_MAX, 0.0")


def _keep(ctx: Context, found: Earlier, names: Mapping[Node, str]) -> None:
    """The tops of the tile, which the states follow; whether some must."""
    for x in found.exponents:
        ctx.out.line(f"store({ctx.row(x.top)} + o, {names[row(x.top)]})")
    above = [f"any(lt(add({names[row(x.state)]}, {NEAR}), {names[row(x.top)]}))" for x in found.exponents]
    ctx.out.line(f"risen = risen or {' or '.join(above)}")


def _first(pairs: Pairs, found: Earlier, x: Exponent) -> None:
    """A reference for rows that have none."""
    ctx, all_keys, rows = pairs.ctx, pairs.keys, pairs.rows
    m = ctx.names.fresh(x.state)
    ctx.out.line(f"{m} = load(F, {ctx.row(x.state)} + o)")
    with ctx.out.block(f"if any(eq({m}, -INF)):"):
        pairs.rows, pairs.keys = Scope(ctx.out.place(), no_keys), Span("0", f"min({FEW}, {all_keys.stop})")
        pairs.rows.names[row(x.state)] = m
        loop, reference = first(found, x)
        asks, ctx.looks_ahead = ctx.looks_ahead, False
        pairs.loop([s for s in again(loop, set()) if isinstance(s, Map | Reduce)], ())
        spelling = Spelling(ctx, [ctx.item, pairs.rows])
        ctx.out.line(f"store({ctx.row(x.state)} + o, {spelling.vector(reference)})")
        pairs.keys, pairs.rows, ctx.looks_ahead = all_keys, rows, asks


def _loop(pairs: Pairs, found: Earlier) -> None:
    """The one loop over the keys."""
    pairs.rows = Scope(pairs.ctx.out.place(), no_keys)
    for s in found.before:
        pairs.row(s)
    loop = [s for s in again(found.loop, pairs.stored) if isinstance(s, Map | Reduce)]
    pairs.loop(loop, found.after, alone=True)


def _check(pairs: Pairs, found: Earlier, dots: Sequence[Dot]) -> None:
    """Whether the weights are in range: else the scores once more; if so, the sums."""
    ctx, names = pairs.ctx, pairs.rows.names
    spelling = Spelling(ctx, [ctx.item, pairs.rows])
    above = [f"any(lt(add({spelling.spell(row(x.state))}, reach), {names[row(x.top)]}))" for x in found.exponents]
    ctx.out.line(f"far = {' or '.join(above)}")
    with ctx.out.block("if far:  # the scores again"):
        for dot in dots:
            key_side.dot(ctx, dot, ONE_VECTOR, pairs.keys)
        ctx.out.line(f"moving = {PATIENCE}")
    with ctx.out.block("else:"):
        pairs.rows = Scope(ctx.out.place(), no_keys)
        pairs.rows.names = dict(names)
        for s in found.after:
            pairs.row(s)
        for x in found.exponents:
            ctx.out.line(f"store({ctx.row(x.scale)} + o, splat(F, 1.0))")
        _keep(ctx, found, names)


def follow(ctx: Context, found: Earlier) -> None:
    """After the products of the tile: the states relative to its maximum, where that is higher."""
    features = {s.name: s.feature for keys in ctx.program.sweeps for s in keys.states}
    with ctx.out.block("if risen:"), lanes(ctx):
        for x in found.exponents:
            scope = Scope(ctx.out, anything)
            spelling = Spelling(ctx, [ctx.item, scope])
            new, factor = follows(x), rescaling(x)
            reference = spelling.name(new, spelling.vector(new), scope, "n")
            spelling.expect([factor])
            scale = spelling.name(factor, spelling.vector(factor), scope, x.scale)
            ctx.out.line(f"store({ctx.row(x.state)} + o, {reference})")
            for name in (*x.sums, *x.products):
                feature = features[name]
                if feature is None:
                    _multiply(ctx, f"{ctx.row(name)} + o", scale)
                    continue
                with ctx.out.block(f"for f in range({ctx.features[feature]}):"):
                    _multiply(ctx, f"{ctx.places[name]} + f * {ctx.pitch} + o", scale)


def _multiply(ctx: Context, place: str, factor: str) -> None:
    ctx.out.line(f"store({place}, mul(load(F, {place}), {factor}))")
