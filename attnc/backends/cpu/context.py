"""What every part of the emitter shares: the buffers, the scratch memory, and where each value of the program lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnc.backends.arguments import ranges
from attnc.backends.block import Layout
from attnc.backends.extremes import Search
from attnc.backends.printer import Printer
from attnc.backends.spelling import Names, Scope
from attnc.ir.graph import Node
from attnc.passes.narrow import Narrow
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule.cpu_form import PLAIN, CpuForm
from attnc.schedule.schedule import Schedule
from attnc.tile.program import Program

ALIGN = 64
LANES = {"float": "F", "int": "I", "int32": "J", "bool": "B"}
SCALARS = {"float": "T", "int": "int64", "bool": "boolean"}


@dataclass(frozen=True, slots=True)
class Types:
    """dtypes of a kernel: of the arithmetic, of q, k and v in memory, of the operand tables, and of each output.

    small: whether it serves only calls with small lengths and integer scalars (`attnc.passes.narrow`).
    """

    compute: str
    roles: str
    tables: Mapping[str, str]
    outputs: tuple[str, ...]
    small: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the arithmetic."""
        return ITEMSIZE[self.compute]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Key features in memory: address of the tile's first key, bytes from key to key, whether rows are padded, dtype."""

    base: str
    pitch: str
    padded: bool
    stored: str


@dataclass(frozen=True, slots=True)
class Span:
    """Vectors of queries, or keys, of a tile that are worked on: from `first` up to `stop`, both as texts."""

    first: str
    stop: str

    def __str__(self) -> str:
        """The loop over them."""
        return f"range({self.stop})" if self.first == "0" else f"range({self.first}, {self.stop})"

    @property
    def count(self) -> str:
        """How many they are."""
        if self.stop == f"{self.first} + 1":
            return "1"
        return self.stop if self.first == "0" else f"{self.stop} - {self.first}"

    def place(self, base: str, step: int | str) -> str:
        """The address of the first of them, where the tile's first lies at `base` and the next `step` bytes on."""
        return base if self.first == "0" else f"{base} + {self.first} * {step}"


VECTORS, KEYS = Span("0", "nx"), Span("0", "nj")  # all of the tile


