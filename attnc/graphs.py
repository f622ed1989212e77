"""The graphs of a variant: the function traced once for all calls that it does not tell apart, and their indices checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnc.dsl.signature import Signature
from attnc.dsl.trace import trace
from attnc.errors import TraceError
from attnc.interp import parts
from attnc.ir.graph import Graph
from attnc.runtime.binding import Bound

CHECKED = 1024  # calls whose table indices are remembered to be in range


class Graphs:
    """rewrite: what is done to each graph that is traced."""

    def __init__(self, function: Callable[..., Any], declared: Signature, rewrite: Callable[[Graph], Graph]) -> None:
        self.function, self.declared, self.rewrite = function, declared, rewrite
        self._graphs: dict[tuple[Any, ...], Graph] = {}
        self._in_range: set[tuple[Any, ...]] = set()

    def plain(self) -> Graph:
        """Traced without inputs: operands at their defaults, optional ones absent, tensor kinds guessed."""
        operands = self.declared.operands.values()
        absent = frozenset(o.name for o in operands if o.default is None)
        missing = [o.name for o in operands if o.role == "const" and o.required]
        if missing:
            raise TraceError(
                f"the graph depends on the constant {missing[0]!r}",
                cause="it has no default",
                cure="give it a default, or look at show('graph', Q, K, V, ...)",
            )
        constants = {o.name: o.default for o in operands if o.role == "const" and o.name not in absent}
        return trace(self.function, self.declared, kinds={}, constants=constants, absent=absent)

    def of(self, bound: Bound) -> Graph:
        """Of a call. Refuses table indices that are proved out of range, once per specialisation, extents and scalars."""
        key = bound.specialisation
        if key not in self._graphs:
            graph = trace(
                self.function, self.declared, kinds=bound.kinds, constants=bound.constants, absent=bound.absent
            )
            self._graphs[key] = self.rewrite(graph)
        graph = self._graphs[key]
        if bound.inputs.operands:
            self._check_ranges(graph, bound)
        return graph

    def _check_ranges(self, graph: Graph, bound: Bound) -> None:
        operands, extents = bound.inputs.operands, bound.inputs.extents
        shapes, scalars = parts(operands)
        if not shapes:  # no tables
            return
        key = (bound.specialisation, *extents.values(), *shapes.values(), *scalars.values())
        if key not in self._in_range:
            from attnc.passes.check_ranges import check_ranges

            check_ranges(graph, extents, shapes, scalars)
            if len(self._in_range) >= CHECKED:
                self._in_range.clear()
            self._in_range.add(key)
