"""What a directory of kernels says of one variant: its signature, what it was compiled for, and how its kernels are launched.

DIR/NAME.json, beside the cubins that it names. It holds all that a call needs, so that nothing is traced to make one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from attnc.backends.block import Layout, Table
from attnc.backends.cuda.tensor_map import TensorMap
from attnc.dsl.signature import Operand, Signature
from attnc.errors import Location
from attnc.ir.graph import Graph, Node, node
from attnc.ir.ops import Kind
from attnc.schedule.short import Form

FORMAT = 2
TYPES: dict[str, type] = {x.__name__: x for x in (bool, int, float, str, tuple)}


@dataclass(frozen=True, slots=True)
class OperandRecord:
    """An operand as the variant declares it. type: of a scalar or a constant. default: where it is not required."""

    name: str
    role: Literal["scalar", "const", "tensor"]
    kind: Kind | None
    axes: tuple[str, ...]
    type: str | None
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node of the graph; operands: numbers of earlier nodes. place: file (without its folder), line, columns."""

    op: str
    operands: tuple[int, ...]
    attrs: Mapping[str, Any]
    place: tuple[str, int, int, int] | None


@dataclass(frozen=True, slots=True)
class StageFile:
    """One kernel of a launch, in a file beside the manifest. maps, persistent: of the stage.

    resources: registers, spills and memory, as the compiler reports.
    """

    role: str
    file: str
    sha256: str
    entry: str
    parameters: tuple[str, ...]
    threads: int
    shared_bytes: int
    maps: tuple[TensorMap, ...]
    persistent: int
    resources: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of a call in one dtype. features: extents. tables: dtypes of the arrays that are read.

    small: whether lengths and integer scalars are at most 2**20. aligned: whether rows of q, k and v must be contiguous and
    begin at multiples of 16 bytes. form, rows, record, flags: of the executable. versions: of the packages that compiled.
    """

    target: str
    dtype: str
    features: Mapping[str, int]
    tables: Mapping[str, str]
    small: bool
    aligned: bool
    form: Form
    rows: int
    record: int
    flags: int
    versions: Mapping[str, str]
    stages: tuple[StageFile, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What two kernels for different calls differ in."""
        features, tables = (tuple(sorted(x.items())) for x in (self.features, self.tables))
        form = (self.form.share, self.form.split, self.form.warps)
        return (self.target, self.dtype, features, tables, not self.small, not self.aligned, form)


@dataclass(frozen=True, slots=True)
class Specialised:
    """The variant with its constants, kinds of tensors, and absent operands: one formula. words: the argument block, in order.

    share, split: whether calls with few queries can have kernels of their own (`attnc.schedule.short`).
    """

    constants: Mapping[str, Any]
    kinds: Mapping[str, Kind]
    absent: tuple[str, ...]
    lse: bool
    formula: tuple[str, ...]
    share: bool
    split: bool
    words: tuple[str, ...]
    roles: tuple[str, ...]
    tables: tuple[Table, ...]
    searches: tuple[tuple[str, int], ...]
    scalars: tuple[tuple[str, str], ...]
    features: tuple[str, ...]
    kernels: tuple[Kernels, ...]
    outputs: tuple[int, ...]
    tuple_output: bool
    nodes: tuple[NodeRecord, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the formula, in a fixed order."""
        constants = tuple(sorted(self.constants.items()))
        return (constants, tuple(sorted(self.kinds.items())), self.absent, self.lse)

    def layout(self) -> Layout:
        """The argument block."""
        words = {name: n for n, name in enumerate(self.words)}
        kept = self.tables, self.searches, self.scalars
        return Layout(words, self.roles, *kept, len(self.outputs), self.features)

    def graph(self, name: str) -> Graph:
        """The formula, which says what the outputs are and which table indices must be in range. AssertionError: damaged."""
        made: list[Node] = []
        for x in self.nodes:
            place = None if x.place is None else Location(*x.place)
            made.append(node(x.op, *(made[n] for n in x.operands), loc=place, **x.attrs))
        return Graph(tuple(made[n] for n in self.outputs), name, "", self.tuple_output)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of one variant. attnc: the version that compiled it."""

    format: int
    attnc: str
    name: str
    doc: str
    roles: tuple[str, ...]
    operands: tuple[OperandRecord, ...]
    specialised: tuple[Specialised, ...]

    def signature(self) -> Signature:
        """What a call is checked against."""
        return Signature(self.roles, {x.name: _operand(x) for x in self.operands})


def operand_record(x: Operand) -> OperandRecord:
    """An operand as plain data."""
    kind = None if x.type is None else x.type.__name__
    return OperandRecord(x.name, x.role, x.kind, x.axes, kind, x.required, None if x.required else x.default)


def _operand(x: OperandRecord) -> Operand:
    default = inspect.Parameter.empty if x.required else x.default
    return Operand(x.name, x.role, x.kind, x.axes, None if x.type is None else TYPES[x.type], default)


def node_records(graph: Graph) -> tuple[tuple[NodeRecord, ...], tuple[int, ...]]:
    """The nodes of a graph, operands first, and the numbers of its outputs."""
    nodes = graph.nodes()
    numbers = {x: n for n, x in enumerate(nodes)}
    records = [NodeRecord(x.op, tuple(numbers[y] for y in x.operands), dict(x.attrs), _place(x.loc)) for x in nodes]
    return tuple(records), tuple(numbers[x] for x in graph.outputs)


def _place(loc: Location | None) -> tuple[str, int, int, int] | None:
    # Without the folder: the same program gives the same bytes wherever it lies.
    return None if loc is None else (PurePath(loc.file).name, loc.line, loc.column, loc.end_column)
