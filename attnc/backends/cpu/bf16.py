"""Scores of bfloat16 vectors as sums of products of pairs: twice as many products in an instruction, and nothing is widened.

A pair of neighbouring features is one 32-bit number, so that queries are packed and keys are read as if they were float32 vectors of
half the length. The sums are float32. Weights times values stay float32: weights are not rounded to bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnc.backends.cpu.context import Types
from attnc.ir.graph import topological
from attnc.schedule.schedule import Schedule
from attnc.tile.program import Dot, DotAcc, Load, Program, graphs


def paired(program: Program, schedule: Schedule, types: Types, features: Mapping[str, int]) -> frozenset[str]:
    """The loads of vectors that are left in pairs: of roles, and read by nothing but scores of two such loads."""
    if not schedule.bf16 or types.roles != "bfloat16":
        return frozenset()
    statements = list(program.statements())
    found = {
        s.name for s in statements if isinstance(s, Load) and s.graph.op == "role" and features[s.feature] % 2 == 0
    }
    found -= {s.values for s in statements if isinstance(s, DotAcc)}
    found -= {x["name"] for s in statements for x in topological(graphs(s)) if x.op == "value"}
    dots = [s for s in statements if isinstance(s, Dot)]
    while spoiled := {x for s in dots if len({s.rows, s.keys} & found) == 1 for x in (s.rows, s.keys)} & found:
        found -= spoiled
    return frozenset(found)
