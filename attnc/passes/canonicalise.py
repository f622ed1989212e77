"""One spelling for each thing: identities removed, constants on the right, double negations gone."""

from __future__ import annotations

from dataclasses import replace

from attnc.ir.graph import Graph, Node, node, rewrite

_COMMUTATIVE = {"add", "mul", "minimum", "maximum", "and", "or", "xor", "eq", "ne"}
# x op c = x, exact for every x including NaN and -0.0 (x + 0.0 is not: -0.0 + 0.0 = 0.0)
_RIGHT_IDENTITY: dict[tuple[str, str], object] = {
    ("add", "int"): 0, ("sub", "int"): 0, ("mul", "int"): 1, ("floordiv", "int"): 1, ("shl", "int"): 0, ("shr", "int"): 0,
    ("mul", "float"): 1.0, ("div", "float"): 1.0, ("sub", "float"): 0.0, ("and", "bool"): True, ("or", "bool"): False,
    ("xor", "bool"): False, ("and", "int"): -1, ("or", "int"): 0, ("xor", "int"): 0,
}  # fmt: skip


def is_const(x: Node, value: object = None) -> bool:
    """Whether x is a constant (of that value, sign of zero included)."""
    if x.op != "const":
        return False
    return value is None or (repr(x["value"]) == repr(value))


def simplify(x: Node) -> Node:
    """One step of local, value-preserving simplification."""
    ops = x.operands
    if x.op in _COMMUTATIVE and is_const(ops[0]) and not is_const(ops[1]):
        x = node(x.op, ops[1], ops[0], loc=x.loc)
        ops = x.operands
    if len(ops) == 2 and is_const(ops[1]):
        identity = _RIGHT_IDENTITY.get((x.op, ops[0].dtype))
        if identity is not None and is_const(ops[1], identity):
            return ops[0]
        if x.op == "and" and is_const(ops[1], False):
            return ops[1]
        if x.op == "or" and is_const(ops[1], True):
            return ops[1]
        if x.op == "mul" and ops[1]["value"] == -1:
            return node("neg", ops[0], loc=x.loc)
    if x.op == "add" and ops[1].op == "neg":  # exact for floats too
        return node("sub", ops[0], ops[1].operands[0], loc=x.loc)
    if x.op == "add" and ops[0].op == "neg":
        return node("sub", ops[1], ops[0].operands[0], loc=x.loc)
    if x.op in ("and", "or") and ops[0] == ops[1]:
        return ops[0]
    if x.op == "where":
        if is_const(ops[0]):
            return ops[1] if ops[0]["value"] else ops[2]
        if ops[1] == ops[2]:
            return ops[1]
    if x.op in ("neg", "not") and ops[0].op == x.op:
        return ops[0].operands[0]
    if x.op == "cast" and ops[0].dtype == x.dtype:
        return ops[0]
    if x.op in ("softmax", "lse") and x["masked"] and is_const(ops[1], True):
        return node(x.op, ops[0], *ops[2:], loc=x.loc, masked=False, sink=x["sink"])
    return x


def canonicalise(graph: Graph) -> Graph:
    """Apply `simplify` everywhere, bottom up."""
    return replace(graph, outputs=rewrite(graph.outputs, simplify))
