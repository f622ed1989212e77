"""What every part of the CUDA emitter shares: the words of a call, register arrays, tiles in shared memory, fragments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from attnc.backends.arguments import ranges
from attnc.backends.block import Layout
from attnc.backends.cuda.tensor_map import TensorMap
from attnc.backends.extremes import Search
from attnc.backends.printer import INDENT, Printer
from attnc.backends.spelling import Names, Scope
from attnc.ir.graph import Node
from attnc.passes.narrow import Narrow
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule.mma import Mma, Swizzled, swizzled
from attnc.schedule.wgmma import GROUP, Wgmma
from attnc.tile.program import Program

LOADS = {
    "float64": "load_f64", "float32": "load_f32", "float16": "load_f16", "bfloat16": "load_bf16", "int64": "load_i64",
    "int32": "load_i32", "int16": "load_i16", "int8": "load_i8", "uint8": "load_u8", "bool": "load_u8",
}  # fmt: skip
SHORT = {"bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True)
class Types:
    """dtypes of a kernel: of q, k and v, of the operand tables, and of each output. Arithmetic is float32.

    small: whether it serves only calls with small lengths and integer scalars (`attnc.passes.narrow`).
    """

    roles: str
    tables: Mapping[str, str]
    outputs: tuple[str, ...]
    small: bool = False

    @property
    def tensor_cores(self) -> bool:
        """Whether products of q, k and v are done by mma instructions; else by multiply-adds in float32."""
        return self.roles in SHORT

    @property
    def short(self) -> str:
        """The roles' dtype in the names of intrinsics."""
        return SHORT.get(self.roles, "f32")


@dataclass(frozen=True, slots=True)
class Tile:
    """Feature vectors in shared memory: the text of their address, how they lie, and how many features are real."""

    base: str
    shape: Swizzled
    features: int


