"""Whether a clause can hold somewhere in a tile: its literals narrow i, j and i - j, and the rest is judged on what is left.

Constraints on i, j and i - j alone are solved exactly (integer difference bounds). What else is known of one sum of atoms is
intersected. So a tile is called possible only where the literals together allow it, as far as intervals can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from attnc.ir.graph import Node, const, node
from attnc.passes.bound.affine import Form, Magnitudes, is_uniform, plus, total
from attnc.passes.bound.box import TRUE, ZERO, Box, I, Interval, J, Rules, both, either, negated
from attnc.passes.bound.clauses import Clause, Linear, Truth
from attnc.passes.bound.limits import Group, Key, normal
from attnc.passes.bound.logic import sides
from attnc.passes.fold import op


@dataclass(frozen=True, slots=True)
class Solution:
    """`holds`: a scalar graph. The clause holds for no keys but `first` to `last`, graphs over i0 and i1; where `exact`, for a
    query of the tile and every one of these."""

    holds: Node
    first: Node
    last: Node
    exact: bool


END = op("sub", node("extent", name="kv_len"), const(1))


def solve(clause: Clause, rules: Rules, magnitudes: Magnitudes) -> Solution:
    """Whether the clause can hold in a tile."""
    return _Solver(clause, rules, magnitudes).run()


class _Solver:
    def __init__(self, clause: Clause, rules: Rules, magnitudes: Magnitudes) -> None:
        self.clause, self.rules, self.magnitudes = clause, rules, magnitudes
        self.box = Box(rules, magnitudes)
        self.uniform: list[Node] = []  # conditions of the work item
        self.holds: list[Node] = []
        self.groups: dict[Key, Group] = {}
        self.others: list[Linear | Truth] = []

    def run(self) -> Solution:
        for literal in self.clause:
            self.sort(literal)
        singles = [(name, self.groups.pop(((x, 1),), None)) for name, x in (("i", I), ("j", J))]
        for name, single in singles:
            if single is not None:
                self.narrow(name, single)
        pair = self.groups.pop(((I, 1), (J, -1)), None)
        if pair is not None:
            self.relate(pair)
        first, last = self.project(pair, singles[0][1], singles[1][1])
        alone = not self.groups and not self.others
        if not alone:
            self.box.i, self.box.j = _differ(self.box, self.box.i, self.box.j, self.box.least, self.box.most)
        for group in sorted(self.groups.values(), key=lambda g: len(g.form)):
            self.judge(group)
        for literal in self.others:
            self.holds.append(self.other(literal))
        holds = reduce(both, [*self.uniform, *self.holds], TRUE)
        modest = self.box.modest()
        if modest == TRUE:
            return Solution(holds, first, last, alone)
        return Solution(either(holds, negated(modest)), ZERO, END, False)

    def sort(self, literal: Linear | Truth) -> None:
        """Put a literal where it is dealt with."""
        if isinstance(literal, Truth):
            if is_uniform(literal.x):
                self.uniform.append(literal.x if literal.positive else negated(literal.x))
            else:
                self.others.append(literal)
            return
        if not self.assume(literal):
            return  # the arithmetic may overflow: nothing is known
        direct = self.box.direct(*literal.sides)
        atoms = literal.atoms
        outer: Form = {x: n for x, n in literal.form.items() if x not in atoms}
        leaves = [x for x in outer if x is not None and x in direct and abs(outer[x]) == 1]
        apart = not atoms or len(leaves) > 1 or any(x in direct for x in atoms) or literal.rel == "ne"
        if apart or self.is_mod(literal) or (leaves and abs(normal(atoms)[1]) > 1):
            self.others.append(literal)
            return
        self.constrain(atoms, outer, leaves[0] if leaves else None, literal.rel)
        self.derive(literal, atoms, outer, leaves)

    def assume(self, literal: Linear) -> bool:
        """Note the guesses of both sides."""
        a, b = map(self.box.assume, literal.sides)
        return a and b

    def constrain(self, atoms: dict[Node, int], outer: Form, leaf: Node | None, rel: str) -> None:
        """Add `atoms + outer rel 0`, with rel le or eq, to the group of these atoms."""
        key, scale = normal(atoms)
        self.groups.setdefault(key, Group(dict(key))).add(scale, outer, leaf, rel)

    def derive(self, literal: Linear, atoms: dict[Node, int], outer: Form, leaves: list[Node]) -> None:
        """x // c <= t says x <= t * c + c - 1 of an index, and t <= x // c says t * c <= x."""
        if len(atoms) != 1 or leaves:
            return
        ((atom, n),) = atoms.items()
        if atom.op != "floordiv" or abs(n) != 1 or not is_uniform(atom.operands[1]):
            return
        inner, divisor = self.box.affine(atom.operands[0]), atom.operands[1]
        indices = [x for x in inner if x is not None and not is_uniform(x)]
        if len(indices) != 1 or indices[0] not in (I, J) or inner[indices[0]] != 1:
            return
        if divisor.op != "const" or not 0 < divisor["value"] < 2**20 or not self.is_near(outer):
            return
        size = int(divisor["value"])
        rest = plus(inner, {indices[0]: 1}, -1)
        limit = op("mul", total(plus({}, outer, -n)), divisor)  # atom rel limit / size
        if n > 0 or literal.rel == "eq":
            upper = plus({limit: -1, None: -(size - 1)}, rest)
            self.constrain({indices[0]: 1}, upper, None, "le")
        if n < 0 or literal.rel == "eq":
            self.constrain({indices[0]: -1}, plus({limit: 1}, rest, -1), None, "le")

    def is_near(self, form: Form) -> bool:
        """Whether a sum can be multiplied by less than 2**20 and does not overflow."""
        sizes = (abs(n) * (1 if x is None else max(map(abs, self.magnitudes.range(x)))) for x, n in form.items())
        return sum(sizes) < 2**39

    def narrow(self, name: str, group: Group) -> None:
        """Cut the range of an index by what is said of it alone."""
        box, old = self.box, getattr(self.box, name)
        self.holds += group.meets(box.affine(old.low), box.affine(old.high))
        setattr(box, name, group.within(old))

    def relate(self, group: Group) -> None:
        """What is said of i - j."""
        box = self.box
        self.holds += group.meets(*map(box.affine, box.gap()))
        box.least, box.most = group.least(), group.most()

    def project(self, pair: Group | None, i: Group | None, j: Group | None) -> tuple[Node, Node]:
        """First and last key for which some query of the tile satisfies the clause; last is -1 where none does."""
        box = self.box
        keys = (j or Group({})).within(Interval(ZERO, END))
        first, last = keys.low, keys.high
        if box.most is not None:
            first = op("maximum", first, _sum(box, box.i.low, box.most, -1))
        if box.least is not None:
            last = op("minimum", last, _sum(box, box.i.high, box.least, -1))
        conditions = [*self.uniform, *(pair.apart() if pair is not None else ())]
        if i is not None:
            conditions.append(op("le", box.i.low, box.i.high))
        for c in dict.fromkeys(conditions):
            last = op("where", c, last, const(-1))
        return first, last

    def judge(self, group: Group) -> None:
        """Compare what is said of a sum of atoms with its interval, and narrow an atom, or both of a difference, by it."""
        box = self.box
        found = box.sum(group.form)
        if found is None:
            self.holds += group.apart()
            return
        self.holds += group.meets(box.affine(found.low), box.affine(found.high))
        atoms = [x for x in group.form if x is not None]
        if len(atoms) == 1:
            box.narrow(atoms[0], group.within(found))
        elif len(atoms) == 2 and group.form == {atoms[0]: 1, atoms[1]: -1}:
            a, b = map(box.interval, atoms)
            if a is not None and b is not None:
                least, most = group.least(), group.most()
                for x, y in zip(atoms, _differ(box, a, b, least, most), strict=True):
                    box.narrow(x, y)

    def other(self, literal: Linear | Truth) -> Node:
        """A literal on the narrowed box."""
        if isinstance(literal, Truth):
            found = self.box.interval(literal.x)
            if found is None:
                return TRUE
            return found.high if literal.positive else negated(found.low)
        if self.is_mod(literal) and (exact := self.remainder(literal)) is not None:
            return exact
        ends = self.box.sides(literal.form, self.box.direct(*literal.sides))
        return TRUE if ends is None else sides(literal.rel, *ends).high

    @staticmethod
    def is_mod(literal: Linear) -> bool:
        """x % c == r with c and r of the work item."""
        atoms = literal.atoms
        if len(atoms) != 1 or literal.rel != "eq":
            return False
        ((x, n),) = atoms.items()
        return x.op == "mod" and abs(n) == 1 and is_uniform(x.operands[1])

    def remainder(self, literal: Linear) -> Node | None:
        """Some x in [low, high] has x % c == r where the last number up to high that has is not below low."""
        ((atom, n),) = literal.atoms.items()
        divisor = atom.operands[1]
        x = self.box.sum(self.box.affine(atom.operands[0]))
        if x is None:
            return None
        rest = total(plus({}, {y: m for y, m in literal.terms if y != atom}, -n))
        below = op("floordiv", op("sub", x.high, rest), divisor)
        reached = op("le", x.low, op("add", op("mul", below, divisor), rest))
        inside = both(op("le", ZERO, rest), op("lt", rest, divisor))
        return either(both(inside, reached), op("le", divisor, ZERO))


def _differ(box: Box, a: Interval, b: Interval, least: Node | None, most: Node | None) -> tuple[Interval, Interval]:
    """What is left of a and b where least <= a - b <= most."""
    low, high, first, last = a.low, a.high, b.low, b.high
    if least is not None:
        low, last = op("maximum", low, _sum(box, b.low, least)), op("minimum", last, _sum(box, a.high, least, -1))
    if most is not None:
        high, first = op("minimum", high, _sum(box, b.high, most)), op("maximum", first, _sum(box, a.low, most, -1))
    return Interval(low, high), Interval(first, last)


def _sum(box: Box, a: Node, b: Node, sign: int = 1) -> Node:
    return total(plus(box.affine(a), box.affine(b), sign))
