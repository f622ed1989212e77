"""Elementwise graphs as nested calls: each node is computed in the outermost scope that knows what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attnc.backends.printer import Printer
from attnc.ir.graph import Node, topological

LINE = 88  # a longer expression is cut by naming a part
READS = ("gather", "extreme")  # what reads memory is done once in its scope, even where several graphs share it
LEAVES = (*READS, "value", "index", "scalar", "extent", "const", "cast")


class Names:
    """Fresh identifiers."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem_2`, `stem_3` ..."""
        name, count = stem, 1
        while name in self.used:
            count += 1
            name = f"{stem}_{count}"
        self.used.add(name)
        return name


class Scope:
    """A place for lines, what has been computed there, and which nodes may be computed there."""

    def __init__(self, out: Printer, holds: Callable[[Node], bool]) -> None:
        self.out, self.holds = out, holds
        self.names: dict[Node, str] = {}


Leaf = Callable[[Node, Scope, list[str]], str]


class Speller:
    """Spells graphs over scopes from the outermost to the innermost.

    rules: op -> format over spelled operands. leaf: the spelling of leaves and gathers, which may print into the scope.
    """

    def __init__(self, scopes: list[Scope], rules: Mapping[str, str], leaf: Leaf, names: Names) -> None:
        self.scopes, self.rules, self.leaf, self.fresh = scopes, rules, leaf, names
        self.uses: dict[Node, int] = {}

    def expect(self, graphs: Iterable[Node]) -> None:
        """Announce graphs, so that what they share is named."""
        for x in topological(graphs):
            for operand in x.operands:
                self.uses[operand] = self.uses.get(operand, 0) + 1

    def scope(self, x: Node) -> Scope:
        """The outermost scope that can compute x."""
        return next(s for s in self.scopes if s.holds(x))

    def spell(self, x: Node, user: Scope | None = None) -> str:
        """The text of x, which a node that is computed in the scope `user` needs, or the innermost scope."""
        scope = self.scope(x)
        if x in scope.names:
            return scope.names[x]
        operands = [self.spell(operand, scope) for operand in x.operands]
        if x.op in LEAVES:
            text = self.leaf(x, scope, operands)
        else:
            text = self.combine(x, operands)
        if not x.operands and x.op != "gather":
            return text
        inline = scope is (user or self.scopes[-1]) and (scope is self.scopes[-1] or x.op not in READS)
        if inline and self.uses.get(x, 0) < 2 and len(text) < LINE:
            return text
        return self.name(x, text, scope)

    def combine(self, x: Node, operands: list[str]) -> str:
        """The text of an op on spelled operands."""
        return self.rules[x.op].format(*operands)

    def name(self, x: Node, text: str, scope: Scope, stem: str = "x") -> str:
        """Assign the text to a name in a scope."""
        name = scope.names[x] = self.fresh.fresh(stem)
        scope.out.line(f"{name} = {text}")
        return name
