"""Immutable nodes whose hash is their structure, and the graph of a variant."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnc.errors import Location
from attnc.ir.ops import OPS, Kind

if TYPE_CHECKING:
    import networkx as nx


class IRError(AssertionError):
    """A malformed node: a bug of attnc, never of its user."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation with ordered operands. Two nodes are equal when their structure is; `loc` does not count."""

    op: str
    operands: tuple[Node, ...]
    attrs: tuple[tuple[str, Any], ...]
    axes: frozenset[str]
    dtype: Kind
    key: str
    loc: Location | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __getitem__(self, name: str) -> Any:
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(name)

    def __repr__(self) -> str:
        from attnc.ir.text import expression

        return expression(self)


def node(op: str, *operands: Node, loc: Location | None = None, **attrs: Any) -> Node:
    """Make a node: its kind and axes follow from the table of ops."""
    row = OPS.get(op)
    if row is None:
        raise IRError(f"no op {op!r}")
    if row.arity is not None and len(operands) != row.arity:
        raise IRError(f"{op} takes {row.arity} operands, got {len(operands)}")
    kind = row.kind([x.dtype for x in operands], attrs)
    if kind is None:
        raise IRError(f"{op} of kinds {[x.dtype for x in operands]}")
    axes = row.axes([x.axes for x in operands], attrs)
    items = tuple(sorted(attrs.items()))
    digest = hashlib.sha256(repr((op, items, [x.key for x in operands])).encode()).hexdigest()[:32]
    return Node(op, operands, items, axes, kind, digest, loc)


def const(value: bool | int | float, kind: Kind | None = None) -> Node:
    """A constant; its kind is that of the Python value unless given."""
    if kind is None:
        kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
    return node("const", value={"bool": bool, "int": int, "float": float}[kind](value), kind=kind)


@dataclass(frozen=True, slots=True)
class Graph:
    """The outputs of a variant and, through their operands, everything they depend on."""

    outputs: tuple[Node, ...]
    name: str = "attention"
    doc: str = ""
    tuple_output: bool = False

    @property
    def key(self) -> str:
        """The structural hash, 32 hex digits: equal graphs compile to one kernel."""
        return hashlib.sha256(repr([x.key for x in self.outputs]).encode()).hexdigest()[:32]

    def nodes(self) -> list[Node]:
        """All nodes, operands before users, in a fixed order."""
        return topological(self.outputs)

    def to_networkx(self) -> nx.MultiDiGraph:
        """A MultiDiGraph from operand to user; the edge key is the operand's position."""
        import networkx as nx

        graph = nx.MultiDiGraph(name=self.name)
        for x in self.nodes():
            graph.add_node(
                x, op=x.op, dtype=x.dtype, axes="".join(sorted(x.axes)), **{f"attr_{k}": v for k, v in x.attrs}
            )
            for position, operand in enumerate(x.operands):
                graph.add_edge(operand, x, key=position)
        return graph

    def to_dot(self) -> str:
        """Graphviz text of the graph."""
        from attnc.ir.text import label

        names = {x: f"n{index}" for index, x in enumerate(self.nodes())}
        lines = [f'digraph "{self.name}" {{', "  node [shape=box, fontname=monospace];"]
        for x, name in names.items():
            style = ", style=bold" if x in self.outputs else ""
            text = f"{label(x)}\\n{x.dtype}[{' '.join(sorted(x.axes))}]".replace('"', "'")
            lines.append(f'  {name} [label="{text}"{style}];')
            ordered = len(x.operands) > 1
            lines += [
                f"  {names[operand]} -> {name}" + (f' [label="{position}"];' if ordered else ";")
                for position, operand in enumerate(x.operands)
            ]
        return "\n".join([*lines, "}"])

    def __str__(self) -> str:
        from attnc.ir.text import listing

        return listing(self)


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node under `roots` once, operands first."""
    order: dict[str, Node] = {}  # by key: looking for a node calls its __hash__, and this is half of what passes do
    stack = list(roots)[::-1]
    while stack:
        x = stack[-1]
        if x.key in order:
            stack.pop()
            continue
        waiting = [operand for operand in x.operands[::-1] if operand.key not in order]
        if waiting:
            stack += waiting
        else:
            order[x.key] = x
            stack.pop()
    return list(order.values())


def walk(root: Node) -> Iterator[Node]:
    """Every node under `root` once, operands first."""
    return iter(topological([root]))


def rebuild(x: Node, operands: Iterable[Node]) -> Node:
    """The same operation on other operands."""
    operands = tuple(operands)
    return x if operands == x.operands else node(x.op, *operands, loc=x.loc, **dict(x.attrs))


def rewrite(roots: Iterable[Node], rule: Callable[[Node], Node]) -> tuple[Node, ...]:
    """Apply `rule` bottom-up to every node (its operands already rewritten)."""
    roots = tuple(roots)
    new: dict[Node, Node] = {}
    for x in topological(roots):
        new[x] = rule(rebuild(x, (new[operand] for operand in x.operands)))
    return tuple(new[x] for x in roots)


def substitute(roots: Iterable[Node], replacement: dict[Node, Node]) -> tuple[Node, ...]:
    """Replace nodes (looked up before their operands are rewritten); what is replaced is not entered."""
    roots = tuple(roots)
    done: dict[Node, Node] = dict(replacement)

    def visit(x: Node) -> Node:
        stack = [x]
        while stack:
            top = stack[-1]
            if top in done:
                stack.pop()
                continue
            waiting = [operand for operand in top.operands if operand not in done]
            if waiting:
                stack.extend(waiting)
                continue
            done[top] = rebuild(top, (done[operand] for operand in top.operands))
            stack.pop()
        return done[x]

    return tuple(visit(x) for x in roots)
