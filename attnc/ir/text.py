"""Printed forms: one-line expressions, numbered listings."""

from __future__ import annotations

from attnc.ir.graph import Graph, Node, topological

_INFIX = {
    "add": ("+", 5), "sub": ("-", 5), "mul": ("*", 6), "div": ("/", 6), "floordiv": ("//", 6), "mod": ("%", 6),
    "shl": ("<<", 4), "shr": (">>", 4), "and": ("&", 3), "xor": ("^", 2), "or": ("|", 1), "pow": ("**", 8),
    "lt": ("<", 0), "le": ("<=", 0), "eq": ("==", 0), "ne": ("!=", 0),
}  # fmt: skip
_PREFIX = {"neg": "-", "not": "~"}
LONGEST = 300  # nodes of a written expression
BRIEF = 20  # in a sentence
_LEAVES = ("role", "index", "scalar", "extent", "value")


def label(x: Node) -> str:
    """The operation without its operands."""
    if x.op == "const":
        return repr(x["value"])
    if x.op in _LEAVES:
        return str(x["name"])
    if x.op == "gather":
        return str(x["name"])
    if x.op == "extreme":
        return f"{x['how']} {x['name']}"
    if x.op == "cast":
        return str(x["kind"])
    if x.op == "reduce":
        return f"{x['how']}[{x['axis']}]"
    if x.op == "dot":
        return f"dot[{x['axis']}]"
    return f"project[{x['contract']}->{x['result']}]" if x.op == "project" else x.op


def expression(x: Node, level: int = 0, budget: int = LONGEST) -> str:
    """The expression as the user would write it; parts beyond `budget` nodes are `...` (as trees, graphs are exponential)."""
    if x.op == "const" or x.op in _LEAVES:
        return label(x)
    sizes = tree_sizes(x)
    return _expression(x, level, budget, sizes)


def tree_sizes(x: Node) -> dict[Node, int]:
    """How many nodes each node under x has when it is written out."""
    sizes: dict[Node, int] = {}
    for y in topological([x]):
        sizes[y] = 1 + sum(sizes[operand] for operand in y.operands)
    return sizes


def _expression(x: Node, level: int, budget: int, sizes: dict[Node, int]) -> str:
    if x.op == "const" or x.op in _LEAVES:
        return label(x)
    if budget < 2 and x.operands:
        return "..."
    share = budget - 1 if sizes[x] <= budget else (budget - 1) // max(len(x.operands), 1)

    def text(operand: Node, strength: int = 0) -> str:
        return _expression(operand, strength, share, sizes)

    if x.op in _INFIX:
        sign, strength = _INFIX[x.op]
        pair = f"{text(x.operands[0], strength)} {sign} {text(x.operands[1], strength + 1)}"
        return f"({pair})" if strength < level or (strength == 0 and level) else pair
    if x.op in _PREFIX:
        return f"{_PREFIX[x.op]}{text(x.operands[0], 7)}"
    if x.op == "gather":
        return f"{x['name']}[{', '.join(map(text, x.operands))}]" if x.operands else str(x["name"])
    if x.op == "extreme":
        ends = zip(x.operands[::2], x.operands[1::2], strict=True)
        return f"{label(x)}[{', '.join(text(a) if a == b else f'{text(a)}..{text(b)}' for a, b in ends)}]"
    if x.op == "attend":
        return f"({text(x.operands[0], 6)} @ {text(x.operands[1], 7)})"
    if x.op == "softmax":
        names = ["", *(["where="] if x["masked"] else []), *(["sink="] if x["sink"] else [])]
        return f"softmax({', '.join(n + text(o) for n, o in zip(names, x.operands, strict=True))})"
    return f"{label(x)}({', '.join(map(text, x.operands))})"


def listing(graph: Graph) -> str:
    """One line per node: `%3 = tanh(%2) : float[b h i j]`; constants and leaves stand in place."""
    names: dict[Node, str] = {}
    lines = [f"graph {graph.name}:"]
    for x in topological(graph.outputs):
        if x.op == "const" or x.op in _LEAVES:
            names[x] = label(x)
            continue
        names[x] = f"%{len(lines) - 1}"
        arguments = ", ".join(names[operand] for operand in x.operands)
        lines.append(f"  {names[x]} = {label(x)}({arguments}) : {x.dtype}[{' '.join(sorted(x.axes))}]")
    return "\n".join([*lines, f"  return {', '.join(names[x] for x in graph.outputs)}"])
