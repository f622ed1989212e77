"""Emission of a sweep: which tiles of keys are visited, what class a tile has, and the body for its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, reduce

from attnc.backends.cpu import keys as key_side
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.columns import columns
from attnc.backends.cpu.context import KEYS, VECTORS, Context, Span
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.pairs import Pairs
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, node, substitute, topological
from attnc.passes.bound import END, ZERO, Ends, corner
from attnc.passes.cuts import UNITS, Cut
from attnc.passes.fold import op
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Map, Reduce, RowMap, SetRow, Statement

BLOCK = 8  # tiles, or blocks of tiles, that are judged at once
OPPOSITE = {"and": "or", "or": "and"}


def sweep(ctx: Context, keys: Keys) -> None:
    """One sweep over the keys: its states, its loop, and where the products must be done again with care."""
    ctx.out.line(f"# sweep {keys.number} over the keys")
    for s in keys.states:
        row_side.state(ctx, s)
    if keys.run is not None or keys.possible.op == "const":
        if keys.run is not None or keys.possible["value"]:
            _run(ctx, keys)
    else:
        _spans(ctx, keys)
    products = {s.accumulator: s for s in (*keys.full, *keys.partial) if isinstance(s, DotAcc) and s.skip_zero}
    if products:
        finite = [
            f"all_finite(F, {ctx.places[s.accumulator]}, {ctx.features[s.feature]}, {ctx.pitch}, nx * {ctx.schedule.width})"
            for s in products.values()
        ]
        with ctx.out.block(f"if careful == 0 and not ({' and '.join(finite)}):"):
            ctx.out.line("continue  # again, with weights of 0 kept from NaN and infinite values")


def _ends(ctx: Context, ends: tuple[Node, Node] | None) -> tuple[str, str]:
    """Where the tiles begin and the number of keys behind the last; printed where they are not all keys."""
    length = ctx.word("kv_len")
    if ends is None:
        return "0", length
    spelling = Spelling(ctx, [ctx.item])
    spelling.expect(ends)
    start = "0" if ends[0] == ZERO else "start"
    if start != "0":
        ctx.out.line(f"start = max({spelling.spell(ends[0])}, 0)")
    if ends[1] == END:
        return start, length
    ctx.out.line(f"stop = min({spelling.spell(ends[1])} + 1, {length})")
    return start, "stop"


def _run(ctx: Context, keys: Keys) -> None:
    """All tiles, or those of a run of keys: none of them is empty."""
    start, stop = _ends(ctx, keys.run)
    with ctx.out.block(f"for j0 in range({start}, {stop}, {ctx.schedule.keys}):"):
        ctx.out.line(f"nj = min({ctx.schedule.keys}, {stop} - j0)")
        if keys.full and keys.partial:
            ctx.out.line("j1 = j0 + nj - 1")
            _ask(ctx, keys, {"certain": keys.certain})
        _bodies(ctx, keys)


def _spans(ctx: Context, keys: Keys) -> None:
    """Coarse to fine: a block of tiles is skipped where it is empty, run where it is full, else looked at in parts."""
    out, size, length = ctx.out, ctx.schedule.keys, ctx.word("kv_len")
    if "widest" not in ctx.words:
        ctx.words["widest"] = "widest"
        ctx.top.line(f"widest = {size}")
        with ctx.top.block(f"while widest * {BLOCK} < {length}:"):
            ctx.top.line(f"widest *= {BLOCK}")
    start, stop = _ends(ctx, keys.hull)
    asked, closer = {"possible": keys.possible}, "possible"
    if keys.full and keys.partial:
        asked = {"certain": keys.certain, **asked}
        if keys.implied:
            asked["possible"], closer = node("or", _known("certain"), keys.possible), "possible and not certain"
    out.line(f"j0, span = {start}, widest")
    with out.block(f"while j0 < {stop}:"):
        out.line(f"end = min(j0 + span, {stop})")
        out.line("j1 = end - 1")
        _ask(ctx, keys, asked)
        with out.block(f"if {closer} and span > {size}:  # a block of tiles: look closer"):
            out.line(f"span //= {BLOCK}")
            out.line("continue")
        with out.block("if possible:  # not empty"), out.block(f"for j0 in range(j0, end, {size}):"):
            out.line(f"nj = min({size}, end - j0)")
            _bodies(ctx, keys)
        out.line("j0 = end")
        place = "j0" if start == "0" else f"(j0 - {start})"
        with out.block(f"while span < widest and {place} % ({BLOCK} * span) == 0:"):
            out.line(f"span *= {BLOCK}")


def _ask(ctx: Context, keys: Keys, asked: dict[str, Node]) -> None:
    """`certain` and `possible`, as far as asked, of j0..j1; where indices are cut, box by box until they are settled."""
    cuts = {axis: cut for axis, cut in (("i", keys.cut_i), ("j", keys.cut_j)) if cut is not None and cut.radices}
    boxes = {corner(f"{axis}{old}"): corner(f"{axis}{new}") for axis in cuts for old, new in ("0a", "1b")}
    graphs = dict(zip(asked, substitute(asked.values(), boxes), strict=True))
    if cuts:
        ctx.out.line(f"{', '.join(asked)} = {', '.join(str(name == 'certain') for name in asked)}")
        graphs = {name: node("and" if name == "certain" else "or", _known(name), x) for name, x in graphs.items()}
    corners, scopes = {"i0", "i1", "j0", "j1"}, [ctx.item]
    with ExitStack() as loops:
        for axis, cut in cuts.items():
            scopes.append(_scope(ctx, corners))
            loops.enter_context(_boxes(ctx, axis, cut, [x if x == "certain" else f"not {x}" for x in asked]))
            corners = corners | {f"{axis}a", f"{axis}b"}
        spelling = Spelling(ctx, [*scopes, _scope(ctx, corners | set(asked))])
        spelling.expect(graphs.values())
        for name, x in graphs.items():
            _decide(spelling, x, name)


def _known(name: str) -> Node:
    """What has been found so far of the tile, as a leaf."""
    return node("value", name=name, axes=(), kind="bool")


def _decide(spelling: Spelling, x: Node, name: str) -> None:
    """`name` = x. Of what x joins, the parts that search tables come last, each only where those before do not decide."""
    scope = spelling.scopes[-1]
    how, (first, *others) = _parts(spelling.ctx, x)
    if not others:
        scope.out.line(f"{name} = {spelling.spell(first)}")
        return
    _decide(spelling, first, name)
    for part in others:
        with scope.out.block(f"if {name if how == 'and' else f'not {name}'}:"):
            # names of the parts before are known here; names from here only in the parts behind
            inside = Scope(scope.out, scope.holds)
            inside.names = dict(spelling.scopes[-1].names)
            uses, spelling = spelling.uses, Spelling(spelling.ctx, [*spelling.scopes[:-1], inside])
            spelling.uses = uses
            _decide(spelling, part, name)


def _parts(ctx: Context, x: Node) -> tuple[str, list[Node]]:
    """How x joins which parts: that without searches in tables, then the others, those with the fewest first."""
    whole = x.operands[0] if x.op == "not" else x
    parts = [whole]
    while whole.op in OPPOSITE and any(y.op == whole.op for y in parts):
        parts = [z for y in parts for z in (y.operands if y.op == whole.op else (y,))]
    searches = {y: sum(z.op == "extreme" and not ctx.item.holds(z) for z in topological([y])) for y in parts}
    free = [y for y, count in searches.items() if not count]
    dear = sorted((y for y, count in searches.items() if count), key=lambda y: searches[y])
    if len(parts) == 1 or not dear:
        return x.op, [x]
    joined = [reduce(partial(node, whole.op), free), *dear] if free else dear
    return (OPPOSITE[whole.op], [op("not", y) for y in joined]) if x.op == "not" else (whole.op, joined)


def _scope(ctx: Context, corners: set[str]) -> Scope:
    """A scope here, of what reads no other corners."""
    return Scope(ctx.out.place(), lambda x: ctx.corners(x) <= corners)


@contextmanager
def _boxes(ctx: Context, axis: str, cut: Cut, unsettled: Sequence[str]) -> Iterator[None]:
    """A loop over the boxes of an index in which none of its digits wraps, as long as something is unsettled."""
    uniform = Spelling(ctx, [ctx.item])
    uniform.expect((cut.shift, *cut.radices))
    shift, *radices = (uniform.spell(x) for x in (cut.shift, *cut.radices))
    first, last = f"{axis}a", f"{axis}b"
    ctx.out.line(f"{first} = {axis}0")
    more = " or ".join(unsettled)
    with ctx.out.block(f"while {first} <= {axis}1 and {more if len(unsettled) == 1 else f'({more})'}:"):
        ctx.out.line(
            f"{last} = box_last({first}, {axis}1, {shift}, ({', '.join(radices)},), {UNITS if cut.apart else 0})"
        )
        yield
        ctx.out.line(f"{first} = {last} + 1")


def _bodies(ctx: Context, keys: Keys) -> None:
    """The tile, in its class."""
    if not (keys.full and keys.partial):
        _body(ctx, keys.full or keys.partial, keys.run or keys.hull)
        return
    with ctx.out.block("if certain:  # full"):
        _body(ctx, keys.full, None)
    with ctx.out.block("else:  # partial"):
        _body(ctx, keys.partial, keys.run or keys.hull)


def _body(ctx: Context, statements: Sequence[Statement], ends: Ends | None) -> None:
    """One class of tile: what concerns the keys alone, then scores, lanes and products, with `ends` block by block."""
    ctx.begin_body()
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
    known = columns(ctx, [s.graph for s in lanes if isinstance(s, Map | Reduce)])
    kept = {s.scale for s in products if s.scale is not None}
    with _blocks(ctx, ends) as (vectors, keys):
        for dot in dots:
            key_side.dot(ctx, dot, vectors, keys)
        Pairs(ctx, lanes, kept, {s.weights for s in products}, known, vectors, keys).emit()
        for product in products:
            key_side.dot_acc(ctx, product, vectors, keys)


@contextmanager
def _blocks(ctx: Context, ends: Ends | None) -> Iterator[tuple[Span, Span]]:
    """The queries and keys of the tile; a loop over blocks of queries where `ends` gives each its first and last key.

    A block is what the matrix products keep in registers, so that it costs no more to work on one after the other.
    """
    out, cols, width = ctx.out, ctx.schedule.tile[1], ctx.schedule.width
    if ends is None or not any(map(ctx.corners, ends)) or ctx.schedule.rows <= cols * width:
        yield VECTORS, KEYS
        return
    with out.block(f"for x0 in range(0, nx, {cols}):  # {cols * width} queries, and the keys that they need"):
        out.line(f"x1 = min(x0 + {cols}, nx)")
        out.line(f"ia = i0 + x0 * {width}")
        out.line(f"ib = min(ia + {cols * width - 1}, i1)")
        spelling = Spelling(ctx, [ctx.item, _scope(ctx, {"ia", "ib"})])
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
