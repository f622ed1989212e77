"""How the CUDA backend spells leaves: each thread computes on its own elements of the fragments of a tile."""

from __future__ import annotations

from attnc.backends import extremes
from attnc.backends.cuda import shared
from attnc.backends.cuda.context import LOADS, Context
from attnc.backends.leaves import RULES, literal, vector_axes
from attnc.backends.spelling import Scope, Speller
from attnc.ir.graph import Node
from attnc.passes.expand import feature_axes
from attnc.runtime.arrays import ITEMSIZE

LEAST = 2.0**-126  # a sum that is infinite stays so when it is scaled


def has_power(ctx: Context, x: Node) -> bool:
    """Whether x is a weight that the hardware's power of two gives."""
    return x.op == "weight" and ctx.types.tensor_cores


class Spelling(Speller):
    """Spells graphs in the loops over a thread's rows, keys and features. `feature`: the text of the feature's number.

    elements: texts of accumulators' and other values that lie in registers by feature.
    """

    def __init__(self, ctx: Context, scopes: list[Scope], feature: str = "") -> None:
        super().__init__(scopes, RULES, self._leaf, ctx.names)
        self.ctx, self.feature = ctx, feature
        self.elements: dict[str, str] = {}
        self._narrow: dict[Node, bool] = {}

    def combine(self, x: Node, operands: list[str]) -> str:
        """The text of an op: integers of 32 bits are made wider before they overflow; weights of 16-bit roles use the hardware's power."""
        if has_power(self.ctx, x):  # 2**(masked - r) is 0 by itself
            power = f"weight_fast({operands[0]}, {operands[1]})"
            return power if "j" in x.axes else f"maximum({power}, {LEAST})"
        if x.dtype == "int" and not self.narrow(x):
            numbers = [n for n, y in enumerate(x.operands) if y.dtype == "int"]
            if numbers and all(self.narrow(x.operands[n]) for n in numbers):
                operands = list(operands)
                operands[numbers[0]] = f"resize({operands[numbers[0]]}, 64)"
        return super().combine(x, operands)

    def kind(self, x: Node) -> str:
        """float, int, int32 or bool."""
        return "int32" if x.dtype == "int" and self.narrow(x) else x.dtype

    def narrow(self, x: Node) -> bool:
        """Whether x is computed in 32 bits: what varies in a tile, fits, and comes from such numbers."""
        if x not in self._narrow:
            fits = self.ctx.ranges.fits(x)
            if x.op == "const":
                self._narrow[x] = fits
            elif not {"i", "j"} & x.axes or x.dtype != "int":
                self._narrow[x] = False
            elif x.op in ("index", "gather"):
                self._narrow[x] = x.op == "index" or fits
            elif x.op == "value":
                self._narrow[x] = fits
            else:
                self._narrow[x] = fits and all(self.narrow(y) for y in x.operands if y.dtype == "int")
        return self._narrow[x]

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
                return self._cast(x, operands[0])
            case "index":
                return str(x["name"])
            case "gather":
                return self._gather(x, operands)
            case "extreme":
                return extremes.spell(ctx, x, operands)
            case _:
                return self._value(x)

    def _cast(self, x: Node, operand: str) -> str:
        if x.dtype == "float":
            return f"cast_float({operand})"
        if x.dtype == "bool":
            return f"ne({operand}, 0)"
        return f"resize(cast_int({operand}), 32)" if self.narrow(x) else f"cast_int({operand})"

    def _value(self, x: Node) -> str:
        ctx, name = self.ctx, x["name"]
        if not x.axes:  # a corner of the tile
            return str(name)
        features = feature_axes(x)
        if name in self.elements:
            return self.elements[name]
        if features:
            side = "row" if "i" in x.axes else "key"
            return shared.element(ctx.tiles[name], side, self.feature, ctx.types.short)
        array = ctx.arrays[name]
        if "i" in x.axes and "j" in x.axes:
            text = f"{array}[rt, ct, 2 * hf + e]"
        else:
            text = f"{array}[rt, hf]" if "i" in x.axes else f"{array}[ct, e]"
        return f"ne({text}, 0)" if x.dtype == "bool" else text

    def _gather(self, x: Node, operands: list[str]) -> str:
        ctx, name = self.ctx, x["name"]
        dtype = ctx.types.tables[name]
        features = vector_axes(x)
        place = self.place(x, operands)
        if features:
            place = f"{place} + {self.feature} * {ctx.word(f't_{name}_s{len(operands)}')}"
        text = f"{LOADS[dtype]}({ctx.word(f't_{name}_p')} + ({place}) * {ITEMSIZE[dtype]})"
        if dtype == "float64":
            return f"cast_float({text})"
        if dtype == "bool":
            return f"ne({text}, 0)"
        return f"resize({text}, 32)" if x.dtype == "int" and self.narrow(x) else text

    def place(self, x: Node, operands: list[str]) -> str:
        """The number of the element of a table that a gather reads, or where its vector or matrix begins."""
        ctx, name = self.ctx, x["name"]
        place = "0"
        for n, (operand, text) in enumerate(zip(x.operands, operands, strict=True)):
            inside = operand.op == "index" and operand["name"] == x["dims"][n] and operand["name"] not in "ij"
            if not inside:
                text = f"minimum(maximum({text}, 0), {ctx.word(f't_{name}_n{n}')} - 1)"
            term = f"{text} * {ctx.word(f't_{name}_s{n}')}"
            place = term if place == "0" else f"{place} + {term}"
        return place
