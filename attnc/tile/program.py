"""The tile program: a work item is a tile of query rows; it sweeps tiles of keys and keeps running states.

Names stand for tiles: pair tiles vary over (i, j), rows over i, columns over j, row features over (i, f), key features over (j, f),
accumulators over (i, f). Elementwise work is a graph over `value` leaves that carry these names. Backends and the tile interpreter
execute the same statements in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attnc.ir.graph import Node, topological
from attnc.passes.cuts import Cut
from attnc.tile.past import Past


@dataclass(frozen=True, slots=True)
class Load:
    """`name` = feature vectors of the rows (side 'i') or keys (side 'j').

    `graph`: a role, an elementwise graph over features of its side, or the projection of a value by a matrix operand.
    """

    name: str
    side: str
    feature: str
    graph: Node


@dataclass(frozen=True, slots=True)
class RowMap:
    """`name`[i] = an elementwise graph over rows, indices, tables and scalars."""

    name: str
    graph: Node


@dataclass(frozen=True, slots=True)
class FeatureReduce:
    """`name` over `axes` ('i', 'j' or 'ij') = sum, max or min over a feature axis of an elementwise graph over features."""

    name: str
    axes: str
    how: str
    feature: str
    graph: Node


@dataclass(frozen=True, slots=True)
class Dot:
    """`name`[i, j] = sum over f of rows[i, f] * keys[j, f]."""

    name: str
    rows: str
    keys: str
    feature: str


@dataclass(frozen=True, slots=True)
class Map:
    """`name`[i, j] = an elementwise graph over tiles, rows, columns, indices, tables and scalars."""

    name: str
    graph: Node


@dataclass(frozen=True, slots=True)
class Reduce:
    """`name`[i] = sum, max or min over the keys of this tile; where `drop_nan`, a NaN does not move a maximum."""

    name: str
    how: str
    graph: Node
    drop_nan: bool = False


@dataclass(frozen=True, slots=True)
class DotAcc:
    """accumulator[i, f] = scale[i] * accumulator[i, f] + sum over j of weights[i, j] * values[j, f].

    Where `skip_zero`, a weight that is exactly zero contributes nothing, even to a value that is NaN. Where `drop`, scale is 0 or 1,
    and 0 leaves nothing, not even of NaN.
    """

    accumulator: str
    weights: str
    values: str
    feature: str
    scale: str | None
    skip_zero: bool
    drop: bool = False


@dataclass(frozen=True, slots=True)
class SetRow:
    """state[i] = graph: the new value of a row state."""

    state: str
    graph: Node


@dataclass(frozen=True, slots=True)
class State:
    """A row state (feature None) or an accumulator of features, with its initial value.

    about: sums that give the centre that it is about. Its update moves it from the old centre to the new, and adds the tile's own about that.
    """

    name: str
    initial: float | int
    kind: str
    feature: str | None = None
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keys:
    """One sweep over the tiles of keys.

    A tile is skipped unless `possible`; where `certain`, `full` runs, else `partial`. Both are scalar graphs over the corners
    i0, i1, j0, j1. `full` is empty where nothing can be certain, `partial` where everything is. `open`: masks that no corner
    decides are still evaluated in `full`.

    With cuts, a tile is first split into boxes that wrap no index (`attnc.passes.cuts`): it is possible where one box is, and
    certain where all are. `run`: where the tiles that are not empty are those that touch the keys from first to last, these
    two as graphs over i0 and i1 (none where first > last); `possible` then need not be asked. `hull`: the same where there may be
    empty tiles between. A backend may begin its tiles at the first key, and end the last one at the last. `implied`: what is
    certain is possible; not so where a weight can be 0 under masks that are true.
    """

    number: int
    states: tuple[State, ...]
    possible: Node
    certain: Node
    full: tuple[Statement, ...]
    partial: tuple[Statement, ...]
    open: bool = False
    cut_i: Cut | None = None
    cut_j: Cut | None = None
    run: tuple[Node, Node] | None = None
    hull: tuple[Node, Node] | None = None
    implied: bool = True


@dataclass(frozen=True, slots=True)
class Store:
    """Output number `index`: a graph over rows, states and (where it has a feature axis) row features and accumulators."""

    index: int
    feature: str | None
    graph: Node


@dataclass(frozen=True, slots=True)
class Save:
    """The states of a sweep over one part of the keys are kept, for a Merge."""

    states: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """A state of all keys = sum, max or min of its values in the parts, each times `scale`[i] (None: 1), or of `term`[i].

    Both are graphs over states that are joined before: by their names, and of the part by their names with PART. Joins come by
    `rank`. drop: see `DotAcc`.
    """

    state: State
    how: str
    scale: Node | None = None
    term: Node | None = None
    drop: bool = False

    @property
    def rank(self) -> int:
        """What reads nothing, what reads maxima, and what reads sums that those scale."""
        return 0 if self.graph is None else 2 if self.state.about else 1

    @property
    def graph(self) -> Node | None:
        """The scale or the term."""
        return self.term if self.term is not None else self.scale


PART = "_part"


@dataclass(frozen=True, slots=True)
class Merge:
    """The states of a sweep, from those of its parts, which Save kept."""

    joins: tuple[Join, ...]


Statement = Load | RowMap | FeatureReduce | Dot | Map | Reduce | DotAcc | SetRow
Step = Load | RowMap | FeatureReduce | Keys | Save | Merge | Store


@dataclass(frozen=True, slots=True)
class Program:
    """grid(b, h, tile of i): the steps of one work item. `reasons` says why a reduction costs a sweep of its own.

    past: what the one sweep can take from keys that a tile's queries all see in linear time; else `quadratic` says why not.
    """

    name: str
    steps: tuple[Step, ...]
    reasons: tuple[str, ...] = field(default=())
    past: Past | None = None
    quadratic: str = ""

    @property
    def sweeps(self) -> list[Keys]:
        """The sweeps over the keys, in order."""
        return [x for x in self.steps if isinstance(x, Keys)]

    def statements(self) -> Iterator[Statement | Save | Merge | Store]:
        """Every statement, save, merge and store, both bodies of every sweep included."""
        for x in self.steps:
            if isinstance(x, Keys):
                yield from x.full
                yield from x.partial
            else:
                yield x

    def __str__(self) -> str:
        from attnc.tile.text import listing

        return listing(self)


def graphs(s: Statement | Save | Merge | Store) -> tuple[Node, ...]:
    """The graphs that a statement evaluates."""
    if isinstance(s, Merge):
        return tuple(join.graph for join in s.joins if join.graph is not None)
    return () if isinstance(s, Dot | DotAcc | Save) else (s.graph,)


def reads(s: Statement | Save | Merge | Store) -> set[str]:
    """Names of the tiles, rows and states that a statement reads."""
    values = {x["name"] for x in topological(graphs(s)) if x.op == "value"}
    return values | {s.rows} if isinstance(s, Dot) else values
