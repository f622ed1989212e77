"""What a program reads and writes: the argument block of its kernel, and the ranges of its integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attnc.backends.block import HEAD, ROLES, Layout, Table
from attnc.ir.graph import Node, topological
from attnc.passes.narrow import Narrow
from attnc.tile.program import Program, RowMap, Store, graphs


def all_graphs(program: Program) -> Iterable[Node]:
    """Every graph in the program, those that classify tiles included."""
    for keys in program.sweeps:
        yield from (keys.possible, keys.certain, *(keys.run or keys.hull or ()))
        for cut in (keys.cut_i, keys.cut_j):
            if cut is not None:
                yield from (cut.shift, *cut.radices)
    for statement in program.statements():
        yield from graphs(statement)
    if program.past is not None:
        yield from program.past.graphs()


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
