"""A call that is ready to run, again and again: its argument block is filled but for the addresses of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnc.backends.cuda.arrays import STREAMS, Library, finish, maker
from attnc.backends.cuda.check import check_tables
from attnc.backends.cuda.device import Gpu
from attnc.backends.cuda.given import Given
from attnc.backends.cuda.launch import Call, scratch
from attnc.backends.cuda.load import Loaded
from attnc.backends.launch import fill
from attnc.backends.outputs import place, shape
from attnc.interp import Array, Inputs
from attnc.runtime.arrays import ITEMSIZE, View
from attnc.runtime.binding import Bound, describe
from attnc.runtime.described import Described
from attnc.runtime.dlpack import compact

ALIGN = 16  # bytes between parts of the scratch memory


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output: its feature axes and its dtype."""

    features: tuple[str, ...]
    dtype: str


Maker = Callable[[], tuple[Any, int]]  # an array and its address


@dataclass(frozen=True, slots=True)
class Repeat:
    """inputs: words of the block that hold addresses, and the names of those arrays. outputs: words, and what makes the arrays.

    rooms: words, and bytes from the beginning of the scratch memory. words: all of these in this order. waits: whether an array
    is of a library whose stream nobody can ask for. order: where each input stands among the call's arrays: q, k, v, and the
    operands in the order that they were given in.
    """

    call: Call
    library: Library
    inputs: tuple[tuple[int, str], ...]
    outputs: tuple[tuple[int, Maker], ...]
    rooms: tuple[tuple[int, int], ...]
    scratch: Maker | None
    words: tuple[int, ...]
    waits: bool
    order: tuple[int, ...]
    captured: list[Any] = field(default_factory=list)

    def run(self, places: list[int], stream: int, out: tuple[Any, int] | None = None) -> tuple[Any, ...]:
        """The outputs for other arrays of the same shapes, strides and dtypes; places: their addresses, as `inputs` has them.

        out: an array for the first output and its address. Only outputs and scratch are allocated, by the library of q.
        """
        made: list[Any] = []
        for _, new in self.outputs:
            array, place = new() if out is None or made else out
            made.append(array)
            places.append(place)
        if self.scratch is not None:
            room, base = self.scratch()
            places += [base + offset for _, offset in self.rooms]
            if self.library != "torch" and _captures(self.call.loaded.gpu, stream):
                self.captured.append(room)  # CuPy's pool would lend it to others while the graph still writes to it
        self.call.launch(stream, zip(self.words, places, strict=True))
        if not self.waits:
            return tuple(made)
        found = finish(self.library, self.call.loaded.gpu, stream, made)
        return found if out is None else (out[0], *found[1:])


def prepare(loaded: Loaded, given: Given, bound: Bound, outputs: Sequence[Wanted]) -> Repeat:
    """How to run an executable on a checked call. What `run` then takes are the addresses of these arrays, or of others alike.

    DTypeError, OperandError: a table that a kernel cannot read. ShapeError: too many queries for a launch.
    """
    layout, inputs = loaded.executable.layout, bound.inputs
    check_tables(layout, inputs)
    tables: dict[str, Array] = {t.name: _entries(inputs.operands[t.name]) for t in layout.tables}
    shapes = {name: x.shape for name, x in tables.items()}
    shaped = [(shape(bound, x.features), x.dtype) for x in outputs]
    strides = [compact(extents, ITEMSIZE[dtype]) for extents, dtype in shaped]
    if given.out is not None:
        strides[0] = given.out.strides
    places = [place(bound, 0, x) for x in strides]
    roles = {role: {"q": inputs.q, "k": inputs.k, "v": inputs.v}[role] for role in layout.roles}
    block = fill(layout, inputs, roles, places, tables, [0] * len(layout.searches))
    call = Call(loaded, block, inputs.extents, shapes)
    numbers = layout.words
    known = [(numbers[f"{role}_p"], role) for role in layout.roles]
    known += [(numbers[f"t_{name}_p"], name) for name, x in tables.items() if inputs.operands[name].size]
    made = [
        (numbers[f"out{n}_p"], maker(given.library, extents, dtype, given.gpu))
        for n, (extents, dtype) in enumerate(shaped)
    ]
    rooms, end = _rooms(loaded, tables, inputs)
    room = maker(given.library, (end // 8,), "int64", given.gpu) if end else None
    names = ["q", "k", "v", *(name for name, x in given.operands.items() if isinstance(x, Described))]
    order = tuple([names.index(name) for _, name in known])
    waits = any(x.library not in STREAMS for x in given.keep)
    words = tuple([word for word, _ in (*known, *made, *rooms)])
    return Repeat(call, given.library, tuple(known), tuple(made), rooms, room, words, waits, order)


def _rooms(loaded: Loaded, tables: Mapping[str, Array], inputs: Inputs) -> tuple[tuple[tuple[int, int], ...], int]:
    """Parts of the scratch memory: the words that take their addresses, with where they begin; and bytes of the whole."""
    numbers = loaded.executable.layout.words
    needed = scratch(loaded.executable, inputs.extents, {name: x.shape for name, x in tables.items()})
    needed |= {f"t_{name}_p": x.nbytes for name, x in tables.items() if not inputs.operands[name].size}
    rooms, end = [], 0
    for name, size in needed.items():
        rooms.append((numbers[name], end))
        end += -(-size // ALIGN) * ALIGN
    return tuple(rooms), end


def _captures(gpu: Gpu, stream: int) -> bool:
    """Whether a stream captures a graph. The default stream, 0 or 1, cannot, and may not be asked while another one does."""
    return stream > 1 and bool(gpu.api.cuda.runtime.streamIsCapturing(stream))


def _entries(x: Array) -> Array:
    """A table as the kernel sees it: where there are no keys, indices are clamped to an entry that nothing live reads."""
    if x.size:
        return x
    extents = tuple([max(n, 1) for n in x.shape])
    return describe(View(ALIGN, extents, compact(extents, x.itemsize), x.dtype.name, "numpy", None))


def addresses(repeat: Repeat, bound: Bound) -> list[int]:
    """The addresses of a call's arrays, in the order that `Repeat.run` takes."""
    found = {**bound.inputs.operands, "q": bound.inputs.q, "k": bound.inputs.k, "v": bound.inputs.v}
    return [found[name].__array_interface__["data"][0] for _, name in repeat.inputs]
