"""A variant for some of its queries: the same formula, told which rows these are of all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.dsl.signature import Operand, Signature
from attnc.ir.graph import Graph, Node, node, rewrite


@dataclass(frozen=True, slots=True)
class Rows:
    """Q holds rows from `first` on, of `total`: two operands more. `axis` is that of tables with an entry for each of all rows."""

    signature: Signature
    first: str
    total: str
    axis: str

    def graph(self, x: Graph) -> Graph:
        """The graph of the variant, where i counts all rows."""
        return replace(x, outputs=rewrite(x.outputs, self._node))

    def _node(self, x: Node) -> Node:
        if x.op == "index" and x["name"] == "i":
            return node("add", x, node("scalar", name=self.first, kind="int"), loc=x.loc)
        if x.op == "extent" and x["name"] == "q_len":
            return node("scalar", name=self.total, kind="int")
        if x.op == "gather" and "i" in x["dims"]:
            return node("gather", *x.operands, loc=x.loc, **{**dict(x.attrs), "dims": self._renamed(x["dims"])})
        return x

    def _renamed(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.axis if a == "i" else a for a in axes)


def of_rows(signature: Signature) -> Rows:
    """How a variant with this signature is called for some of its rows. One kernel serves every window."""
    operands = signature.operands
    taken = {*operands, *(axis for x in operands.values() for axis in x.axes)}
    first, total, axis = (_fresh(name, taken) for name in ("first_row", "all_rows", "row"))
    made = Rows(signature, first, total, axis)
    moved = {name: replace(x, axes=made._renamed(x.axes)) for name, x in operands.items()}
    added = {name: Operand(name, "scalar", "int", (), int, 0) for name in (first, total)}
    return replace(made, signature=Signature(signature.roles, moved | added))


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