@dataclass(slots=True)
class Context:
    """One kernel under construction. `top` is printed once per block, `item` is what a block's queries share.

    aligned: whether rows of q, k and v are whole aligned chunks of 16 bytes, which hardware copies without registers.
    share: whether rows of a tile are the queries of all heads of a group (`items`), else of one head.
    repairs: whether blocks work only where a kernel before left a flag, and always carefully.
    careful: whether the sweep that is printed may run a second time, with weights of 0 kept from values that are not finite.
    unit: of the places of tiles in shared memory, in bytes. maps: what the copy engine is told, by array.
    """

    program: Program
    layout: Layout
    schedule: Mma | Wgmma
    types: Types
    features: Mapping[str, int]
    top: Printer
    aligned: bool
    share: bool = False
    repairs: bool = False
    names: Names = field(default_factory=Names)
    item: Scope = field(init=False)
    out: Printer = field(init=False)
    ranges: Narrow = field(init=False)
    words: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, str] = field(default_factory=dict)
    tiles: dict[str, Tile] = field(default_factory=dict)
    searches: dict[tuple[str, int], Search] = field(default_factory=dict)
    rooms: dict[tuple[str, int], str] = field(default_factory=dict)
    shared: int = 0
    unit: int = 128
    maps: dict[str, TensorMap] = field(default_factory=dict)
    careful: bool = False
    reach: dict[Node, frozenset[str]] = field(default_factory=dict)
    ended: tuple[Printer, int, str] | None = None

    def __post_init__(self) -> None:
        self.ranges = ranges(self.program, self.types.small, self.features, self.types.tables)

    def word(self, name: str) -> str:
        """The parameter that holds an integer of the call."""
        return name

    def reader(self, search: Search) -> str:
        """How an entry of a searched table is read: the intrinsic, and the bytes of an entry."""
        dtype = self.types.tables[search.name]
        return f"{LOADS[dtype]}, {ITEMSIZE[dtype]}"

    def scalar(self, name: str, kind: str) -> str:
        """The variable that holds a scalar operand."""
        word = f"s_{name}"
        if kind == "int":
            return word
        if word not in self.words:
            self.words[word] = self.names.fresh(name)
            text = f"scalar({word})" if kind == "float" else f"ne({word}, 0)"
            self.top.line(f"{self.words[word]} = {text}")
        return self.words[word]

    def corners(self, x: Node) -> frozenset[str]:
        """The corners of a tile that a graph reads."""
        if x not in self.reach:
            own = [x["name"]] if x.op == "value" and not x.axes else []
            self.reach[x] = frozenset(own).union(*(self.corners(operand) for operand in x.operands))
        return self.reach[x]

    def registers(self, name: str, shape: tuple[int, ...], kind: str) -> str:
        """Registers of every thread: the array of a tile, row or accumulator. One array for a name and shape."""
        key = f"{name} {shape} {kind}"
        if key not in self.arrays:
            self.arrays[key] = self.names.fresh(name)
            self.top.line(f'{self.arrays[key]} = registers({shape}, "{kind}")')
        self.arrays[name] = self.arrays[key]
        return self.arrays[key]

    def row(self, name: str, kind: str) -> str:
        """Registers for one number per query: [row tile, half]."""
        return self.registers(name, (self.schedule.tall, 2), REGISTERS[kind])

    def pair(self, name: str, kind: str = "float") -> str:
        """Registers for one number per pair: [row tile, column tile, element]."""
        return self.registers(name, (self.schedule.tall, self.schedule.keys // 8, 4), REGISTERS[kind])

    def column(self, name: str, kind: str) -> str:
        """Registers for one number per key: [column tile, element]."""
        return self.registers(name, (self.schedule.keys // 8, 2), REGISTERS[kind])

    def accumulator(self, name: str, feature: str) -> str:
        """Registers for feature vectors of the queries: [row tile, feature tile, element]."""
        return self.registers(name, (self.schedule.tall, self.vectors(1, feature).length // 8, 4), "f")

    def vectors(self, rows: int, feature: str) -> Swizzled:
        """How `rows` feature vectors lie in shared memory."""
        return swizzled(rows, self.features[feature], ITEMSIZE[self.types.roles])

    def allocate(self, name: str, rows: int, feature: str, stages: int = 1) -> Tile:
        """Room in shared memory for a tile, or for `stages` of them one behind the other."""
        shape = self.vectors(rows, feature)
        return Tile(self.room(name, stages * shape.bytes), shape, self.features[feature])

    def room(self, name: str, size: int) -> str:
        """Where so many bytes of shared memory begin; sweeps have those of the same name and size in turn."""
        if (name, size) not in self.rooms:
            base = self.rooms[name, size] = self.names.fresh(f"{name}_shared")
            self.top.line(f"{base} = start + {self.shared}")
            self.shared += -(-size // self.unit) * self.unit
        return self.rooms[name, size]

    def publish(self, side: str) -> None:
        """What threads wrote to a tile is there for the products: of rows ('i') for those that compute with them, of keys ('j') for all."""
        if isinstance(self.schedule, Mma):
            self.out.line("warp_sync()" if side == "i" else "barrier()")
            return
        self.out.line("async_fence()")
        self.out.line(self.meet(side))

    def meet(self, side: str) -> str:
        """Where the consumers wait for each other: those of the same rows ('i'), or all ('j')."""
        assert isinstance(self.schedule, Wgmma)
        return (
            f"named_barrier(2 + (warp >> 2), {GROUP})"
            if side == "i"
            else f"named_barrier(1, {32 * self.schedule.warps})"
        )

    @contextmanager
    def rows(self) -> Iterator[None]:
        """Loops over the queries of a thread."""
        with self.out.block(f"for rt in unrolled({self.schedule.tall}):"), self.out.block("for hf in unrolled(2):"):
            yield

    @contextmanager
    def each_row(self) -> Iterator[None]:
        """The same, for what concerns one query alone: neighbours share their loops."""
        out = self.out
        if self.ended == (out, len(out.parts), out.margin):  # nothing was printed since
            outside = out.margin
            out.margin += 2 * INDENT
            yield
            out.margin = outside
        else:
            with self.rows():
                yield
        self.ended = out, len(out.parts), out.margin

    @contextmanager
    def keys(self) -> Iterator[None]:
        """Loops over the keys of a thread."""
        with self.out.block(f"for ct in unrolled({self.schedule.keys // 8}):"), self.out.block("for e in unrolled(2):"):
            yield


REGISTERS = {"float": "f", "int": "l", "int32": "r", "bool": "r"}
