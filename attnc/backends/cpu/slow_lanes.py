"""What CPU kernels compute lane by lane in the C library, and when: the plan says it. Imports no Numba."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.ir.graph import Graph
from attnc.ir.text import BRIEF, expression
from attnc.schedule.target import Target

# A quotient from here on is no whole number of the type: `fmod` of the C library finds the remainder.
LONG_QUOTIENT = {32: 2.0**22, 64: 2.0**51}
SLOW_OPS = {"mod": "fmod", "floordiv": "fmod"}  # of floats


def slow_lanes(graph: Graph, bits: int, target: Target) -> Iterator[str]:
    """A note for each expression of the graph that may leave SIMD; bits: of the compute type."""
    if target == Target(16, 16):  # x86 before AVX2
        yield "this processor has no fused multiply-add: functions call the C library's fma for one lane after the other"
    limit = f"2**{int(LONG_QUOTIENT[bits]).bit_length() - 1}"
    for x in graph.nodes():
        if x.op in SLOW_OPS and x.dtype == "float":
            called = f"the C library's {SLOW_OPS[x.op]} is called for one lane after the other"
            yield f"{expression(x, budget=BRIEF)}: where a quotient of a vector reaches {limit}, {called}"
