"""What the random programs contained: programs per op, operand kind and number of sweeps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.fuzz.case import Case
from attnc.fuzz.scribe import FLOATS, INTEGERS
from attnc.ir.graph import Node, topological
from attnc.ir.ops import OPS
from attnc.tile.program import Keys, Program, graphs

_PAIR_AXES = [
    "".join(part)
    for part in itertools.product(("", "b"), ("", "h", "g"), ("", "i"), ("", "j"))
    if any(part)
]  # fmt: skip
OPERANDS = (
    "scalar float", "scalar int", "scalar bool",
    "const int", "const float", "const bool", "const str", "const tuple", "optional given", "optional absent",
    *(f"tensor {axes}" for axes in _PAIR_AXES), "tensor with an own axis", "nested gather", "tensor of extent 1",
    *(f"tensor of {dtype}" for dtype in ("bool", *INTEGERS, *FLOATS)),
    "vector d", "vector e", "vector r", "matrix dd", "matrix de", "matrix dr", "matrix ed", "matrix ee", "matrix er",
)  # fmt: skip
DEPTHS = ("1", "2", "3")


def program_nodes(program: Program) -> list[Node]:
    """Every node of every statement, and of the classes of tiles."""
    roots = [graph for s in program.statements() for graph in graphs(s)]
    roots += [x for step in program.steps if isinstance(step, Keys) for x in (step.possible, step.certain)]
    return topological(roots)


def ops_of(case: Case, program: Program) -> set[str]:
    """The ops of the graph and of the tile program that it became."""
    return {x.op for x in case.graph.nodes()} | {x.op for x in program_nodes(program)}


@dataclass(slots=True)
class Coverage:
    """Counts of programs."""

    programs: int = 0
    ops: Counter[str] = field(default_factory=Counter)
    operands: Counter[str] = field(default_factory=Counter)
    sweeps: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case, program: Program) -> None:
        """Count one program."""
        self.programs += 1
        self.ops.update(ops_of(case, program))
        self.operands.update(case.kinds)
        self.sweeps[str(len(program.sweeps))] += 1

    def rare(self, least: int) -> list[str]:
        """What fewer than `least` programs contained."""
        wanted = ((self.ops, OPS), (self.operands, OPERANDS), (self.sweeps, DEPTHS))
        return [name for counts, names in wanted for name in names if counts[name] < least]

    def __str__(self) -> str:
        parts = [
            *_table("programs per op", self.ops, OPS),
            *_table("programs per operand kind", self.operands, OPERANDS),
            *_table("programs per number of sweeps", self.sweeps, sorted({*DEPTHS, *self.sweeps})),
        ]
        return "\n".join(parts)


def _table(title: str, counts: Counter[str], names: Iterable[str], columns: int = 4) -> list[str]:
    cells = [f"{name:<24}{counts[name]:>5}" for name in names]
    height = -(-len(cells) // columns)
    rows = ["   ".join(cells[row::height]) for row in range(height)]
    return [title, *(f"  {row}".rstrip() for row in rows)]
