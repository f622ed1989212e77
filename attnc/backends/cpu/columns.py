"""Emission of what depends on the key alone: computed once per tile with keys in the lanes, not again by every block of queries."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.backends.cpu.context import Context
from attnc.backends.cpu.leaves import Spelling
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, topological
from attnc.ir.ops import OPS

WORTH_A_COLUMN = 4  # what a load and a store cost, in additions
CHEAP = "neg abs sign add sub mul minimum maximum lt le eq ne and or xor not shl shr where cast"
COST = dict.fromkeys(CHEAP.split(), 1) | {"gather": 2}
DEAR = 8


def columns(ctx: Context, graphs: Iterable[Node]) -> dict[Node, str]:
    """Prints the loop over the keys of the tile j0 .. j0 + nj - 1; for each node computed there the text that reads it."""
    found = [x for x in _outermost(ctx, graphs) if _work(x) >= WORTH_A_COLUMN]
    texts: dict[Node, str] = {}
    if not found:
        return texts
    width, size = ctx.schedule.width, ctx.size
    with ctx.out.block(f"for x in range((nj + {width - 1}) // {width}):"):
        ctx.out.line(f"o = x * {width * size}")
        spelling = Spelling(ctx, [ctx.item, Scope(ctx.out, lambda x: True)], "keys")
        spelling.expect(found)
        for n, x in enumerate(found):
            text, kind = spelling.vector(x), spelling.kind(x)
            place = ctx.allocate(f"c{n}", -(-ctx.schedule.keys // width) * width * 8)
            ctx.out.line(f"store({place} + {ctx.offset(kind)}, {text})")
            texts[x] = {
                "float": f"load(T, {place} + jj * {size})", "int": f"load(int64, {place} + jj * 8)",
                "int32": f"load_as(int64, {place} + jj * 4, AS_int32)", "bool": f"load(boolean, {place} + jj)",
            }[kind]  # fmt: skip
    return texts


def _outermost(ctx: Context, graphs: Iterable[Node]) -> list[Node]:
    """The largest parts of the graphs that depend on the key alone, and on nothing that this tile has computed."""
    found: dict[Node, None] = {}
    stack, seen = list(graphs), set[Node]()
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if x.axes <= {"b", "h", "j"} and "j" in x.axes and not ctx.by_row(x) and all(map(_plain, topological([x]))):
            found[x] = None
        else:
            stack += x.operands
    return list(found)


def _plain(x: Node) -> bool:
    return (
        x.op in ("const", "scalar", "extent", "index")
        or OPS[x.op].elementwise
        or (x.op == "gather" and not x["features"])
    )


def _work(x: Node) -> int:
    """What x costs per key, about, in additions."""
    return sum(COST.get(y.op, DEAR) for y in topological([x]) if "j" in y.axes and y.op != "index")
