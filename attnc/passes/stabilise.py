"""Keep accumulators in range: row expressions on scaled numbers mantissa * exp(exponent), expanded last.

A sum of exp(e)*k is kept as (a, rho): its value is a * exp(rho), rho the running maximum of e (0 while nothing came). Products add
exponents, quotients subtract them, sums align them, a logarithm adds; so in sum(exp(s) v) / sum(exp(s)) the factor exp(rho) cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attnc.ir.graph import Node, const, node, rebuild, topological
from attnc.ir.ops import INDEX_AXES
from attnc.passes.base2 import LN2, MINUS, base2
from attnc.passes.canonicalise import is_const
from attnc.passes.moments import centre, together
from attnc.passes.moments import total as about_row
from attnc.passes.plan_sweeps import Accumulator, Piece, Plan
from attnc.passes.term import op, settled

ROW_AXES = ("b", "h", "i")
ZERO = const(0.0)


@dataclass(frozen=True, slots=True)
class Scaled:
    """mantissa * exp(exponent); exponent None is 0."""

    mantissa: Node
    exponent: Node | None = None


def value(name: str, axes: tuple[str, ...], kind: str = "float") -> Node:
    """A leaf that stands for a row, column or tile of a tile program."""
    return node("value", name=name, axes=axes, kind=kind)


class Stabiliser:
    """Rewrites row expressions over reductions into row expressions over accumulators."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.exponents: dict[Accumulator, str] = {}
        groups: dict[tuple[int, Node], str] = {}
        for number, sweep in enumerate(plan.sweeps):
            for a in sweep:
                if a.e is not None:
                    name = f"shift{len(groups) + 1}" if groups else "shift"
                    self.exponents[a] = groups.setdefault((number, a.e), name)
        # where sums of an exponent are taken its maximum stays as it is, and so do others that it may be compared with
        kept = any(a.moment is not None and a.moment.first is None for sweep in plan.sweeps for a in sweep)
        self.natural = frozenset(self.exponents.values()) if kept else frozenset()
        self._reads: dict[Node, bool] = {}
        self._scaled: dict[Node, Scaled] = {}

    def row(self, x: Node) -> Node:
        """x, free of j, as an expression over accumulators, exponents and leaves."""
        return expanded(self.scaled(x))

    def pair(self, x: Node) -> Node:
        """x, which varies over j, with the finished reductions in it as accumulators; powers are taken last."""
        return expanded(self.scaled(x)) if self._depends(x) else x

    def scaled(self, x: Node) -> Scaled:
        """x as a scaled number."""
        stack = [x]
        while stack:
            y = stack[-1]
            inside = self._below(y) if self._depends(y) and y not in self.plan.pieces else ()
            waiting = [o for o in inside if o not in self._scaled]
            if waiting:
                stack += waiting
                continue
            self._scaled[stack.pop()] = self._evaluate(y)
        return self._scaled[x]

    def _below(self, x: Node) -> tuple[Node, ...]:
        return (self.plan.forms[x],) if x in self.plan.forms else x.operands

    def accumulator(self, a: Accumulator) -> Scaled:
        """The leaf of an accumulator."""
        axes = (*ROW_AXES, *sorted(a.features))
        kind = "float" if a.how == "sum" or a.k is None else a.k.dtype
        if a.how == "sum" and a.k is not None and a.e is None:
            kind = a.k.dtype
        mantissa = value(a.name, axes, kind)
        return Scaled(mantissa, value(self.exponents[a], ROW_AXES) if a in self.exponents else None)

    def _evaluate(self, x: Node) -> Scaled:
        if x in self.plan.pieces:
            return self._reduction(x)
        if x in self.plan.forms:
            return self._scaled[self.plan.forms[x]]
        if not self._depends(x):  # a power that joins a sum (a sink) is aligned before it is taken
            return Scaled(const(1.0), x.operands[0]) if x.op == "exp" else Scaled(x)
        ops = [self._scaled[y] for y in x.operands]
        rule = getattr(self, f"_{x.op}", None)
        result: Scaled | None = rule(x, ops) if rule is not None else None
        return result or Scaled(rebuild(x, [expanded(y) for y in ops]))

    def _depends(self, x: Node) -> bool:
        if x not in self._reads:
            for y in topological([x]):
                made = y in self.plan.pieces or y in self.plan.forms
                self._reads[y] = made or any(self._reads[o] for o in y.operands)
        return self._reads[x]

    def _reduction(self, x: Node) -> Scaled:
        result: Scaled | None = None
        keys = node("extent", name="kv_len")
        pieces = self.plan.pieces[x]
        for piece in pieces:
            a = piece.accumulator
            if piece.power is not None:
                part = self._moment(piece)
            else:
                part = self.accumulator(a) if a is not None else Scaled(node("cast", keys, kind="float"))
            if piece.u is not None:
                part = _times(part, self.scaled(piece.u))
            if piece.d is not None:
                part = _times(part, Scaled(const(1.0), self.row(piece.d)))
            if piece.power is not None and piece.power.only is not None:
                part = Scaled(op("where", self.row(piece.power.only), part.mantissa, ZERO), part.exponent)
            result = part if result is None else self._plus(result, part)
        if result is None:
            return Scaled(const(0.0))
        if all(p.u is None or settled(p.u) for p in pieces):
            return result
        return Scaled(op("where", op("lt", const(0), keys), result.mantissa, const(0.0)), result.exponent)

    def _moment(self, piece: Piece) -> Scaled:
        """The sum of exp(e) weight (x + row)**n from the sums about a centre."""
        assert piece.accumulator is not None and piece.accumulator.moment is not None and piece.power is not None
        moment, last = piece.accumulator.moment, self.accumulator(piece.accumulator)
        sums = [*(self.accumulator(y).mantissa for y in moment.below), last.mantissa]
        row = self.row(piece.power.row)
        if moment.first is not None:
            c = centre(self.accumulator(moment.first).mantissa, sums[0])
        else:  # lse = m + log l: its difference to m is exact
            assert last.exponent is not None
            c = last.exponent
        return Scaled(about_row(sums, together(op("add", c, row)), row), last.exponent)

    def _mul(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        return self._relative(_times(*ops)) if x.dtype == "float" else None

    def _div(self, x: Node, ops: list[Scaled]) -> Scaled:
        a, b = ops
        return self._relative(Scaled(op("div", a.mantissa, b.mantissa), _difference(a.exponent, b.exponent)))

    def _relative(self, x: Scaled) -> Scaled:
        """An exponent less its running maximum, in base 2: of the same numbers, so that the difference is exact."""
        if x.exponent is None or x.exponent.op not in ("add", "sub"):
            return x
        e, less = x.exponent.operands
        shift = less if x.exponent.op == "sub" else less.operands[0] if less.op == "neg" else None
        names = {a.e: name for a, name in self.exponents.items()}
        if shift is None or shift.op != "value" or names.get(e) != shift["name"] or shift["name"] in self.natural:
            return x
        power, masked = base2(e)
        if masked > -math.inf:
            power = op("where", op("le", power, const(masked)), const(-math.inf), power)
        apart = op("sub", power, value(f"{shift['name']}_2", ROW_AXES))
        return Scaled(x.mantissa, op("mul", apart, const(LN2)))

    def _neg(self, x: Node, ops: list[Scaled]) -> Scaled:
        return Scaled(op("neg", ops[0].mantissa), ops[0].exponent)

    def _abs(self, x: Node, ops: list[Scaled]) -> Scaled:
        return Scaled(op("abs", ops[0].mantissa), ops[0].exponent)

    def _add(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        return self._plus(*ops) if x.dtype == "float" else None

    def _sub(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        return self._plus(ops[0], Scaled(op("neg", ops[1].mantissa), ops[1].exponent)) if x.dtype == "float" else None

    def _exp(self, x: Node, ops: list[Scaled]) -> Scaled:
        return Scaled(const(1.0), expanded(ops[0]))

    def _log(self, x: Node, ops: list[Scaled]) -> Scaled:
        mantissa, exponent = ops[0].mantissa, ops[0].exponent
        logarithm = op("log", mantissa)
        return Scaled(logarithm if exponent is None else op("add", exponent, logarithm))

    def _plus(self, a: Scaled, b: Scaled) -> Scaled:
        """Aligned at the larger exponent; a mantissa of 0 has no exponent to align to."""
        if a.exponent == b.exponent:
            return Scaled(op("add", a.mantissa, b.mantissa), a.exponent)
        features = {x for part in (a, b) for x in part.mantissa.axes} - set(INDEX_AXES)
        if features:  # one exponent per row, not one per feature: zero mantissas align where they are
            ea, eb = (part.exponent or ZERO for part in (a, b))
            top = op("maximum", *(e if self._is_finite(e) else op("where", _finite(e), e, MINUS) for e in (ea, eb)))
        else:
            ea, eb = (op("where", op("eq", part.mantissa, ZERO), MINUS, part.exponent or ZERO) for part in (a, b))
            top = op("maximum", ea, eb)
        top = op("where", op("eq", top, MINUS), ZERO, top)

        def moved(part: Scaled, e: Node) -> Node:
            power = op("exp", op("sub", e, top))
            if is_const(part.mantissa, 1.0):
                return power
            product = op("mul", part.mantissa, power)
            if not features or self._is_finite(e):
                return product
            return op("where", op("eq", part.mantissa, ZERO), ZERO, product)  # of a row without keys

        return Scaled(op("add", moved(a, ea), moved(b, eb)), top)

    def _eq(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        return self._with_zero(x, ops, "or", "eq")

    def _ne(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        return self._with_zero(x, ops, "and", "ne")

    def _lt(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        return self._with_zero(x, ops, "and", "ne")

    def _with_zero(self, x: Node, ops: list[Scaled], joint: str, compare: str) -> Scaled | None:
        """A comparison with 0 is one of the mantissa: exp of a finite exponent is above 0, even where it is rounded to 0."""
        if not any(is_const(y, 0.0) for y in x.operands):
            return None
        result = node(x.op, *(y.mantissa for y in ops))
        for y in ops:
            if y.exponent is not None and not self._is_finite(y.exponent):
                result = op(joint, result, node(compare, y.exponent, const(float("-inf"))))
        return Scaled(result)

    def _is_finite(self, exponent: Node) -> bool:
        """Whether it is made of the exponents of accumulators alone."""
        leaves = [y for y in topological([exponent]) if not y.operands]
        numbers = [y["value"] for y in leaves if y.op == "const"]
        names = [y["name"] if y.op == "value" else "" for y in leaves if y.op != "const"]
        return all(map(math.isfinite, numbers)) and set(names) <= set(self.exponents.values())

    def _where(self, x: Node, ops: list[Scaled]) -> Scaled | None:
        c, a, b = ops
        if a.exponent == b.exponent:
            exponent = a.exponent
        elif is_const(a.mantissa, 0.0):
            exponent = b.exponent
        elif is_const(b.mantissa, 0.0):
            exponent = a.exponent
        else:
            return None
        return Scaled(op("where", expanded(c), a.mantissa, b.mantissa), exponent)


def expanded(x: Scaled) -> Node:
    """The plain value; a mantissa of 0 stays 0 whatever the exponent."""
    if x.exponent is None:
        return x.mantissa
    power = op("exp", x.exponent)
    if is_const(x.mantissa, 1.0):
        return power
    return op("where", op("eq", x.mantissa, const(0.0)), const(0.0), op("mul", x.mantissa, power))


def _times(a: Scaled, b: Scaled) -> Scaled:
    if a.exponent is None or b.exponent is None:
        exponent = a.exponent if b.exponent is None else b.exponent
    else:
        exponent = _sum_of_exponents(a.exponent, b.exponent)
    return Scaled(op("mul", a.mantissa, b.mantissa), exponent)


def _sum_of_exponents(a: Node, b: Node) -> Node | None:
    for x, y in ((a, b), (b, a)):
        if x.op == "neg" and x.operands[0] == y:
            return None
        if x.op == "sub" and x.operands[1] == y:
            return x.operands[0]
    total = op("add", a, b)
    rest = together(total)  # m - (m + log l), of a normaliser that has been put into an exponent
    return rest if len(topological([rest])) < len(topological([total])) else total


def _difference(a: Node | None, b: Node | None) -> Node | None:
    if a == b or b is None:
        return None if a == b else a
    return op("neg", b) if a is None else _sum_of_exponents(a, op("neg", b))


def _finite(x: Node) -> Node:
    return op("lt", op("abs", x), const(math.inf))
