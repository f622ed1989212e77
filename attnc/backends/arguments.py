"""The block of 64-bit words that a kernel is called with: what stands where, for those who write it and those who read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from attnc.ir.graph import Node, topological
from attnc.passes.narrow import Narrow
from attnc.tile.program import Program, RowMap, Store, graphs

HEAD = ("counter", "scratch", "scratch_stride", "batch", "heads", "q_len", "kv_len", "group")
ROLES = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Table:
    """An operand array as the kernel reads it: how many leading axes are indexed, and its feature axes.

    A matrix (two feature axes) is read in the compute type with rows padded to whole vectors.
    """

    name: str
    indices: int
    features: tuple[str, ...]

    @property
    def matrix(self) -> bool:
        """Whether it is the right side of a projection."""
        return len(self.features) == 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Word number of everything in the block: `words['k_l']`. Strides of arrays are bytes, of tables elements.

    searches: the tables, and axes of them, whose least and greatest entries the kernel summarises before its work.
    """

    words: dict[str, int]
    roles: tuple[str, ...]
    tables: tuple[Table, ...]
    searches: tuple[tuple[str, int], ...]
    scalars: tuple[tuple[str, str], ...]
    outputs: int
    features: tuple[str, ...]


def all_graphs(program: Program) -> Iterable[Node]:
    """Every graph in the program, those that classify tiles included."""
    for keys in program.sweeps:
        yield from (keys.possible, keys.certain, *(keys.run or keys.hull or ()))
        for cut in (keys.cut_i, keys.cut_j):
            if cut is not None:
                yield from (cut.shift, *cut.radices)
    for statement in program.statements():
        yield from graphs(statement)


def ranges(program: Program, small: bool, features: Mapping[str, int], tables: Mapping[str, str]) -> Narrow:
    """The ranges of a program's integers, in a kernel for small calls or for all."""
    found = Narrow(small, features, tables)
    rows = {s.name: s.graph for s in program.steps if isinstance(s, RowMap) and s.graph.dtype == "int"}
    found.learn(rows, all_graphs(program))
    return found


def layout(program: Program) -> Layout:
    """The block of a program."""
    tables: dict[str, Table] = {}
    searches: dict[tuple[str, int], None] = {}
    scalars: dict[str, str] = {}
    roles: set[str] = set()
    for x in topological(all_graphs(program)):
        if x.op == "role":
            roles.add(x["name"])
        elif x.op == "scalar":
            scalars[x["name"]] = x["kind"]
        elif x.op in ("gather", "extreme"):
            features = x["dims"][len(x.operands) :]
            if x.op == "extreme":
                searches[x["name"], x["axis"]] = None
            old = tables.get(x["name"])
            if old is None or len(features) > len(old.features):
                tables[x["name"]] = Table(x["name"], len(x["dims"]) - len(features), features)
    words = list(HEAD)
    used = tuple(r for r in ROLES if r in roles)
    for role in used:
        words += [f"{role}_{part}" for part in ("p", "b", "h", "l")]
    stores = [s for s in program.steps if isinstance(s, Store)]
    for s in stores:
        words += [f"out{s.index}_{part}" for part in ("p", "b", "h", "l")]
    for table in tables.values():
        rank = table.indices + len(table.features)
        words += [f"t_{table.name}_p", *(f"t_{table.name}_{part}{n}" for part in "sn" for n in range(rank))]
    words += [f"t_{name}_sum{axis}" for name, axis in searches]
    words += [f"s_{name}" for name in scalars]
    numbers = {name: n for n, name in enumerate(words)}
    features = tuple(dict.fromkeys(("d", "e", *(f for table in tables.values() for f in table.features))))
    kept = tuple(tables.values()), tuple(searches), tuple(scalars.items())
    return Layout(numbers, used, *kept, len(stores), features)
