"""Emission of what depends on i - j alone: computed once for each diagonal of a tile, not for each pair of it.

A tile of R queries and C keys has R * C pairs, but R + C - 1 diagonals. Biases by distance (T5, Swin, relative tables) then cost one
load per vector of pairs, at an address that moves one number back from key to key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnc.backends.cpu.context import Context
from attnc.backends.cpu.leaves import Spelling, work
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, node, substitute, topological
from attnc.ir.ops import OPS
from attnc.tile.program import RowMap

WORTH_A_LOAD = 4  # operations on lanes
WORTH_A_MASK = 6  # the same; bits of a mask are bytes in memory, and converted
SIZES = {"int": 8, "int32": 4, "bool": 1}
COMPARISONS = ("lt", "le", "eq", "ne")

Slope = tuple[int, int]  # by how much an integer grows with i, and with j


def diagonals(ctx: Context, graphs: Iterable[Node]) -> dict[Node, str]:
    """Prints the loop over the diagonals of the tile at i0, j0; for each node computed there the text that reads it for a pair."""
    rows = {s.name: s.graph for s in ctx.program.steps if isinstance(s, RowMap) and s.graph.axes <= {"b", "h", "i"}}
    found = {
        x: y
        for x, y in _outermost(graphs, rows).items()
        if work(y) >= (WORTH_A_MASK if y.dtype == "bool" else WORTH_A_LOAD)
    }
    texts: dict[Node, str] = {}
    if not found:
        return texts
    width, keys = ctx.schedule.width, ctx.schedule.keys
    vectors = -(-(ctx.schedule.rows + keys - 1) // width)
    with ctx.out.block(f"for x in range({vectors}):  # diagonals, from i0 - (j0 + {keys - 1}) up"):
        spelling = Spelling(ctx, [ctx.item, Scope(ctx.out, lambda x: True)], "diagonals")
        spelling.expect(found.values())
        for n, (x, known) in enumerate(found.items()):
            text, kind = spelling.vector(known), spelling.kind(known)
            size = SIZES.get(kind, ctx.size)
            place = ctx.allocate(f"g{n}", vectors * width * 8)
            ctx.out.line(f"store({place} + x * {width * size}, {text})")
            texts[x] = f"load({spelling.lane_type(known)}, {place} + (x * {width} - jj + {keys - 1}) * {size})"
    return texts


def _outermost(graphs: Iterable[Node], rows: Mapping[str, Node]) -> dict[Node, Node]:
    """The largest parts of the graphs that depend on i - j alone, b and h aside, each with its rows written out."""
    found: dict[Node, Node] = {}
    seen: set[Node] = set()
    stack = list(graphs)
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        known = _written_out(x, rows)
        if {"i", "j"} <= x.axes and known is not None and _Invariance().holds(known):
            found[x] = known
        else:
            stack += x.operands
    return found


def _written_out(x: Node, rows: Mapping[str, Node]) -> Node | None:
    """The graph over indices, tables and scalars; None where it reads what the tile has computed."""
    values = [y for y in topological([x]) if y.op == "value"]
    if any(y["name"] not in rows for y in values):
        return None
    (known,) = substitute([x], {y: rows[y["name"]] for y in values})
    plain = all(
        y.op in ("const", "scalar", "extent", "index")
        or OPS[y.op].elementwise
        or (y.op == "gather" and not y["features"])
        for y in topological([known])
    )
    return known if plain else None


class _Invariance:
    """What stays as it is where i and j both grow by one."""

    def __init__(self) -> None:
        self.known: dict[Node, bool] = {}

    def holds(self, x: Node) -> bool:
        if x not in self.known:
            slope = _slope(x)
            self.known[x] = (
                not x.axes & {"i", "j"}
                or (slope is not None and sum(slope) == 0)
                or (x.op in COMPARISONS and self._compares(x))
                or (bool(x.operands) and all(map(self.holds, x.operands)))
            )
        return self.known[x]

    @staticmethod
    def _compares(x: Node) -> bool:
        slope = _slope(node("sub", *x.operands)) if all(y.dtype == "int" for y in x.operands) else None
        return slope is not None and sum(slope) == 0


def _slope(x: Node) -> Slope | None:
    """Of an integer that is affine in i and j; None where it is not known to be."""
    if x.dtype != "int":
        return None
    if not x.axes & {"i", "j"}:
        return 0, 0
    if x.op == "index":
        return (1, 0) if x["name"] == "i" else (0, 1)
    if x.op not in ("add", "sub", "neg"):
        return None
    parts = [_slope(y) for y in x.operands]
    if any(part is None for part in parts):
        return None
    signs = {"add": (1, 1), "sub": (1, -1), "neg": (-1,)}[x.op]
    total = [sum(sign * part[n] for sign, part in zip(signs, parts, strict=True) if part is not None) for n in range(2)]
    return total[0], total[1]
