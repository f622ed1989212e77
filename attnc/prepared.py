"""A traced variant and what its kernels are made from, as far as the cache does not know them already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnc import warm
from attnc.backends.block import Layout
from attnc.ir.graph import Graph
from attnc.schedule.cpu_form import Can, CpuForm
from attnc.warm import Ready

if TYPE_CHECKING:
    from attnc.compile import Problem
    from attnc.tile.program import Program


@dataclass(slots=True)
class Prepared:
    """A traced variant: what is the same for every dtype and head dim. It is lowered when the cache knows too little of it."""

    graph: Graph
    lse: bool
    layout: Layout
    can: Can
    lowered: Program | None = None

    @property
    def program(self) -> Program:
        """The tile program."""
        from attnc.compile import lower

        if self.lowered is None:
            self.lowered = lower(self.graph)
        return self.lowered

    def kernel(self, call: tuple[object, ...], form: CpuForm, problem: Callable[[], Problem]) -> Ready:
        """The kernel for calls of a kind, which `call` and `form` identify: the one that the cache knows, else compiled."""
        found = warm.kernel(self.graph, call, self.layout, form)
        if found is None:
            from attnc.compile import compile

            done = compile(self.graph, problem(), program=self.program)
            assert done.kernel is not None and done.schedule is not None
            found = warm.Ready(done.kernel, done.schedule, done.form)
            warm.note_kernel(self.graph, call, found)
        return found


def prepare(graph: Graph, lse: bool) -> Prepared:
    """A graph, whose last output is the lse or is not: lowered, where the cache does not know it. It does from then on."""
    if (found := warm.block(graph)) is not None:
        return Prepared(graph, lse, *found)
    from attnc.backends.arguments import layout
    from attnc.compile import abilities, lower

    program = lower(graph)
    made = Prepared(graph, lse, layout(program), abilities(program), program)
    warm.note_block(graph, made.layout, made.can)
    return made
