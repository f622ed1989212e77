"""The user's object: a variant that can be traced, evaluated by the reference, and looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from attnc.dsl.opaque import here
from attnc.dsl.signature import signature
from attnc.dsl.trace import trace
from attnc.errors import OutputError, TraceError
from attnc.interp import interpret
from attnc.ir.graph import Graph, node
from attnc.runtime.binding import Bound, bind


class Attention:
    """One attention variant. Call methods with Q (B,Hq,Lq,D), K (B,Hkv,Lk,D), V (B,Hkv,Lk,Dv) and the operands by name."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.signature = signature(function)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "attention")
        self._graphs: dict[tuple[Any, ...], Graph] = {}

    def __repr__(self) -> str:
        return f"<attention {self.__name__}({', '.join(self.signature.roles)})>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the variant. The compiled kernel is not part of this version: `reference` evaluates the formula."""
        from attnc.dsl.expr import Expr

        if any(isinstance(x, Expr) for x in args):
            raise TraceError(
                "recursion in the variant" if args else "a variant inside a variant",
                where=here(),
                cause=f"{self.__name__} is called with traced values",
                cure="call plain Python helper functions inside a variant; a variant itself takes arrays",
            )
        from attnc.errors import UnsupportedError

        raise UnsupportedError(
            f"{self.__name__} has no kernel yet",
            cause="this version evaluates variants by the interpreter only",
            cure="call .reference(Q, K, V)",
        )

    @property
    def graph(self) -> Graph:
        """The graph traced without inputs: operands at their defaults, optional ones absent, tensor kinds guessed."""
        operands = self.signature.operands.values()
        absent = frozenset(o.name for o in operands if o.default is None)
        missing = [o.name for o in operands if o.role == "const" and o.required]
        if missing:
            raise TraceError(
                f"the graph depends on the constant {missing[0]!r}",
                cause="it has no default",
                cure="pass it: variant.trace(Q, K, V, ...)",
            )
        constants = {o.name: o.default for o in operands if o.role == "const" and o.name not in absent}
        return trace(self.function, self.signature, kinds={}, constants=constants, absent=absent)

    def _trace(self, bound: Bound) -> Graph:
        key = bound.specialisation
        if key not in self._graphs:
            self._graphs[key] = trace(
                self.function, self.signature, kinds=bound.kinds, constants=bound.constants, absent=bound.absent
            )
        return self._graphs[key]

    def reference(
        self, q: Any, k: Any, v: Any, *, return_lse: bool = False, layout: str = "bhld", **operands: Any
    ) -> Any:
        """Evaluate the formula densely in float64 with NumPy: the definition of what is right.

        Returns float64 arrays shaped like the variant's output, and with `return_lse` the lse (B,Hq,Lq), natural log.
        """
        bound = bind(self.signature, q, k, v, operands, layout)
        graph = self._trace(bound)
        results = interpret(with_lse(graph) if return_lse else graph, bound.inputs)
        outputs = [restore(x, bound) for x in results]
        if return_lse:
            head: Any = tuple(outputs[:-1]) if graph.tuple_output else outputs[0]
            return head, outputs[-1]
        return tuple(outputs) if graph.tuple_output else outputs[0]


def with_lse(graph: Graph) -> Graph:
    """The graph with the lse of its one softmax as a further output."""
    nodes = [x for x in graph.nodes() if x.op == "softmax"]
    if len(nodes) != 1:
        raise OutputError(
            f"return_lse of {graph.name}",
            cause=f"it has {len(nodes)} softmaxes; the lse is the log of one softmax's denominator",
            cure="use return_lse with exactly one softmax",
        )
    (softmax,) = nodes
    lse = node("lse", *softmax.operands, loc=softmax.loc, **dict(softmax.attrs))
    return replace(graph, outputs=(*graph.outputs, lse))


def restore(x: np.ndarray[Any, Any], bound: Bound) -> np.ndarray[Any, Any]:
    """(B,H,L[,F]) back to the rank and layout of the call."""
    if bound.layout == "blhd" and x.ndim == 4:
        x = x.transpose(0, 2, 1, 3)
    drop = 4 - bound.rank
    return x.reshape(x.shape[drop:])


def attention(function: Callable[..., Any]) -> Attention:
    """Make a variant of a function that states its formula (docs/language.md)."""
    return Attention(function)


def from_flex(score_mod: Callable[..., Any] | None = None, mask_mod: Callable[..., Any] | None = None) -> Attention:
    """A variant from FlexAttention's functions, written with operators and at.*.

    score_mod(score, b, h, q_idx, kv_idx) -> score; mask_mod(b, h, q_idx, kv_idx) -> bool. Scores are scaled by 1/sqrt(D).
    """
    from attnc.dsl import functions as f

    def flex(q, k, v, b, h, i, j):  # type: ignore[no-untyped-def]
        score = f.dot(q, k) * f.rsqrt(f.size(q))
        if score_mod is not None:
            score = score_mod(score, b, h, i, j)
        mask = None if mask_mod is None else mask_mod(b, h, i, j)
        return f.softmax(score, where=mask) @ v

    return Attention(flex)
