"""Emission of what reads summaries of tables: the least or greatest entry of a box, and the summaries, once per call."""

from __future__ import annotations

from attnc.backends.cpu.context import LANES, Context, Search
from attnc.backends.printer import Printer
from attnc.extreme import SHORT_SIDE
from attnc.ir.graph import Node

HOW = {"min": "least", "max": "greatest"}


def spell(ctx: Context, x: Node, operands: list[str]) -> str:
    """The text of an `extreme` whose operands are spelled."""
    name, axis = x["name"], x["axis"]
    search = _search(ctx, x)
    place, row = "0", "0"
    side = ""
    for n in range(len(x["dims"])):
        if n == axis:
            continue
        step, rows, entries = ctx.word(f"t_{name}_s{n}"), _rows(ctx, name, n, search), ctx.word(f"t_{name}_n{n}")
        low, high = operands[2 * n : 2 * n + 2]
        if x.operands[2 * n] != x.operands[2 * n + 1]:
            side = f"{step}, {rows}, {entries}, {SHORT_SIDE}, {low}, {high}, "
            continue
        inside, positive = _known(x.operands[2 * n], x["dims"][n])
        index = f"min({low if positive else f'max({low}, 0)'}, {entries} - 1)"
        place = _plus(place, f"{low if inside else index} * {step}")  # along one entry for all the step is 0
        row = _plus(row, f"{index} * {rows}" if rows != "1" else index)
    function = f"{HOW[x['how']]}_{search.number}{'_rows' if side else ''}"
    low, high = operands[2 * axis : 2 * axis + 2]
    kind, stored = LANES[search.number], f"AS_{ctx.types.tables[name]}"
    text = f"{function}({kind}, {stored}, {search.table}, {place}, {row}, {side}{low}, {high})"
    return f"lt(0, {text})" if x.dtype == "bool" else text


def _known(index: Node, axis: str) -> tuple[bool, bool]:
    """Whether an index needs no clamp, and whether it is at least 0."""
    own = index.op == "index" and index["name"] == axis
    return own, own or (index.op == "const" and index["value"] >= 0)


def _plus(a: str, b: str) -> str:
    return b if a == "0" else f"{a} + {b}"


def _search(ctx: Context, x: Node) -> Search:
    """How this table is searched along this axis; the first time it is named."""
    name, axis = x["name"], x["axis"]
    if (name, axis) not in ctx.searches:
        table = ctx.names.fresh(f"{name}_{x['dims'][axis]}")
        words = [ctx.word(f"t_{name}_{part}") for part in ("p", f"s{axis}", f"n{axis}", f"sum{axis}")]
        ctx.top.line(f"{table} = {', '.join(words)}")
        number = "float" if x.dtype == "float" else "int"
        ctx.searches[name, axis] = Search(table, number, name, axis, len(x["dims"]))
    return ctx.searches[name, axis]


def _rows(ctx: Context, name: str, n: int, search: Search) -> str:
    """Rows of the summary from an index of axis n to the next."""
    return " * ".join(ctx.word(f"t_{name}_n{m}") for m in range(n + 1, search.rank) if m != search.axis) or "1"


def summarise(ctx: Context) -> Printer:
    """The part of the kernel that fills the summaries: worker -1, before the others start."""
    out = Printer()
    if not ctx.searches:
        return out
    with out.block("if worker < 0:  # before the others: the least and greatest entries of blocks of the tables"):
        for search in ctx.searches.values():
            _fill(ctx, out, search)
        out.line("return")
    return out


def _fill(ctx: Context, out: Printer, search: Search) -> None:
    name, stored = search.name, f"AS_{ctx.types.tables[search.name]}"
    others = [n for n in range(search.rank) if n != search.axis]
    place, row = "0", "0"

    def nest(left: list[int]) -> None:
        if left:
            with out.block(f"for n{left[0]} in range({ctx.word(f't_{name}_n{left[0]}')}):"):
                nest(left[1:])
        else:
            out.line(f"summarise_{search.number}({LANES[search.number]}, {stored}, {search.table}, {place}, {row})")

    for n in others:
        rows = _rows(ctx, name, n, search)
        place = _plus(place, f"n{n} * {ctx.word(f't_{name}_s{n}')}")
        row = _plus(row, f"n{n} * {rows}" if rows != "1" else f"n{n}")
    nest(others)
