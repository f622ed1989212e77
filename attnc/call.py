"""One call of a kernel: outputs are made, the argument block filled, workers started, results given back in the caller's kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from attnc.backends.block import Layout
from attnc.backends.cpu.kernel import Kernel
from attnc.backends.cpu.room import NO_PARTS, Pieces, Tiles
from attnc.backends.launch import pack
from attnc.backends.outputs import check_output, place, shape, whole
from attnc.interp import Array
from attnc.ir.graph import Graph
from attnc.passes.expand import feature_axes
from attnc.runtime import arrays
from attnc.runtime.binding import Bound, as_numpy
from attnc.schedule.cpu_form import Can, CpuForm, choose, parts, piece
from attnc.schedule.cpu_form import rows as form_rows
from attnc.schedule.target import host
from attnc.warm import Ready

SMALL = 1 << 20  # multiply-adds below which a second thread costs more than it brings


class Prepared(Protocol):
    """What a call needs to know of a lowered variant."""

    @property
    def graph(self) -> Graph: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def lse(self) -> bool: ...
    @property
    def can(self) -> Can: ...


@dataclass(frozen=True, slots=True)
class Launch:
    """What was run: a kernel on an argument block. workers: that have something to do, if there are as many threads."""

    kernel: Kernel
    block: bytearray
    workers: int
    tiles: Tiles | Pieces


@dataclass(frozen=True, slots=True)
class Result:
    """Outputs as the caller gets them, and as NumPy arrays (B,H,L[,F]) over the same memory."""

    outputs: tuple[Any, ...]
    arrays: list[Array]
    dtypes: list[str]
    bound: Bound
    bound_graph: Graph
    launch: Launch | None


def cpu_form(prepared: Prepared, bound: Bound) -> CpuForm:
    """The form of the kernel of a call."""
    width = host().vector_bytes // (8 if bound.dtype == "float64" else 4)
    longest = max(bound.features.values())
    return choose(bound.inputs.extents, width, longest, prepared.can)


def run(prepared: Prepared, ready: Ready, bound: Bound, like: Any, out: Any) -> Result:
    """Run a kernel on checked inputs; `like` is the caller's q, `out` an array of his for the one output, or None."""
    kernel, schedule = ready.kernel, ready.schedule
    compute = "float64" if bound.dtype == "float64" else "float32"
    graph = prepared.graph
    dtypes = [bound.dtype] * len(graph.outputs)
    if prepared.lse:
        dtypes[-1] = compute
    given = None if out is None else check_output(out, prepared.graph, prepared.lse, bound)
    kind = "numpy" if isinstance(like, np.ndarray) else arrays.view(like, "Q").kind
    made = [
        arrays.empty(kind, shape(bound, feature_axes(x)), dtype) for x, dtype in zip(graph.outputs, dtypes, strict=True)
    ]
    if given is not None and _whole_rows(given):
        made[0] = (out, given)
    launch = None
    if all(math.prod(view.shape) for _, view in made):
        places = [place(bound, view.address, view.strides) for _, view in made]
        block, keep = pack(kernel.layout, bound.inputs, places, compute, schedule.width)
        workers, tiles = _workers(bound, schedule.rows, ready.form)
        launch = Launch(kernel, block, workers, tiles)
        kernel.run(block, workers, tiles)
        del keep
    if given is not None and made[0][0] is not out:
        as_numpy(out, "out")[...] = as_numpy(made[0][0], "out")
        made[0] = (out, given)
    outputs = tuple(x if x is out else arrays.finish(like, x) for x, _ in made)
    return Result(outputs, [whole(bound, as_numpy(x, "out")) for x, _ in made], dtypes, bound, graph, launch)


def _whole_rows(view: arrays.View) -> bool:
    """Whether the last axis is contiguous, as kernels write it."""
    return view.shape[-1] < 2 or view.strides[-1] == arrays.ITEMSIZE[view.dtype]


def _workers(bound: Bound, rows: int, form: CpuForm) -> tuple[int, Tiles | Pieces]:
    """How many workers a call takes, and its parts of keys."""
    x = bound.inputs.extents
    if form.linear:
        length = piece(x["q_len"], x["kv_len"])
        pieces = Pieces(x["batch"] * x["heads"], -(-x["q_len"] // length), max(-(-x["kv_len"] // length), 1))
        return pieces.heads * pieces.parts, pieces
    own = form_rows(x["q_len"], x["group"], form.share)
    tiles = x["batch"] * x["heads"] // (x["group"] if form.share else 1) * -(-own // rows)
    found = Tiles(tiles, min(own, rows), parts(x["kv_len"], form.few)) if form.split else NO_PARTS
    work = x["batch"] * x["heads"] * x["q_len"] * x["kv_len"] * (x["d"] + x["e"])
    return 1 if work < SMALL else tiles * max(found.parts, 1), found
