"""Emission of the questions that a sweep asks of its tiles: can a tile be skipped, and does it need its masks?

Both backends print the same scalar code, from `possible` and `certain` (`attnc.passes.bound`), which read the corners i0, i1, j0, j1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from typing import Protocol

from attnc.backends.printer import Printer
from attnc.backends.spelling import Scope, Speller
from attnc.ir.graph import Node, node, substitute, topological
from attnc.passes.bound import END, ZERO, corner
from attnc.passes.cuts import UNITS, Cut
from attnc.passes.fold import op
from attnc.tile.program import Keys

BLOCK = 8  # tiles, or blocks of tiles, that are judged at once
OPPOSITE = {"and": "or", "or": "and"}


class Emitter(Protocol):
    """What the questions need of a kernel under construction."""

    out: Printer
    top: Printer
    item: Scope
    words: dict[str, str]

    def word(self, name: str) -> str: ...
    def corners(self, x: Node) -> frozenset[str]: ...


Make = Callable[[list[Scope]], Speller]  # a speller over scopes


def ends(ctx: Emitter, found: tuple[Node, Node] | None, make: Make) -> tuple[str, str]:
    """Where the tiles begin and the number of keys behind the last; printed where they are not all keys."""
    length = ctx.word("kv_len")
    if found is None:
        return "0", length
    spelling = make([ctx.item])
    spelling.expect(found)
    start = "0" if found[0] == ZERO else "start"
    if start != "0":
        ctx.out.line(f"start = max({spelling.spell(found[0])}, 0)")
    if found[1] == END:
        return start, length
    ctx.out.line(f"stop = min({spelling.spell(found[1])} + 1, {length})")
    return start, "stop"


def questions(keys: Keys) -> dict[str, Node]:
    """What is asked of a span of keys, in this order."""
    if not (keys.full and keys.partial):
        return {"possible": keys.possible}
    possible = node("or", known("certain"), keys.possible) if keys.implied else keys.possible
    return {"certain": keys.certain, "possible": possible}


def unsettled(keys: Keys) -> str:
    """When the parts of a span must be asked: some, but not all of it is to be visited."""
    return "possible and not certain" if keys.full and keys.partial and keys.implied else "possible"


def widest(ctx: Emitter, size: int, length: str = "kv_len") -> None:
    """The span with which a search begins: the largest 8^n tiles, of `size` keys, below the number of keys."""
    if "widest" not in ctx.words:
        ctx.words["widest"] = "widest"
        ctx.top.line(f"widest = {size}")
        with ctx.top.block(f"while widest * {BLOCK} < {ctx.word(length)}:"):
            ctx.top.line(f"widest *= {BLOCK}")


def known(name: str) -> Node:
    """What has been found so far of the tile, as a leaf."""
    return node("value", name=name, axes=(), kind="bool")


def ask(ctx: Emitter, keys: Keys, asked: Mapping[str, Node], make: Make) -> None:
    """`certain` and `possible`, as far as asked, of j0..j1; where indices are cut, box by box until they are settled."""
    cuts = {axis: cut for axis, cut in (("i", keys.cut_i), ("j", keys.cut_j)) if cut is not None and cut.radices}
    boxes = {corner(f"{axis}{old}"): corner(f"{axis}{new}") for axis in cuts for old, new in ("0a", "1b")}
    graphs = dict(zip(asked, substitute(asked.values(), boxes), strict=True))
    if cuts:
        ctx.out.line(f"{', '.join(asked)} = {', '.join(str(name == 'certain') for name in asked)}")
        graphs = {name: node("and" if name == "certain" else "or", known(name), x) for name, x in graphs.items()}
    corners, scopes = {"i0", "i1", "j0", "j1"}, [ctx.item]
    with ExitStack() as loops:
        for axis, cut in cuts.items():
            scopes.append(scope_of(ctx, corners))
            loops.enter_context(_boxes(ctx, make, axis, cut, [x if x == "certain" else f"not {x}" for x in asked]))
            corners = corners | {f"{axis}a", f"{axis}b"}
        spelling = make([*scopes, scope_of(ctx, corners | set(asked))])
        spelling.expect(graphs.values())
        for name, x in graphs.items():
            _decide(ctx, make, spelling, x, name)


def _decide(ctx: Emitter, make: Make, spelling: Speller, x: Node, name: str) -> None:
    """`name` = x. Of what x joins, the parts that search tables come last, each only where those before do not decide."""
    scope = spelling.scopes[-1]
    how, (first, *others) = _parts(ctx, x)
    if not others:
        scope.out.line(f"{name} = {spelling.spell(first)}")
        return
    _decide(ctx, make, spelling, first, name)
    for part in others:
        with scope.out.block(f"if {name if how == 'and' else f'not {name}'}:"):
            # names of the parts before are known here; names from here only in the parts behind
            inside = Scope(scope.out, scope.holds)
            inside.names = dict(spelling.scopes[-1].names)
            uses, spelling = spelling.uses, make([*spelling.scopes[:-1], inside])
            spelling.uses = uses
            _decide(ctx, make, spelling, part, name)


def _parts(ctx: Emitter, x: Node) -> tuple[str, list[Node]]:
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


def scope_of(ctx: Emitter, corners: set[str]) -> Scope:
    """A scope here, of what reads no other corners."""
    return Scope(ctx.out.place(), lambda x: ctx.corners(x) <= corners)


@contextmanager
def _boxes(ctx: Emitter, make: Make, axis: str, cut: Cut, unsettled: Sequence[str]) -> Iterator[None]:
    """A loop over the boxes of an index in which none of its digits wraps, as long as something is unsettled."""
    uniform = make([ctx.item])
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
