"""What a sweep takes from the keys that all queries of a tile see, without visiting their pairs: states that grow with the keys alone.

A state is a sum of outer products (sum over j of keys[j, f] * values[j, e]), a query's share of it rows[i, f] * state[f, e]. Where the
sums of the sweep have exponents, a state is scaled like they are: by 2**top, top the greatest exponent of its keys, relative to the
key `seen` so that distances stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnc.ir.graph import Node

if TYPE_CHECKING:
    from attnc.tile.program import FeatureReduce, Load, RowMap

# scalars: the first query of the tile, the last key that the tile before saw, and that this one sees
I0, WAS, SEEN = "i0", "was", "seen"


@dataclass(frozen=True, slots=True)
class Column:
    """`name`[j] = an elementwise graph over columns, indices, tables and scalars."""

    name: str
    graph: Node


@dataclass(frozen=True, slots=True)
class Power:
    """Exponents, in base 2, of the sums whose running maximum is `state`.

    keys: over j, i0 and seen, kept in `column`, whose weights are 2**(keys - top), in `weights`; what is at most `masked` has none.
    moved: what is added to exponents relative to the key `was` to make them relative to `seen`. rows: a row, what a query adds.
    """

    state: str
    keys: Node
    masked: float
    column: str
    weights: str
    moved: Node
    rows: str


@dataclass(frozen=True, slots=True)
class Outer:
    """`name`[f, e] += sum over the keys of keys[j, f] * values[j, e]. keys: features, or where `feature` is None a column.

    values None: 1, and no e. power: the number of the power that scales it.
    """

    name: str
    keys: str
    feature: str | None
    values: str | None
    out: str | None
    power: int | None


@dataclass(frozen=True, slots=True)
class Share:
    """`accumulator`[i, e] = sum of rows[i, f] * state[f, e] over its terms (rows, state), before its sweep begins."""

    accumulator: str
    out: str | None
    terms: tuple[tuple[str, Outer], ...]
    power: int | None


@dataclass(frozen=True, slots=True)
class Past:
    """last: the last key that query i0, and with it each later one, sees. Per tile of keys: `loads`, the powers' columns and weights,
    `made`, then the outer products. Per tile of queries: `rows`, the running maxima, the shares."""

    last: Node
    loads: tuple[Load | FeatureReduce, ...]
    powers: tuple[Power, ...]
    made: tuple[Load | Column, ...]
    outers: tuple[Outer, ...]
    rows: tuple[Load | FeatureReduce | RowMap, ...]
    shares: tuple[Share, ...]

    def graphs(self) -> tuple[Node, ...]:
        """All that it evaluates."""
        own = [self.last, *(x for p in self.powers for x in (p.keys, p.moved))]
        return (*own, *(s.graph for s in (*self.loads, *self.made, *self.rows)))
