"""Emission of the summaries of tables: once per call, by worker -1, before the others start."""

from __future__ import annotations

from attnc.backends.cpu.context import Context
from attnc.backends.extremes import Search, begin_of, others
from attnc.backends.printer import Printer


def summarise(ctx: Context) -> Printer:
    """The part of the kernel that fills the summaries."""
    out = Printer()
    if not ctx.searches:
        return out
    with out.block("if worker < 0:  # before the others: the least and greatest entries of blocks of the tables"):
        for search in ctx.searches.values():
            _fill(ctx, out, search, others(search))
        out.line("return")
    return out


def _fill(ctx: Context, out: Printer, search: Search, axes: list[int]) -> None:
    """Loops over the axes that are not searched, then a row."""
    if axes:
        with out.block(f"for n{axes[0]} in range({ctx.word(f't_{search.name}_n{axes[0]}')}):"):
            _fill(ctx, out, search, axes[1:])
        return
    place, row = begin_of(ctx, search)
    out.line(f"summarise_{search.number}({ctx.reader(search)}, {search.table}, {place}, {row})")
