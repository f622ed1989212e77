"""What a kernel spends on finding its tiles, and on partial ones: the kernel of a variant is emitted anew with a part changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnc import call
from attnc.backends.arguments import layout
from attnc.backends.cpu.emit import emit
from attnc.backends.cpu.kernel import build
from attnc.backends.launch import is_small
from attnc.compile import Problem, lower
from attnc.dsl.trace import trace
from attnc.interp import Array
from attnc.ir.graph import const, node
from attnc.prepared import Prepared
from attnc.runtime.arrays import ITEMSIZE
from attnc.runtime.binding import Bound, bind
from attnc.runtime.cache import Cache
from attnc.schedule.choose import choose
from attnc.schedule.cpu_form import PLAIN, Can
from attnc.tile.lower import row
from attnc.tile.program import Keys, Program, SetRow, State, Statement, Step, Store
from attnc.variant import Attention
from attnc.warm import Ready

CLASSES = ("full", "partial")


@dataclass(frozen=True, slots=True)
class Changed:
    """A variant's kernel with a changed tile program, for the inputs of one call. Calling it runs it: arrays (B,H,L[,F])."""

    prepared: Prepared
    ready: Ready
    bound: Bound

    def __call__(self) -> list[Array]:
        return call.run(self.prepared, self.ready, self.bound, self.bound.inputs.q, None).arrays


def changed(
    variant: Attention, inputs: tuple[Any, Any, Any], operands: dict[str, Any], change: Callable[[Program], Program]
) -> Changed:
    """The kernel that a call of the variant would run, but of the program `change` makes of its program."""
    bound = bind(variant.signature, *inputs, operands)
    graph = trace(
        variant.function, variant.signature, kinds=bound.kinds, constants=bound.constants, absent=bound.absent
    )
    program = change(lower(graph))
    # a call makes one array for each output of the graph
    graph = replace(graph, outputs=tuple([s.graph for s in program.steps if isinstance(s, Store)]))
    dtypes = {name: x.dtype.name for name, x in bound.inputs.operands.items() if isinstance(x, np.ndarray)}
    block = layout(program)
    problem = Problem(bound.dtype, bound.features, dtypes, small=is_small(block, bound.inputs))
    schedule = choose(problem.target, ITEMSIZE[problem.compute], problem.features)
    title = f"{graph.name}, changed by {change.__name__}"
    source, room = emit(program, block, schedule, problem.types(block), problem.features, title)
    kernel = build(source, block, room, Cache())
    return Changed(Prepared(graph, False, block, Can(), program), Ready(kernel, schedule, PLAIN), bound)


def counting(program: Program) -> Program:
    """The analysis alone: the same loops over tiles, the same tests, but the body of a tile only counts it.

    Outputs (B,H,Lq), two for each sweep: how many full and how many partial tiles the row of tiles has. The time is a little
    more than that of the analysis, by the counting (a few additions a tile) and by storing the counts.
    """
    steps: list[Step] = []
    stores: list[Step] = []
    for keys in program.sweeps:
        names = {name: f"{name}{keys.number}" for name in CLASSES}
        states = tuple([State(name, 0.0, "float") for name in names.values()])
        full, partial = (_count(names[name], getattr(keys, name)) for name in CLASSES)
        steps.append(replace(keys, states=states, full=full, partial=partial))
        stores += [Store(len(stores) + n, None, row(name)) for n, name in enumerate(names.values())]
    return Program(program.name, (*steps, *stores))


def _count(state: str, body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    return (SetRow(state, node("add", row(state), const(1.0))),) if body else ()


def all_partial(program: Program) -> Program:
    """No tile is full: the mask is evaluated on every pair of every tile that is visited."""
    steps = [
        replace(x, certain=const(False), full=()) if isinstance(x, Keys) and x.partial else x for x in program.steps
    ]
    return replace(program, steps=tuple(steps))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of a call that are visited, over all heads and sweeps. shape: (queries, keys) of a tile."""

    full: int
    partial: int
    shape: tuple[int, int]

    @property
    def visited(self) -> int:
        """Of both classes."""
        return self.full + self.partial

    @property
    def pairs(self) -> int:
        """In them."""
        return self.visited * self.shape[0] * self.shape[1]


def count(analysis: Changed) -> Tiles:
    """The tiles, of a kernel changed by `counting`."""
    schedule = analysis.ready.schedule
    assert schedule is not None
    sums = [round(float(x[..., :: schedule.rows].sum(dtype=np.float64))) for x in analysis()]
    return Tiles(sum(sums[::2]), sum(sums[1::2]), (schedule.rows, schedule.keys))
