"""Maxima and minima over the keys of mixed values: max_j F(g_j, r) = F(max_j g_j, r) where F rises in g, min_j g where it falls."""

from __future__ import annotations

from attnc.ir.graph import Node, const, node
from attnc.passes.separate import separate
from attnc.passes.signs import nonnegative
from attnc.passes.term import (
    MINUS,
    ZERO,
    Inseparable,
    Term,
    Unknown,
    expanded,
    factors,
    mixed,
    op,
    parted,
    plain,
    reads,
)

RISING = ("exp", "exp2", "tanh", "erf", "sigmoid", "sign", "floor")
DOMAIN = ("log", "log2", "log1p", "sqrt")  # rising where they are no NaN
OTHER = {"max": "min", "min": "max"}
NOTHING = {"max": MINUS, "min": const(float("inf"))}
COMBINE = {"max": "maximum", "min": "minimum"}


def extreme(x: Node, unknown: Unknown) -> Node:
    """A float maximum or minimum over j as a row value whose reductions read nothing unknown. Raises Inseparable."""
    how, body = x["how"], x.operands[0]
    found = _Descent(unknown, None).extreme(body, how)
    some = op("lt", const(0), node("extent", name="kv_len"))  # over no keys it is no F of anything
    return op("where", some, found, NOTHING[how])


class _Descent:
    """mask: keys outside of it do not count."""

    def __init__(self, unknown: Unknown, mask: Node | None) -> None:
        self.unknown, self.mask = unknown, mask

    def extreme(self, x: Node, how: str) -> Node:
        """The maximum or minimum of x, which is no NaN unless x is."""
        if "j" not in x.axes:
            return x
        if not reads(x, self.unknown):
            return self._reduce(x, how)
        if x.op == "where":
            return self._where(x, how)
        try:
            terms = [plain(t) for t in separate(x, self.unknown)]
        except Inseparable:
            terms = []
        if terms and (parts := parted(terms, self.unknown)) is not None:
            known, row = parts
            return op("add", self.extreme(known, how), row)
        if len(terms) == 1:
            (t,) = terms
            known = expanded(Term(e=t.e, k=t.k))
            return self._scaled("mul", known, expanded(Term(d=t.d, u=t.u)), how)
        return self._by_op(x, how)

    def _reduce(self, x: Node, how: str) -> Node:
        if x.op in ("exp", "exp2"):  # a maximum of powers would overflow
            return op(x.op, self._reduce(x.operands[0], how))
        if self.mask is not None:
            x = op("where", self.mask, x, NOTHING[how])
        return node("reduce", x, how=how, axis="j", loc=x.loc)

    def _by_op(self, x: Node, how: str) -> Node:
        ops = x.operands
        inner = [n for n, y in enumerate(ops) if "j" in y.axes]
        if x.op in RISING:
            return op(x.op, self.extreme(ops[0], how))
        if x.op in DOMAIN:
            if not nonnegative(ops[0]):
                raise Inseparable("SIGN", ops[0])
            return op(x.op, self.extreme(ops[0], how))
        if x.op == "neg":
            return op("neg", self.extreme(ops[0], OTHER[how]))
        if x.op in ("maximum", "minimum") and (x.op == COMBINE[how] or len(inner) == 1):
            return op(x.op, *(self.extreme(y, how) for y in ops))
        if x.op in ("add", "sub") and len(inner) == 1:
            sides = (how, how if x.op == "add" else OTHER[how])
            return op(x.op, *(self.extreme(y, side) for y, side in zip(ops, sides, strict=True)))
        if (x.op == "mul" and len(inner) == 1) or (x.op == "div" and inner == [0]):
            row = ops[1 - inner[0]]
            return self._scaled(x.op, ops[inner[0]], row, how)
        same = factors(x)
        if len(same) % 2 and len(same) > 1 and len(set(same)) == 1:
            return self._chain(self.extreme(same[0], how), len(same))
        raise Inseparable("MONO", x)

    def _scaled(self, name: str, x: Node, row: Node, how: str) -> Node:
        """x times (or by) a row value: its sign, where it is unknown, is known at the end."""
        up = op(name, self.extreme(x, how), row)
        if nonnegative(row):
            return up
        return op("where", op("le", ZERO, row), up, op(name, self.extreme(x, OTHER[how]), row))

    def _chain(self, x: Node, count: int) -> Node:
        result = x
        for _ in range(count - 1):
            result = op("mul", result, x)
        return result

    def _where(self, x: Node, how: str) -> Node:
        """Both branches, each over its own keys; no key of a branch: it says nothing."""
        condition, yes, no = x.operands
        if mixed(condition, self.unknown):
            raise Inseparable("THRESHOLD", condition)
        if "j" not in condition.axes:
            return op("where", condition, self.extreme(yes, how), self.extreme(no, how))
        found = [
            self._branch(y, c, how) for y, c in ((yes, condition), (no, op("not", condition))) if y != NOTHING[how]
        ]
        return found[0] if len(found) == 1 else op(COMBINE[how], *found)

    def _branch(self, x: Node, mask: Node, how: str) -> Node:
        mask = mask if self.mask is None else op("and", self.mask, mask)
        inner = _Descent(self.unknown, mask)
        some = node("reduce", op("where", mask, const(1.0), ZERO), how="max", axis="j")
        return op("where", op("lt", ZERO, some), inner.extreme(x, how), NOTHING[how])
