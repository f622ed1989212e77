"""The pipeline, one stage after the other: graph -> plan -> tile program -> source -> kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from attnc.backends.arguments import layout
from attnc.backends.block import Layout
from attnc.backends.cpu.context import Types
from attnc.backends.cpu.emit import emit
from attnc.backends.cpu.kernel import Kernel, build
from attnc.backends.launch import table_dtype
from attnc.ir.graph import Graph
from attnc.ir.text import expression
from attnc.ir.verify import verify
from attnc.passes.canonicalise import canonicalise
from attnc.passes.expand import expand
from attnc.passes.fold import fold
from attnc.passes.merge_factors import merge_factors
from attnc.passes.plan_sweeps import Plan, plan_sweeps
from attnc.runtime.arrays import ITEMSIZE
from attnc.runtime.cache import Cache
from attnc.schedule.choose import choose
from attnc.schedule.cpu_form import PLAIN, Can, CpuForm
from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target, host
from attnc.tile import merge, share
from attnc.tile.lower import lower as lower_plan
from attnc.tile.program import Program
from attnc.tile.stream import streams

if TYPE_CHECKING:
    from attnc.backends.cuda.executable import Executable
    from attnc.backends.cuda.source import Source
    from attnc.schedule.mma import Mma
    from attnc.schedule.short import Form
    from attnc.schedule.wgmma import Wgmma

Stage = Literal["graph", "fused", "tile", "source", "kernel"]
PASSES: tuple[Callable[[Graph], Graph], ...] = (canonicalise, fold, expand, canonicalise, fold, merge_factors)


@dataclass(frozen=True, slots=True)
class Problem:
    """What specialises a kernel besides its graph.

    dtype: of q, k, v and the outputs. features: extents of the feature axes, d and e among them. operands: their dtypes.
    wide_outputs: how many of the last outputs are stored in the compute type (the lse). schedule: None lets attnc choose.
    small: whether the kernel serves only calls with small lengths and integer scalars (`attnc.passes.narrow`). form: of a CPU
    kernel (`attnc.call.cpu_form`).
    """

    dtype: str
    features: Mapping[str, int]
    operands: Mapping[str, str]
    wide_outputs: int = 0
    target: Target = field(default_factory=host)
    schedule: Schedule | None = None
    small: bool = False
    form: CpuForm = PLAIN

    @property
    def compute(self) -> str:
        """The type of scores, weights and accumulators."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def chosen(self) -> Schedule:
        """The schedule that is given, or attnc's choice."""
        return self.schedule or choose(self.target, ITEMSIZE[self.compute], self.features, self.form)

    def types(self, block: Layout) -> Types:
        """The dtypes of a kernel with this argument block."""
        tables = {t.name: table_dtype(t, self.operands[t.name], self.compute) for t in block.tables}
        narrow = block.outputs - self.wide_outputs
        outputs = (self.dtype,) * narrow + (self.compute,) * self.wide_outputs
        return Types(self.compute, self.dtype, tables, outputs, self.small)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The results of the stages, as far as the pipeline went."""

    graph: Graph
    plan: Plan | None = None
    program: Program | None = None
    schedule: Schedule | None = None
    source: str | None = None
    kernel: Kernel | None = None
    form: CpuForm = PLAIN


def compile(
    graph: Graph,
    problem: Problem,
    *,
    program: Program | None = None,
    cache: Cache | None = None,
    stop_after: Stage = "kernel",
) -> Compiled:
    """Run the stages up to `stop_after`; with `program`, the graph's tile program, those after it.

    Raises UnsupportedError naming the expression that this version cannot compile.
    """
    if stop_after == "graph":
        return Compiled(graph)
    plan = fuse(graph) if program is None else None
    if stop_after == "fused":
        return Compiled(graph, plan)
    program = lower_plan(plan) if plan is not None else program
    assert program is not None
    if stop_after == "tile":
        return Compiled(graph, plan, program)
    block = layout(program)
    schedule = problem.chosen
    types = problem.types(block)
    source, room = emit(program, block, schedule, types, problem.features, title(graph), problem.form)
    if stop_after == "source":
        return Compiled(graph, plan, program, schedule, source)
    return Compiled(graph, plan, program, schedule, source, build(source, block, room, cache or Cache()), problem.form)


def cuda_source(
    graph: Graph, program: Program, problem: Problem, target: str, aligned: bool, form: Form | None = None
) -> str:
    """The CUDA kernel of a tile program in the fastest schedule that fits the target ("sm_90"), as Python source.

    aligned: whether rows of q, k and v are contiguous and begin at multiples of 16 bytes. form: `cuda_form` of the call; where it
    splits keys, the module of the kernel that merges follows.
    Raises UnsupportedError for an unknown target, and naming what CUDA kernels cannot do.
    """
    _, source = next(_cuda_sources(graph, program, problem, target, aligned, form))
    return source.text if source.merge is None else f"{source.text}\n\n{source.merge.text}"


def cuda_form(program: Program, extents: Mapping[str, int]) -> Form:
    """The form of the kernels for a call; extents: q_len, kv_len, group."""
    from attnc.schedule.short import choose as choose_form
    from attnc.tile.merge import obstacle
    from attnc.tile.share import shares

    q_len, kv_len, group = (extents[name] for name in ("q_len", "kv_len", "group"))
    return choose_form(q_len, kv_len, group, shares(program), not obstacle(program))


def cuda_executable(
    graph: Graph,
    program: Program,
    problem: Problem,
    target: str,
    aligned: bool,
    *,
    form: Form | None = None,
    cache: Cache | None = None,
) -> Executable:
    """The compiled kernels of a call on a GPU of `target` ("sm_90"). No GPU is needed. form: `cuda_form` of the call.

    Of the schedules that fit, the first whose kernel spills no registers, or few where that is tolerated; if all do, the one that spills least. All that
    were compiled are in the cache with their reports, so a warm start compiles nothing.
    Raises what `cuda_source` raises, and UnsupportedError where the packages that compile are missing.
    """
    from attnc.backends.cuda.executable import Executable, Stage
    from attnc.backends.cuda.kernel import build_all
    from attnc.backends.cuda.plan import reason
    from attnc.backends.cuda.source import stages
    from attnc.schedule.cuda_target import named
    from attnc.schedule.short import PLAIN
    from attnc.schedule.wgmma import UNIT, Wgmma

    block, chosen, cache, form = layout(program), named(target), cache or Cache(), form or PLAIN

    tried = []
    for schedule, source in _cuda_sources(graph, program, problem, target, aligned, form):
        parts = tuple(stages(source, schedule))
        built = build_all([(x.text, x.threads, x.shared) for x in parts], block, chosen, cache)
        found = tuple(
            Stage(
                x.role,
                y.cubin.code,
                y.cubin.entry,
                x.parameters,
                x.threads,
                x.shared,
                y.cubin.report,
                x.maps,
                x.persistent,
            )
            for x, y in zip(parts, built, strict=True)
        )
        report = next(x.report for x in found if x.role == "main" and x.report is not None)
        tried.append((schedule, source, report, found))
        if report.spilled <= schedule.tolerated and not report.warnings:
            break
    else:
        schedule, source, report, found = min(tried, key=lambda x: x[2].spilled)  # the first of equals
    passed = tuple((x, spilling) for x, _, spilling, _ in tried if x != schedule)
    kept = aligned, form, source.record, schedule, passed, UNIT if source.repair else 0, dict(problem.features)
    why = "" if isinstance(schedule, Wgmma) else reason(program, problem.dtype, problem.features, chosen, aligned, form)
    return Executable(chosen, block, found, schedule.rows, *kept, why)


def _cuda_sources(
    graph: Graph, program: Program, problem: Problem, target: str, aligned: bool, form: Form | None = None
) -> Iterator[tuple[Mma | Wgmma, Source]]:
    """The CUDA kernel in each schedule that fits, the fastest first."""
    from attnc.backends.cuda.context import Types as CudaTypes
    from attnc.backends.cuda.plan import sources
    from attnc.schedule.cuda_target import named
    from attnc.schedule.short import PLAIN

    block = layout(program)
    types = problem.types(block)
    cuda = CudaTypes(types.roles, types.tables, types.outputs, types.small)
    chosen, name = named(target), title(graph)
    return sources(program, block, cuda, problem.features, chosen, aligned=aligned, title=name, form=form or PLAIN)


def fuse(graph: Graph) -> Plan:
    """The graph simplified, and its reductions assigned to sweeps."""
    for step in PASSES:
        graph = verify(step(graph))
    return plan_sweeps(graph)


def lower(graph: Graph) -> Program:
    """The tile program of a graph."""
    return lower_plan(fuse(graph))


def abilities(program: Program) -> Can:
    """What the program can be compiled to for the CPU."""
    return Can(not share.obstacle(program), not merge.obstacle(program), streams(program), program.past is not None)


def title(graph: Graph) -> str:
    """The first lines of the emitted module: the variant and its formula."""
    formula = "\n".join(f"    {expression(x)}" for x in graph.outputs)
    return f"{graph.name}\n\n{formula}"
