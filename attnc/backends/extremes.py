"""Emission of questions to summaries of tables: the least or greatest entry of a box (`attnc.extreme`), for both backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from attnc.backends.printer import Printer
from attnc.backends.spelling import Names
from attnc.extreme import SHORT_SIDE
from attnc.ir.graph import Node

HOW = {"min": "least", "max": "greatest"}


@dataclass(frozen=True, slots=True)
class Search:
    """A table that is searched along an axis. `table`: the variable that says where; `number`: int (and bool) or float."""

    table: str
    number: str
    name: str
    axis: int
    rank: int


class Emitter(Protocol):
    """What the questions need of a kernel under construction."""

    top: Printer
    names: Names
    searches: dict[tuple[str, int], Search]

    def word(self, name: str) -> str: ...
    def reader(self, search: Search) -> str:
        """The arguments that say how an entry is read."""
        ...


def spell(ctx: Emitter, x: Node, operands: list[str]) -> str:
    """The text of an `extreme` whose operands are spelled."""
    name, axis = x["name"], x["axis"]
    search = _search(ctx, x)
    place, row = "0", "0"
    side = ""
    for n in range(len(x["dims"])):
        if n == axis:
            continue
        step, rows, entries = ctx.word(f"t_{name}_s{n}"), _rows(ctx, search, n), ctx.word(f"t_{name}_n{n}")
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
    text = f"{function}({ctx.reader(search)}, {search.table}, {place}, {row}, {side}{low}, {high})"
    return f"lt(0, {text})" if x.dtype == "bool" else text


def _known(index: Node, axis: str) -> tuple[bool, bool]:
    """Whether an index needs no clamp, and whether it is at least 0."""
    own = index.op == "index" and index["name"] == axis
    return own, own or (index.op == "const" and index["value"] >= 0)


def _plus(a: str, b: str) -> str:
    return b if a == "0" else f"{a} + {b}"


def _search(ctx: Emitter, x: Node) -> Search:
    """How this table is searched along this axis; the first time it is named."""
    name, axis = x["name"], x["axis"]
    if (name, axis) not in ctx.searches:
        table = ctx.names.fresh(f"{name}_{x['dims'][axis]}")
        number = "float" if x.dtype == "float" else "int"
        search = ctx.searches[name, axis] = Search(table, number, name, axis, len(x["dims"]))
        ctx.top.line(f"{table} = {entries_of(ctx, search)}")
    return ctx.searches[name, axis]


def entries_of(ctx: Emitter, search: Search) -> str:
    """Address, elements from entry to entry, entries, address of the summary."""
    return ", ".join(
        ctx.word(f"t_{search.name}_{part}") for part in ("p", f"s{search.axis}", f"n{search.axis}", f"sum{search.axis}")
    )


def _rows(ctx: Emitter, search: Search, n: int) -> str:
    """Rows of the summary from an index of axis n to the next."""
    others = range(n + 1, search.rank)
    return " * ".join(ctx.word(f"t_{search.name}_n{m}") for m in others if m != search.axis) or "1"


def begin_of(ctx: Emitter, search: Search) -> tuple[str, str]:
    """Where a row of a table begins, and its number, from the indices n0, n1 ... of its other axes."""
    place, row = "0", "0"
    for n in others(search):
        rows = _rows(ctx, search, n)
        place = _plus(place, f"n{n} * {ctx.word(f't_{search.name}_s{n}')}")
        row = _plus(row, f"n{n} * {rows}" if rows != "1" else f"n{n}")
    return place, row


def others(search: Search) -> list[int]:
    """The axes that are not searched."""
    return [n for n in range(search.rank) if n != search.axis]
