"""Emission of the search for the next tile of keys: coarse to fine, one tile ahead of the work.

`cursor` is the tile that comes next; tiles before `approved` are to be visited, those behind it have not been looked at.
"""

from __future__ import annotations

from functools import partial

from attnc.backends import classes
from attnc.backends.cuda.context import Context
from attnc.backends.cuda.leaves import Spelling
from attnc.ir.graph import Node
from attnc.tile.program import Keys, Save


class Search:
    """Of one sweep. Tiles lie on a fixed grid."""

    def __init__(self, ctx: Context, keys: Keys) -> None:
        self.ctx, self.keys, self.size = ctx, keys, ctx.schedule.keys
        self.both = bool(keys.full and keys.partial)
        self.never = keys.run is None and keys.possible.op == "const" and not keys.possible["value"]
        self.parted = any(isinstance(s, Save) for s in ctx.program.steps)  # tiles of one part of the keys
        self.all = keys.run is not None or keys.possible.op == "const"

    def begin(self) -> None:
        """Where the search starts and stops."""
        ctx, out = self.ctx, self.ctx.out
        first, stop = classes.ends(ctx, self.keys.run or self.keys.hull, partial(Spelling, self.ctx))
        out.line(f"cursor, stop = {first if first == '0' else f'floordiv({first}, {self.size}) * {self.size}'}, {stop}")
        if self.never:
            out.line("stop = 0")
        elif first != "0":
            with out.block("if stop <= start:  # no keys at all"):
                out.line("stop = 0")
        if self.parted:
            out.line("cursor, stop = maximum(cursor, part * length), minimum(stop, (part + 1) * length)")
        if stop != "kv_len":  # whole tiles, so that what is asked of a span holds for all of its tiles
            out.line(f"stop = floordiv(stop + {self.size - 1}, {self.size}) * {self.size}")
        if not self.all:
            classes.widest(ctx, self.size, "length" if self.parted else "kv_len")
            out.line("approved, span = cursor, widest")
        if self.both:
            out.line("certain = False")

    def next(self) -> None:
        """Find the next tile; `more`: whether there is one."""
        out = self.ctx.out
        if not self.all:
            self._spans()
        elif self.both:
            out.line(f"j0, j1 = cursor, minimum(cursor + {self.size}, kv_len) - 1")
            self._ask({"certain": self.keys.certain})
        out.line("more = cursor < stop")

    def full(self) -> str:
        """Whether the tile at the cursor needs no mask at all."""
        whole = f"cursor + {self.size} <= kv_len"
        if not self.keys.full:
            return "False"
        return f"certain and {whole}" if self.keys.partial else whole

    def _ask(self, asked: dict[str, Node]) -> None:
        classes.ask(self.ctx, self.keys, asked, partial(Spelling, self.ctx))

    def _spans(self) -> None:
        """Blocks of 8^n tiles are skipped where they are empty, approved where they are full, else looked at in parts."""
        out, keys, size = self.ctx.out, self.keys, self.size
        with out.block("while cursor >= approved and cursor < stop:"):
            out.line("end = minimum(cursor + span, stop)")
            out.line("j0, j1 = cursor, minimum(end, kv_len) - 1")
            self._ask(classes.questions(keys))
            with out.block(f"if {classes.unsettled(keys)} and span > {size}:  # a block of tiles: look closer"):
                out.line(f"span = span // {classes.BLOCK}")
                out.line("continue")
            with out.block("if possible:"):
                out.line("approved = end")
            with out.block("else:"):
                out.line("cursor = end")
            out.line("j0 = end")
            with out.block(f"while span < widest and mod(j0, {classes.BLOCK} * span) == 0:"):
                out.line(f"span = span * {classes.BLOCK}")
