"""The pipeline, one stage after the other: function -> graph -> plan -> tile program -> source -> kernel."""

from __future__ import annotations

from collections.abc import Callable

from attnc.ir.graph import Graph
from attnc.ir.verify import verify
from attnc.passes.canonicalise import canonicalise
from attnc.passes.expand import expand
from attnc.passes.fold import fold
from attnc.passes.plan_sweeps import Plan, plan_sweeps
from attnc.tile.lower import lower as lower_plan
from attnc.tile.program import Program

PASSES: tuple[Callable[[Graph], Graph], ...] = (canonicalise, fold, expand, canonicalise, fold)


def fuse(graph: Graph) -> Plan:
    """The graph simplified, and its reductions assigned to sweeps."""
    for step in PASSES:
        graph = verify(step(graph))
    return plan_sweeps(graph)


def lower(graph: Graph) -> Program:
    """The tile program of a graph."""
    return lower_plan(fuse(graph))
