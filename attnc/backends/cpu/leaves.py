"""How the CPU backend spells ops and leaves, with queries in the lanes or with features in the lanes."""

from __future__ import annotations

from attnc.backends.cpu.context import LANES, SCALARS, SIZE, Context
from attnc.backends.spelling import Scope, Speller
from attnc.errors import UnsupportedError
from attnc.ir.graph import Node
from attnc.passes.expand import feature_axes

LOG2E = 1.4426950408889634
_UNARY = "exp exp2 log log2 log1p tanh sigmoid erf sqrt rsqrt sin cos floor weight neg abs sign"
_BINARY = "add sub mul div pow floordiv mod minimum maximum lt le eq ne xor shl shr"
RULES: dict[str, str] = {
    **{name: f"{name}({{0}})" for name in _UNARY.split()},
    **{name: f"{name}({{0}}, {{1}})" for name in _BINARY.split()},
    "and": "and_({0}, {1})", "or": "or_({0}, {1})", "not": "not_({0})", "where": "where({0}, {1}, {2})",
}  # fmt: skip


def literal(x: Node) -> str:
    """A constant as Python source."""
    value = x["value"]
    if x.dtype != "float":
        return str(value) if value != -(2**63) else "INT_MIN"
    return {"inf": "INF", "-inf": "-INF", "nan": "NAN"}.get(repr(value), repr(value))


def cast(x: Node, operand: str) -> str:
    """A conversion between kinds."""
    if x.dtype == "float":
        return f"cast_float(F, {operand})"
    return f"cast_int({operand})" if x.dtype == "int" else f"ne({operand}, 0)"


class Spelling(Speller):
    """Spells graphs in a loop nest of the kernel. `lanes`: 'queries' or 'features'."""

    def __init__(self, ctx: Context, scopes: list[Scope], lanes: str = "queries", first: str | None = None) -> None:
        super().__init__(scopes, RULES, self._leaf, ctx.names)
        self.ctx, self.lanes, self.first = ctx, lanes, first

    def spell(self, x: Node) -> str:
        """The text of x; the weight of a difference with the running maximum, never above 0, takes a shorter power."""
        if x.op == "weight" and x.operands[0].op == "sub" and x not in self.scope(x).names:
            return f"exp2_weight(mul({self.spell(x.operands[0])}, {LOG2E}))"
        return super().spell(x)

    def combine(self, x: Node, operands: list[str]) -> str:
        """The text of an op; a choice between two scalars per lane is one between SIMD values."""
        if x.op == "where" and self.is_vector(x) and not any(map(self.is_vector, x.operands[1:])):
            operands = [operands[0], f"splat({LANES[x.dtype]}, {operands[1]})", operands[2]]
        return super().combine(x, operands)

    def vector(self, x: Node) -> str:
        """x as a SIMD value, whatever it depends on."""
        text = self.spell(x)
        return text if self.is_vector(x) else f"splat({LANES[x.dtype]}, {text})"

    def is_vector(self, x: Node) -> bool:
        """Whether the text of x is a SIMD value."""
        return "i" in x.axes if self.lanes == "queries" else bool(feature_axes(x))

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
                return cast(x, operands[0])
            case "index":
                return self._index(x, scope)
            case "gather":
                return self._gather(x, operands)
            case _:
                return self._value(x, scope)

    def _index(self, x: Node, scope: Scope) -> str:
        name: str = x["name"]
        if name != "i":
            return name
        if self.lanes != "queries":
            raise AssertionError("query indices among features")
        return self.name(x, f"iota(I, i0 + x * {self.ctx.schedule.width})", scope, "i")

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
        return f"load({LANES[kind]}, {ctx.places[name]} + {ctx.offset(kind)})"

    def place(self, x: Node, operands: list[str]) -> str:
        """Element number that a gather reads, its indices clamped."""
        ctx, name = self.ctx, x["name"]
        terms: list[str] = []
        for n, (operand, text) in enumerate(zip(x.operands, operands, strict=True)):
            inside = operand.op == "index" and operand["name"] == x["dims"][n] and operand["name"] != "i"
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
        features = x["features"]
        if len(features) > 1:
            raise UnsupportedError(
                f"{name} as a matrix outside of @",
                where=x.loc,
                cause=f"it keeps the axes {features}",
                cure="contract it with x @ W, or index it",
            )
        if features:
            stride = ctx.word(f"t_{name}_s{len(operands)}")
            if self.lanes == "features":
                size = SIZE[ctx.types.tables[name]]
                address = f"{base} + ({place} + f * {stride}) * {size}"
                return (
                    f"load_first(F, {address}, {self.first}, {stored})"
                    if self.first
                    else f"load_as(F, {address}, {stored})"
                )
            place = f"add({place}, f * {stride})"
        token = SCALARS[kind]
        return f"gather({token}, {base}, {place}, {stored})"
