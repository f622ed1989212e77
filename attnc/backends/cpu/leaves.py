"""How the CPU backend spells ops and leaves, with queries, keys or features in the lanes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from attnc.backends import extremes
from attnc.backends.cpu import items
from attnc.backends.cpu.context import LANES, SCALARS, Context
from attnc.backends.leaves import RULES, literal, vector_axes
from attnc.backends.spelling import Scope, Speller
from attnc.ir.graph import Node, node, topological
from attnc.passes.expand import feature_axes
from attnc.runtime.arrays import ITEMSIZE

LANE_AXES = {"queries": {"i"}, "keys": {"j"}, "diagonals": {"i", "j"}}
DIVISIONS = ("floordiv", "mod")
WORTH_A_BRANCH = 6  # operations on lanes that it saves


def cast(x: Node, operand: str) -> str:
    """A conversion between kinds."""
    if x.dtype == "float":
        return f"cast_float(F, {operand})"
    return f"cast_int({operand})" if x.dtype == "int" else f"ne({operand}, 0)"


def split(x: Node, by_row: Callable[[Node], bool]) -> tuple[Node | None, Node]:
    """A conjunction or disjunction as what the key alone decides, if anything, and the rest, which varies over the rows."""
    parts = [x]
    while any(y.op == x.op for y in parts):
        parts = [z for y in parts for z in (y.operands if y.op == x.op else (y,))]
    keys = [y for y in parts if not by_row(y)]
    rest = [y for y in parts if by_row(y)]
    joined = [functools.reduce(functools.partial(node, x.op), side) if side else None for side in (keys, rest)]
    assert joined[1] is not None
    return joined[0], joined[1]


def work(x: Node) -> int:
    """Operations on lanes that x takes, about."""
    lanes = (y for y in topological([x]) if "i" in y.axes and y.operands)
    return sum({"floordiv": 4, "mod": 4, "gather": 16}.get(y.op, 1) for y in lanes)


class Spelling(Speller):
    """Spells graphs in a loop nest of the kernel. `lanes`: 'queries', 'keys', 'diagonals' or 'features'.

    columns: texts of what has been computed for each key, or for each diagonal, before.
    """

    def __init__(self, ctx: Context, scopes: list[Scope], lanes: str = "queries", first: str | None = None) -> None:
        super().__init__(scopes, RULES, self._leaf, ctx.names)
        self.ctx, self.lanes, self.first = ctx, lanes, first
        self.columns: Mapping[Node, str] = {}
        self._narrow: dict[Node, bool] = {}

    def spell(self, x: Node, user: Scope | None = None) -> str:
        """The text of x: computed for the key or the diagonal before, hidden by what the key decides, or spelled here."""
        if x in self.columns:
            return self._column(x)
        if x.op in ("and", "or") and self.lanes == "queries" and {"i", "j"} <= x.axes and x not in self.scope(x).names:
            keys, rest = split(x, self.ctx.by_row)
            if keys and work(rest) >= WORTH_A_BRANCH:
                return self._decided(x, keys, rest)
        return super().spell(x, user)

    def _column(self, x: Node) -> str:
        scope = self.scopes[-1]
        if x in scope.names:
            return scope.names[x]
        return self.columns[x] if self.uses.get(x, 0) < 2 else self.name(x, self.columns[x], scope, "c")

    def _decided(self, x: Node, keys: Node, rest: Node) -> str:
        """A mask that some keys decide alone: for those, nothing is computed on lanes."""
        scope = self.scope(x)
        decided = self.spell(keys, scope)
        name = self.name(x, f"splat(B, {x.op == 'or'})", scope, "mask")
        with scope.out.block(f"if {decided if x.op == 'and' else f'not_({decided})'}:"):
            inside = Scope(scope.out, scope.holds)
            inside.names = dict(scope.names)
            branch = Spelling(self.ctx, [*self.scopes[:-1], inside])
            branch.columns, branch.uses = self.columns, self.uses
            scope.out.line(f"{name} = {branch.spell(rest)}")
        return name

    def combine(self, x: Node, operands: list[str]) -> str:
        """The text of an op; a choice between two scalars per lane is one between SIMD values."""
        if self.lanes == "features" or not self.is_vector(x):
            return super().combine(x, operands)
        operands = self._aligned(x, operands)
        if x.op == "where" and not any(map(self.is_vector, x.operands[1:])):
            operands = [operands[0], f"splat({LANES[self.kind(x)]}, {operands[1]})", operands[2]]
        if self._short_division(x):
            return f"{x.op}_short({operands[0]}, {operands[1]})"
        return super().combine(x, operands)

    def _aligned(self, x: Node, operands: list[str]) -> list[str]:
        """Spelled operands, integers of 32 bits made wider where they meet what 32 bits do not hold."""
        numbers = [(n, y) for n, y in enumerate(x.operands) if y.dtype == "int"]
        lanes = [n for n, y in numbers if self.is_vector(y)]
        if not lanes or self.kind(x) == "int32" or any(self.kind(x.operands[n]) == "int" for n in lanes):
            return operands
        first = lanes[0]
        loose = [n for n, y in numbers if n not in lanes and not self.ctx.ranges.fits(y)]
        aligned = list(operands)
        if x.dtype == "int" or (loose and not self.ctx.ranges.inside(x.operands[first])):
            aligned[first] = f"resize(I, {operands[first]})"
        else:
            for n in loose:
                aligned[n] = f"saturate({operands[n]})"
        return aligned

    def _short_division(self, x: Node) -> bool:
        if x.op not in DIVISIONS or x.dtype != "int" or self.is_vector(x.operands[1]):
            return False
        small = map(self.ctx.ranges.short, x.operands if x.op == "mod" else x.operands[:1])
        return self.kind(x) == "int32" and all(small)

    def kind(self, x: Node) -> str:
        """float, int or bool; int32 where x is a SIMD value of such integers."""
        return "int32" if x.dtype == "int" and self.is_vector(x) and self._is_narrow(x) else x.dtype

    def _is_narrow(self, x: Node) -> bool:
        """Whether 32 bits hold the lanes of x, and all that they are computed from."""
        if x not in self._narrow:
            self._narrow[x] = self.lanes != "features" and self.ctx.ranges.fits(x) and self._from_narrow(x)
        return self._narrow[x]

    def _from_narrow(self, x: Node) -> bool:
        if x.op == "gather":
            return True
        sources = x.operands[:1] if x.op in DIVISIONS and not self.is_vector(x.operands[1]) else x.operands
        return all(
            self._is_narrow(y) if self.is_vector(y) else self.ctx.ranges.fits(y) for y in sources if y.dtype == "int"
        )

    def vector(self, x: Node, kind: str | None = None) -> str:
        """x as a SIMD value, whatever it depends on; of another kind of integers where one is asked for."""
        text = self.spell(x)
        if not self.is_vector(x):
            text = f"splat({LANES[x.dtype]}, {text})"
        if kind in (None, self.kind(x)):
            return text
        if kind == "int32" and not self.ctx.ranges.fits(x):
            text = f"saturate({text})"
        return f"resize({LANES[kind]}, {text})"

    def lane_type(self, x: Node) -> str:
        """The SIMD type of the vector x."""
        return LANES[self.kind(x)]

    def is_vector(self, x: Node) -> bool:
        """Whether the text of x is a SIMD value."""
        if self.lanes == "features":
            return bool(feature_axes(x))
        return self.ctx.by_row(x) if self.lanes == "queries" else bool(x.axes & LANE_AXES[self.lanes])

    def _leaf(self, x: Node, scope: Scope, operands: list[str]) -> str:
        ctx = self.ctx
        match x.op:
            case "const":
                return literal(x)
            case "scalar":
                return ctx.scalar(x["name"], x.dtype)
            case "extent":
                name = x["name"]
                return str(ctx.features[name]) if name in ctx.features else ctx.word(name)
            case "cast":
                return f"resize(J, {operands[0]})" if self.kind(x) == "int32" else cast(x, operands[0])
            case "index":
                return self._index(x, scope)
            case "gather":
                return self._gather(x, operands)
            case "extreme":
                return extremes.spell(ctx, x, operands)
            case _:
                return self._value(x, scope)

    def _index(self, x: Node, scope: Scope) -> str:
        name: str = x["name"]
        if not self.is_vector(x):
            assert name != "i", f"query indices among {self.lanes}"
            return name
        kind, width, last = LANES[self.kind(x)], self.ctx.schedule.width, self.ctx.schedule.keys - 1
        if self.ctx.form.share and name != "j":
            text = f"load(I, {items.index(self.ctx, name)} + x * {width * 8})"
            return self.name(x, f"resize(J, {text})" if kind == "J" else text, scope, name)
        text = f"iota({kind}, {name}0 + x * {width})"
        if self.lanes == "diagonals":  # along the tile's last key to its first query, then along the queries
            numbers = f"iota({kind}, x * {width} - {last})"
            text = f"add(maximum({numbers}, 0), i0)" if name == "i" else f"sub(j0, minimum({numbers}, 0))"
        if name == "j":  # the lanes after the last key read what it reads
            text = f"minimum({text}, j0 + nj - 1)"
        return self.name(x, text, scope, name)

    def _value(self, x: Node, scope: Scope) -> str:
        name = x["name"]
        if not x.axes:  # a corner of the tile
            return str(name)
        text = self._load(x)
        return self.name(x, text, scope, name)

    def _load(self, x: Node) -> str:
        ctx, name, kind = self.ctx, x["name"], x.dtype
        features = feature_axes(x)
        if "j" in x.axes and "i" in x.axes:
            if kind == "int":
                return f"load(I, {ctx.places[name]} + jj * {ctx.schedule.rows * 8} + {ctx.offset(kind)})"
            return f"load(F, {ctx.places[name]} + jj * {ctx.pitch} + o)"
        if features and "j" in x.axes:
            place = ctx.vectors[name]
            address = f"{place.base} + jj * {place.pitch} + f * {ctx.size}"
            if self.lanes == "queries":
                return f"load(T, {address})"
            if self.first is not None and not place.padded:
                return f"load_first(F, {address}, {self.first}, AS_{ctx.types.compute})"
            return f"load(F, {address})"
        if features:
            return f"load(F, {ctx.places[name]} + f * {ctx.pitch} + o)"
        if "j" in x.axes:
            return f"load({SCALARS[kind]}, {ctx.places[name]} + jj * 8)"
        held = self.kind(x)
        return f"load({LANES[held]}, {ctx.places[name]} + {ctx.offset(held)})"

    def place(self, x: Node, operands: list[str]) -> str:
        """Element number that a gather reads, its indices clamped."""
        ctx, name = self.ctx, x["name"]
        terms: list[str] = []
        for n, (operand, text) in enumerate(zip(x.operands, operands, strict=True)):
            inside = operand.op == "index" and operand["name"] == x["dims"][n] and operand["name"] != "i"
            if self.kind(operand) == "int32":
                text = f"resize(I, {text})"
            if not inside:
                text = f"minimum(maximum({text}, 0), {ctx.word(f't_{name}_n{n}')} - 1)"
            if self.is_vector(operand):
                terms.append(f"mul({text}, {ctx.word(f't_{name}_s{n}')})")
            else:
                terms.append(f"{text} * {ctx.word(f't_{name}_s{n}')}")
        return self._total(terms)

    @staticmethod
    def _total(terms: list[str]) -> str:
        total = terms[0] if terms else "0"
        for t in terms[1:]:
            total = f"add({total}, {t})"
        return total

    def _gather(self, x: Node, operands: list[str]) -> str:
        ctx, name, kind = self.ctx, x["name"], x.dtype
        stored = f"AS_{ctx.types.tables[name]}"
        base = ctx.word(f"t_{name}_p")
        place = self.place(x, operands)
        features = vector_axes(x)
        if features:
            stride = ctx.word(f"t_{name}_s{len(operands)}")
            if self.lanes == "features":
                size = ITEMSIZE[ctx.types.tables[name]]
                address = f"{base} + ({place} + f * {stride}) * {size}"
                return (
                    f"load_first(F, {address}, {self.first}, {stored})"
                    if self.first
                    else f"load_as(F, {address}, {stored})"
                )
            place = f"add({place}, f * {stride})"
        token = "J" if self.kind(x) == "int32" else SCALARS[kind]
        return f"gather({token}, {base}, {place}, {stored})"
