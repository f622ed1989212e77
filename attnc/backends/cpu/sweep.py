"""Emission of a sweep: which tiles of keys are visited, what class a tile has, and the body for its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from attnc.backends.cpu import keys as key_side
from attnc.backends.cpu import rows as row_side
from attnc.backends.cpu.context import Context
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.cpu.pairs import Pairs
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, substitute
from attnc.passes.bound import END, ZERO, corner
from attnc.passes.cuts import UNITS, Cut
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Map, Reduce, RowMap, SetRow, Statement

BLOCK = 8  # tiles, or blocks of tiles, that are skipped at once


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
        certain = None
        if keys.full and keys.partial:
            ctx.out.line("j1 = j0 + nj - 1")
            (certain,) = _classes(ctx, keys, {"certain": keys.certain}, "True")
        _bodies(ctx, keys, certain)


def _spans(ctx: Context, keys: Keys) -> None:
    """Coarse to fine: a block of tiles that is empty is skipped at once, another one is looked at in parts."""
    out, size, length = ctx.out, ctx.schedule.keys, ctx.word("kv_len")
    if "widest" not in ctx.words:
        ctx.words["widest"] = "widest"
        ctx.top.line(f"widest = {size}")
        with ctx.top.block(f"while widest < {length}:"):
            ctx.top.line(f"widest *= {BLOCK}")
    start, stop = _ends(ctx, keys.hull)
    out.line(f"j0, span = {start}, widest")
    with out.block(f"while j0 < {stop}:"):
        out.line(f"nj = min(span, {stop} - j0)")
        out.line("j1 = j0 + nj - 1")
        graphs = {"possible": keys.possible}
        if keys.full and keys.partial:
            graphs["certain"] = keys.certain
        possible, *certain = _classes(ctx, keys, graphs, f"span == {size}")
        with out.block(f"if {possible}:  # not empty"):
            with out.block(f"if span > {size}:  # a block of tiles: look closer"):
                out.line(f"span //= {BLOCK}")
                out.line("continue")
            _bodies(ctx, keys, certain[0] if certain else None)
        out.line("j0 += span")
        place = "j0" if start == "0" else f"(j0 - {start})"
        with out.block(f"while span < widest and {place} % ({BLOCK} * span) == 0:"):
            out.line(f"span *= {BLOCK}")


def _classes(ctx: Context, keys: Keys, graphs: dict[str, Node], certain: str) -> list[str]:
    """The texts of `possible` and `certain`, as far as they are asked for, on the tile or block of tiles j0..j1.

    certain: what it is before the first box; where it is false, boxes are looked at until one is possible.
    """
    cuts = {axis: cut for axis, cut in (("i", keys.cut_i), ("j", keys.cut_j)) if cut is not None and cut.radices}
    boxes = {corner(f"{axis}{old}"): corner(f"{axis}{new}") for axis in cuts for old, new in ("0a", "1b")}
    known = {"i0", "i1", "j0", "j1"}
    scopes = [ctx.item, _scope(ctx, known)]
    if cuts:
        start, unsettled = {"possible": "False", "certain": certain}, {"certain": "certain", "possible": "not possible"}
        ctx.out.line(f"{', '.join(graphs)} = {', '.join(start[name] for name in graphs)}")
        more = " or ".join(text for name, text in unsettled.items() if name in graphs)
    with ExitStack() as loops:
        for axis, cut in cuts.items():
            loops.enter_context(_boxes(ctx, axis, cut, more if len(graphs) == 1 else f"({more})"))
            known = known | {f"{axis}a", f"{axis}b"}
            scopes.append(_scope(ctx, known))
        spelling = Spelling(ctx, scopes)
        roots = substitute(graphs.values(), boxes)
        spelling.expect(roots)
        texts = [spelling.spell(x) for x in roots]
        if not cuts:
            return texts
        for name, text in zip(graphs, texts, strict=True):
            ctx.out.line(f"{name} = {name} {'or' if name == 'possible' else 'and'} {text}")
    return list(graphs)


def _scope(ctx: Context, corners: set[str]) -> Scope:
    """A scope here, of what reads no other corners."""
    return Scope(ctx.out.place(), lambda x: ctx.corners(x) <= corners)


@contextmanager
def _boxes(ctx: Context, axis: str, cut: Cut, more: str) -> Iterator[None]:
    """A loop over the boxes of an index in which none of its digits wraps."""
    uniform = Spelling(ctx, [ctx.item])
    uniform.expect((cut.shift, *cut.radices))
    shift, *radices = (uniform.spell(x) for x in (cut.shift, *cut.radices))
    first, last = f"{axis}a", f"{axis}b"
    ctx.out.line(f"{first} = {axis}0")
    with ctx.out.block(f"while {first} <= {axis}1 and {more}:"):
        ctx.out.line(
            f"{last} = box_last({first}, {axis}1, {shift}, ({', '.join(radices)},), {UNITS if cut.apart else 0})"
        )
        yield
        ctx.out.line(f"{first} = {last} + 1")


def _bodies(ctx: Context, keys: Keys, certain: str | None) -> None:
    """The tile, in its class."""
    if certain is None:
        _body(ctx, keys.full or keys.partial)
        return
    with ctx.out.block(f"if {certain}:  # full"):
        _body(ctx, keys.full)
    with ctx.out.block("else:  # partial"):
        _body(ctx, keys.partial)


def _body(ctx: Context, statements: Sequence[Statement]) -> None:
    """One class of tile: vectors and scores, then the lanes, then the products."""
    ctx.begin_body()
    lanes: list[Statement] = []
    products: list[DotAcc] = []
    for s in statements:
        match s:
            case Load():
                key_side.load(ctx, s)
            case FeatureReduce(axes="j"):
                key_side.reduce(ctx, s)
            case Dot():
                key_side.dot(ctx, s)
            case DotAcc():
                products.append(s)
            case Map() | Reduce() | RowMap() | SetRow() | FeatureReduce():
                lanes.append(s)
    kept = {s.scale for s in products if s.scale is not None}
    Pairs(ctx, lanes, kept, {s.weights for s in products}).emit()
    for s in products:
        key_side.dot_acc(ctx, s)
