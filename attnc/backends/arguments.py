"""The block of 64-bit words that a kernel is called with: what stands where, for those who write it and those who read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnc.ir.graph import Node, topological
from attnc.tile.program import Keys, Program, Store, graphs

HEAD = ("counter", "scratch", "scratch_stride", "batch", "heads", "q_len", "kv_len", "group")
ROLES = {"q": "i", "k": "j", "v": "j"}


@dataclass(frozen=True, slots=True)
class Table:
    """An operand array as the kernel reads it: how many leading axes are indexed, and its feature axes.

    A matrix (two feature axes) is read in the compute type with rows padded to whole vectors.
    """

    name: str
    indices: int
    features: tuple[str, ...]
    kind: str

    @property
    def matrix(self) -> bool:
        """Whether it is the right side of a projection."""
        return len(self.features) == 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Word number of everything in the block: `words['k_l']`. Strides of arrays are bytes, of tables elements."""

    words: dict[str, int]
    roles: tuple[str, ...]
    tables: tuple[Table, ...]
    scalars: tuple[tuple[str, str], ...]
    outputs: int
    features: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)


def all_graphs(program: Program) -> Iterable[Node]:
    """Every graph in the program, those that classify tiles included."""
    for step in program.steps:
        if isinstance(step, Keys):
            yield from (step.possible, step.certain)
    for statement in program.statements():
        yield from graphs(statement)


def layout(program: Program) -> Layout:
    """The block of a program."""
    tables: dict[str, Table] = {}
    scalars: dict[str, str] = {}
    roles: set[str] = set()
    for x in topological(all_graphs(program)):
        if x.op == "role":
            roles.add(x["name"])
        elif x.op == "scalar":
            scalars[x["name"]] = x["kind"]
        elif x.op == "gather":
            features = x["dims"][len(x.operands) :]
            old = tables.get(x["name"])
            if old is None or len(features) > len(old.features):
                tables[x["name"]] = Table(x["name"], len(x["dims"]) - len(features), features, x["kind"])
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
    words += [f"s_{name}" for name in scalars]
    numbers = {name: n for n, name in enumerate(words)}
    features = tuple(dict.fromkeys(("d", "e", *(f for table in tables.values() for f in table.features))))
    return Layout(numbers, used, tuple(tables.values()), tuple(scalars.items()), len(stores), features)