@dataclass(slots=True)
class Context:
    """One kernel under construction. `top` is printed once per call, `item` once per work item."""

    program: Program
    layout: Layout
    schedule: Schedule
    types: Types
    features: Mapping[str, int]
    top: Printer
    form: CpuForm = PLAIN
    names: Names = field(default_factory=Names)
    used: set[str] = field(default_factory=set)
    scratch: int = 0
    item: Scope = field(init=False)
    ranges: Narrow = field(init=False)
    out: Printer = field(init=False)
    words: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    memory: dict[tuple[str, int], str] = field(default_factory=dict)
    pairs: list[str] = field(default_factory=list)
    vectors: dict[str, Vectors] = field(default_factory=dict)
    searches: dict[tuple[str, int], Search] = field(default_factory=dict)
    paired: frozenset[str] = frozenset()  # loads of vectors whose features stay pairs of bfloat16
    reach: dict[Node, frozenset[str]] = field(default_factory=dict)
    of_rows: dict[Node, bool] = field(default_factory=dict)
    direct: set[str] = field(
        default_factory=set
    )  # key features that only products for few queries read, as they are stored
    begin: Printer = field(default_factory=Printer)  # what stands before the first tile of the present sweep
    looks_ahead: bool = False  # whether the last tile of the present sweep asks for what is touched next
    row_major: dict[str, str] = field(default_factory=dict)  # where those products keep queries and accumulators

    def __post_init__(self) -> None:
        self.ranges = ranges(self.program, self.types.small, self.features, self.types.tables)

    @property
    def size(self) -> int:
        """Bytes of a number of the compute type."""
        return self.types.itemsize

    @property
    def pitch(self) -> int:
        """Bytes of a row of lanes: one number per query of the tile."""
        return self.schedule.rows * self.size

    def padded(self, feature: str) -> int:
        """Bytes of a feature vector filled up to whole vectors."""
        width = self.schedule.width
        return -(-self.features[feature] // width) * width * self.size

    def wide(self, feature: str) -> int:
        """Bytes of a feature vector that products for few queries read or add to."""
        width = self.schedule.wide
        assert width > 0, f"{self.schedule} is for many queries"
        return -(-self.features[feature] // width) * width * self.size

    def corners(self, x: Node) -> frozenset[str]:
        """The corners of a tile that a graph reads."""
        if x not in self.reach:
            own = [x["name"]] if x.op == "value" and not x.axes else []
            self.reach[x] = frozenset(own).union(*(self.corners(operand) for operand in x.operands))
        return self.reach[x]

    def by_row(self, x: Node) -> bool:
        """Whether x differs between the rows of a tile: by their queries, and where heads share a tile by their heads."""
        if "i" in x.axes or not self.form.share or "h" not in x.axes or x.op == "value":
            return "i" in x.axes
        if x not in self.of_rows:
            self.of_rows[x] = x.op == "index" or any(map(self.by_row, x.operands))
        return self.of_rows[x]

    def word(self, name: str) -> str:
        """The variable that holds an integer of the argument block."""
        if name not in self.words:
            self.words[name] = self.names.fresh(name)
            self.top.line(f"{self.words[name]} = load(int64, args + {8 * self.layout.words[name]})")
        return self.words[name]

    def reader(self, search: Search) -> str:
        """How an entry of a searched table is read: the kind of the numbers, and how they are stored."""
        return f"{LANES[search.number]}, AS_{self.types.tables[search.name]}"

    def scalar(self, name: str, kind: str) -> str:
        """The variable that holds a scalar operand."""
        word = f"s_{name}"
        if word not in self.words:
            self.words[word] = self.names.fresh(name)
            place = f"args + {8 * self.layout.words[word]}"
            text = {
                "float": f"load_as(T, {place}, AS_float64)",
                "int": f"load(int64, {place})",
                "bool": f"ne(load(int64, {place}), 0)",
            }[kind]
            self.top.line(f"{self.words[word]} = {text}")
        return self.words[word]

    def allocate(self, name: str, size: int) -> str:
        """The address of `size` bytes of the worker's scratch memory under this name."""
        if (name, size) not in self.memory:
            address = self.memory[name, size] = self.names.fresh(f"{name}_")
            self.top.line(f"{address} = scratch + {self.scratch}")
            self.scratch += -(-size // ALIGN) * ALIGN
        self.places[name] = self.memory[name, size]
        return self.places[name]

    def begin_body(self) -> None:
        """Pair tiles are handed out anew in each body of a sweep."""
        for name in self.pairs:
            self.places.pop(name, None)
        self.pairs = []

    def row(self, name: str) -> str:
        """Scratch for one number per query."""
        return self.allocate(name, self.schedule.rows * 8)

    def row_features(self, name: str, feature: str) -> str:
        """Scratch for feature vectors of the queries, transposed: [f][query]."""
        return self.allocate(name, self.features[feature] * self.pitch)

    def pair(self, name: str) -> str:
        """Scratch for one number per key and query: [j][query]."""
        if name not in self.places:
            tile = self.allocate(f"pair{len({self.places[x] for x in self.pairs})}", self.schedule.keys * self.pitch)
            self.pairs.append(name)
            self.places[name] = tile
        return self.places[name]

    def integers(self, name: str) -> str:
        """Scratch for one integer per key and query."""
        return self.allocate(name, self.schedule.keys * self.schedule.rows * 8)

    def alias(self, name: str, other: str) -> str:
        """A pair tile in the memory of another one, which nothing reads any more."""
        self.pairs.append(name)
        self.places[name] = self.places[other]
        return self.places[name]

    def column(self, name: str) -> str:
        """Scratch for one number per key."""
        return self.allocate(name, self.schedule.keys * 8)

    def key_features(self, name: str, feature: str) -> Vectors:
        """Scratch for feature vectors of the keys, rows padded to whole vectors."""
        pitch = self.padded(feature)
        base = self.allocate(name, self.schedule.keys * pitch)
        return Vectors(base, str(pitch), True, self.types.compute)

    def offset(self, kind: str) -> str:
        """Byte offset of lane block x in a row of numbers of this kind."""
        width = self.schedule.width
        return {"float": "o", "int": f"x * {width * 8}", "int32": f"x * {width * 4}", "bool": f"x * {width}"}[kind]

    def gemm(
        self, name: str, m: str, a: str, a_row: str, a_k: str, b: str, c: str, n: str, alpha: str = "0", x: Span = VECTORS,
    ) -> str:  # fmt: skip
        """A call of a matrix product whose lanes are queries, the vectors x of them. alpha "0": it is not read."""
        rows, cols = self.schedule.tile if x == VECTORS else self.schedule.block
        step = self.schedule.width * self.size
        b, c = x.place(b, step), x.place(c, step)
        alpha = alpha if alpha == "0" else x.place(alpha, step)
        return f"{name}(F, {rows}, {cols}, {m}, {x.count}, {a}, {a_row}, {a_k}, {b}, {self.pitch}, {c}, {self.pitch}, {n}, {alpha})"
