"""Which integers surely fit in 32 bits, so that SIMD lanes of half the width can hold them and every step towards them.

Sequences are shorter than 2**31, so indices and their differences always fit. Sums with lengths and scalars fit in a *small*
call, whose lengths and integer scalars are at most 2**20: such calls have kernels of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnc.ir.graph import Node, const, topological
from attnc.ir.ops import LONGEST
from attnc.passes.ranges import ANY_BOOL, ANY_FLOAT, ANY_INT, Range, Ranges
from attnc.passes.small import SMALL

INT32 = Range(-(2**31), 2**31 - 1)
COMPARISONS = ("lt", "le", "eq", "ne")
ANY = {"bool": ANY_BOOL, "int": ANY_INT, "float": ANY_FLOAT}
TABLES = {
    "bool": ANY_BOOL, "int8": Range(-(2**7), 2**7 - 1), "uint8": Range(0, 2**8 - 1), "int16": Range(-(2**15), 2**15 - 1),
    "int32": INT32,
}  # fmt: skip


class Narrow(Ranges):
    """Ranges that hold in every call that a kernel serves.

    small: whether it serves small calls only. features: extents of the feature axes. tables: dtypes of the operand tables.
    `values`: the ranges of integer tiles and rows by name, as far as they are known.
    """

    def __init__(self, small: bool, features: Mapping[str, int], tables: Mapping[str, str]) -> None:
        longest = SMALL if small else LONGEST
        super().__init__(dict.fromkeys("bhij", (0, longest - 1)), features, {}, const(False))
        self.length = Range(0, longest)
        self.scalar = Range(-SMALL, SMALL) if small else ANY_INT
        self.tables = tables
        self.values: dict[str, Range] = {}

    def learn(self, rows: Mapping[str, Node], graphs: Iterable[Node]) -> None:
        """The ranges of rows of integers, which some of `graphs` read.

        A row that is only compared, and with numbers inside of 32 bits, counts as one of 32 bits: it may be stored clamped.
        """
        for name, graph in rows.items():
            self.values[name] = self.range(graph)
        roots = list(graphs)
        exposed = {x["name"] for x in roots if x.op == "value"}
        for x in topological(roots):
            for y in x.operands:
                if y.op == "value" and not (x.op in COMPARISONS and all(z == y or self.inside(z) for z in x.operands)):
                    exposed.add(y["name"])
        self._known.clear()
        for name in rows.keys() - exposed:
            low, high = (min(max(end, INT32.low), INT32.high) for end in self.values[name])
            self.values[name] = Range(low, high)

    def fits(self, x: Node) -> bool:
        """Whether 32 bits hold x."""
        low, high = self.range(x)
        return INT32.low <= low and high <= INT32.high

    def inside(self, x: Node) -> bool:
        """Whether 32 bits hold x and one more on either side, so that a clamped number still compares to x as it did."""
        low, high = self.range(x)
        return INT32.low < low and high < INT32.high

    def short(self, x: Node) -> bool:
        """Whether x is below 2**22 in size: what a division of single precision can divide (`divide_by`)."""
        low, high = self.range(x)
        return low > -(2**22) and high < 2**22

    def _rule(self, x: Node) -> Range:
        if x.op == "extent":
            known = self.extents.get(x["name"])
            return self.length if known is None else Range(known, known)
        if x.op == "scalar" and x.dtype == "int":
            return self.scalar
        if x.op == "gather" and x.dtype == "int":
            return TABLES.get(self.tables[x["name"]], ANY_INT)
        if x.op == "value":
            return self.values.get(x["name"], ANY[x.dtype])
        # a NaN makes every comparison false, and the least integer when cast: nothing that depends on floats is known
        if x.dtype == "float" or x.op in ("scalar", "gather", "extreme") or any(y.dtype == "float" for y in x.operands):
            return ANY[x.dtype]
        return super()._rule(x)
