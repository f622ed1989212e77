"""Runs a variant's emitted CUDA kernel in the emulator, from the exact source that would be compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.backends.arguments import layout
from attnc.backends.cuda.context import Types
from attnc.backends.cuda.emulate.launch import launch
from attnc.backends.cuda.emulate.memory import Memory
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.plan import sources
from attnc.backends.cuda.source import Source, stages
from attnc.backends.cuda.tensor_map import geometry
from attnc.backends.launch import Output, is_small, pack, table_dtype
from attnc.compile import lower
from attnc.dsl.trace import trace
from attnc.runtime.arrays import numpy_dtype
from attnc.runtime.binding import Bound, bind
from attnc.schedule.cuda_target import named
from attnc.schedule.mma import Mma
from attnc.schedule.short import PLAIN, Form
from attnc.schedule.wgmma import UNIT, Wgmma
from attnc.tile.program import Program, Store
from attnc.variant import with_lse
from attnc.verification import Report, report


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run: the emitted source, its schedule, the outputs (B,H,L[,F]).

    asked: how often blocks asked a queue for an item. flags: which units of 64 queries were computed again.
    """

    source: Source
    schedule: Mma | Wgmma
    outputs: list[Any]
    graph: Any
    bound: Bound
    asked: int
    flags: Any

    def report(self) -> Report:
        """Compared with the reference."""
        return report(self.graph, self.bound.inputs, self.outputs, [x.dtype.name for x in self.outputs])


def emitted(
    variant: Any,
    q: Any,
    k: Any,
    v: Any,
    operands: dict[str, Any],
    *,
    target: str = "sm_80",
    aligned: bool = True,
    change: Callable[[Program], Program] = lambda program: program,
    keys: int | None = None,
    form: Form = PLAIN,
    lse: bool = False,
) -> tuple[Source, Mma, Any, Bound, Any]:
    """The source in the first schedule that fits (of so many keys per tile), the graph, the inputs, the argument block."""
    bound = bind(variant.signature, q, k, v, operands)
    graph = trace(
        variant.function, variant.signature, kinds=bound.kinds, constants=bound.constants, absent=bound.absent
    )
    graph = with_lse(graph) if lse else graph
    program = change(lower(graph))
    block = layout(program)
    tables = {
        t.name: table_dtype(t, np.asarray(bound.inputs.operands[t.name]).dtype.name, "float32") for t in block.tables
    }
    types = Types(
        bound.dtype, tables, (bound.dtype,) * (block.outputs - lse) + ("float32",) * lse, is_small(block, bound.inputs)
    )
    found = sources(program, block, types, bound.features, named(target), aligned=aligned, title=graph.name, form=form)
    schedule, source = next(x for x in found if keys is None or x[0].keys == keys)
    return source, schedule, (graph, program, block), bound, types


def run(
    variant: Any,
    q: Any,
    k: Any,
    v: Any,
    operands: dict[str, Any],
    *,
    edit: Callable[[str], str] = lambda text: text,
    repair: Callable[[str], str] = lambda text: text,
    blocks: int = 2,
    **options: Any,
) -> Run:
    """Emulate a call. edit: a change of the source, to plant a fault, repair: of the second kernel. blocks: at once, where they take items from a queue."""
    source, schedule, (graph, program, block), bound, types = emitted(variant, q, k, v, operands, **options)
    x = bound.inputs.extents
    stores = [s for s in program.steps if isinstance(s, Store)]
    outputs = []
    for s, dtype in zip(stores, types.outputs, strict=True):
        features = [bound.features[s.feature]] if s.feature is not None else []
        outputs.append(np.full((x["batch"], x["heads"], x["q_len"], *features), np.nan, numpy_dtype(dtype)))
    executable = _executable(source, schedule, block, options.get("form", PLAIN))
    packed, arrays = pack(block, bound.inputs, [Output(0, y.strides[:3]) for y in outputs], "float32", 1)
    words = dict(zip(block.words, np.frombuffer(packed, np.int64).tolist(), strict=True))
    memory = Memory()
    # words of addresses
    names = [f"{role}_p" for role in block.roles] + [f"t_{t.name}_p" for t in block.tables]
    names += [f"t_{name}_sum{axis}" for name, axis in block.searches]
    words |= {name: memory.address(array, name) for name, array in zip(names, arrays, strict=True)}
    words |= {f"out{s.index}_p": memory.address(y, f"out{s.index}") for s, y in zip(stores, outputs, strict=True)}
    room = np.full(executable.workspace(x) // 4, np.nan, np.float32)
    room[: executable.cleared(x) // 4] = 0
    words["scratch"] = memory.address(room, "workspace") if room.size else 0
    words |= {m.name: memory.tensor_map(geometry(m, words, bound.features)) for m in source.maps}
    tables = {t.name: np.shape(bound.inputs.operands[t.name]) for t in block.tables}
    texts = {"summary": source.summary, "main": edit(source.text), "merge": source.merge and edit(source.merge.text)}
    texts["repair"] = source.repair and repair(source.repair.text)
    for stage in executable.stages:
        arguments = [words[name] for name in stage.parameters]
        grid = executable.blocks(stage, x, tables)
        groups = schedule.groups if isinstance(schedule, Wgmma) and stage.role == "main" else None
        grid = min(grid, blocks) if stage.persistent else grid
        launch(texts[stage.role], arguments, grid, stage.threads, stage.shared_bytes, memory, groups=groups)
    numbers = room.view(np.int32) if isinstance(schedule, Wgmma) else np.zeros(4, np.int32)
    return Run(source, schedule, outputs, graph, bound, int(numbers[0]), numbers[4:])


def _executable(source: Source, schedule: Mma, block: Any, form: Form) -> Executable:
    """As it would be compiled, without machine code."""
    return Executable(
        named("sm_80"),
        block,
        tuple(
            Stage(x.role, b"", "", x.parameters, x.threads, x.shared, None, x.maps, x.persistent)
            for x in stages(source, schedule)
        ),
        schedule.rows,
        True,
        form,
        source.record,
        flags=UNIT if source.repair else 0,
    )
