"""Looking at a variant: its stages, its plan for given inputs, and which level disagrees with the graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnc.backends.arguments import layout
from attnc.backends.cpu import threads
from attnc.backends.cpu.slow_lanes import slow_lanes
from attnc.blocks import BlockMap, block_map
from attnc.compile import Problem, Stage, compile, cuda_executable, cuda_form, fuse
from attnc.interp import Array, Inputs, interpret
from attnc.ir.graph import Graph, Node, topological
from attnc.ir.text import BRIEF, expression
from attnc.passes.bound.affine import is_positional
from attnc.passes.plan_sweeps import Accumulator, Plan
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule import short
from attnc.schedule.cpu_reasons import reasons
from attnc.schedule.cuda_target import WARP
from attnc.schedule.mma import Mma
from attnc.schedule.wgmma import Wgmma
from attnc.tile import interp as tile_interp
from attnc.tile import share
from attnc.tile.classes import classify, needs
from attnc.tile.merge import obstacle
from attnc.tile.past import Outer, Past
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Program, Statement
from attnc.verification import distance, report

EXACT = 1e-10


def show(stage: Stage, graph: Graph, problem: Problem) -> str:
    """The text of a stage."""
    done = compile(graph, problem, stop_after=stage)
    match stage:
        case "graph":
            return str(graph)
        case "fused":
            assert done.plan is not None
            return plan_text(done.plan)
        case "tile":
            return str(done.program)
        case _:
            assert done.source is not None
            return done.source


def plan_text(plan: Plan) -> str:
    """The simplified graph and what each sweep accumulates."""
    lines = [str(plan.graph)]
    for number, sweep in enumerate(plan.sweeps):
        lines.append(f"sweep {number}:")
        for a in sweep:
            power = f"exp({expression(a.e)})" if a.e is not None else ""
            k = a.k if a.moment is None else a.moment.weight
            factor = expression(k) if k is not None else ""
            lines.append(
                f"  {a.name} = {a.how} over j of {' * '.join(x for x in (power, factor, _moment(a)) if x) or '1'}"
            )
    return "\n".join([*lines, *plan.reasons])


def _moment(a: Accumulator) -> str:
    """What a sum about a centre has besides its weights."""
    if a.moment is None:
        return ""
    first, weight = a.moment.first, a.moment.below[0]
    centre = f"{first.name} / {weight.name}" if first is not None else "max of the exponent"
    power = len(a.moment.below)
    return f"({expression(a.moment.x)} - {centre})" + (f"**{power}" if power > 1 else "")


def explain(graph: Graph, program: Program, problem: Problem, inputs: Inputs, target: str | None = None) -> str:
    """The plan for given inputs, on the CPU or on a CUDA target."""
    x = inputs.extents
    device = _cpu(program, problem, x) if target is None else _cuda(graph, program, problem, target, x)
    lines = [
        f"{graph.name}: q ({x['batch']}, {x['heads']}, {x['q_len']}, {x['d']}), kv length {x['kv_len']}, "
        f"value dim {x['e']}, group {x['group']}, {problem.dtype} computed in {problem.compute}",
        *device.lines,
    ]
    pairs = x["batch"] * x["heads"] * x["q_len"] * x["kv_len"]
    reasons = [*program.reasons]
    for keys, sweep in zip(program.sweeps, fuse(graph).sweeps, strict=True):
        blocks = block_map(graph.name, keys, sweep, inputs, device.tile)
        where = f"sweep {keys.number}"
        if target is None and problem.form.linear and program.past is not None:
            lines.append(f"{where}: about {_states(program.past, problem, x) / 1e9:.3g} GFLOP for the states")
            lines.append("  and the pairs of each tile of queries with keys that not all of them see")
            where = "  all pairs would be"
        lines.append(
            f"{where}: {blocks.visited} of {blocks.total} tiles visited ({blocks.full} full, "
            f"{blocks.partial} partial), {blocks.empty} empty"
        )
        if blocks.partial:
            looked = "" if blocks.waste.exact else f" (of {blocks.waste.tiles} that were looked at)"
            skipped = (
                f", except for keys that a block of {device.block} queries skips"
                if device.block < device.tile[0] and _by_rows(keys)
                else ""
            )
            lines.append(
                f"  {blocks.wasted:.1%} of the pairs inside partial tiles{looked} are masked: wasted work{skipped}"
            )
        flop = sum(_flop(s, problem) for s in (keys.partial or keys.full)) * pairs * (1 - blocks.sparsity)
        lines.append(f"  about {flop / 1e9:.3g} GFLOP in matrix products and sums over features")
        reasons += undecided(keys, sweep, blocks, inputs)
    read = (inputs.q.size + inputs.k.size + inputs.v.size) * ITEMSIZE[problem.dtype]
    lines.append(f"bytes of q, k, v: {read / 1e6:.3g} MB")
    reasons += notes(graph, inputs)
    if target is None:
        reasons += [*copies(program, inputs), *slow_lanes(graph, ITEMSIZE[problem.compute] * 8, problem.target)]
    return "\n".join([*lines, *(f"note: {text}" for text in dict.fromkeys(reasons))])


def _states(past: Past, problem: Problem, extents: Mapping[str, int]) -> int:
    """Operations of linear time: what each key adds to the states, and each query takes from them."""

    def size(outer: Outer) -> int:
        return 2 * math.prod(problem.features[f] for f in (outer.feature, outer.out) if f is not None)

    added = extents["kv_len"] * sum(map(size, past.outers))
    taken = extents["q_len"] * sum(size(outer) for share in past.shares for _, outer in share.terms)
    return extents["batch"] * extents["heads"] * (added + taken)


@dataclass(frozen=True, slots=True)
class _Device:
    """What a plan says of where it runs. tile: queries and keys. block: queries that skip keys on their own."""

    lines: list[str]
    tile: tuple[int, int]
    block: int


def _cpu(program: Program, problem: Problem, extents: Mapping[str, int]) -> _Device:
    s, form = problem.chosen, problem.form
    what = "rows" if form.share else "queries"
    line = f"schedule: tiles of {s.rows} {what} x {s.keys} keys, {s.width} lanes, {threads.get_num_threads()} threads"
    why = reasons(s, problem.target, form, extents, share.obstacle(program), obstacle(program), program.quadratic)
    queries = min(-(-s.rows // extents["group"]), extents["q_len"]) if form.share else s.rows
    return _Device([line, *(f"  {text}" for text in why)], (queries, s.keys), s.block[1] * s.width)


def _cuda(graph: Graph, program: Program, problem: Problem, target: str, extents: Mapping[str, int]) -> _Device:
    """Compiles the kernels."""
    form = cuda_form(program, extents)
    found = cuda_executable(graph, program, problem, target, True, form=form)
    s, rows = found.schedule, found.rows
    assert s is not None
    kind, threads = _threads(s)
    lines = [f"schedule: {kind} for {found.target.name}, tiles of {s.rows} queries x {s.keys} keys, {threads}"]
    if found.reason:
        lines.append(f"  {kind}, not wgmma: {found.reason}")
    if program.past is not None:
        lines.append("  time grows with the pairs that are visited: linear time is what CPU kernels have")
    if form.share:
        lines.append(
            f"  a tile's rows are the queries of all {extents['group']} query heads that share a key-value head"
        )
        rows = min(-(-rows // extents["group"]), extents["q_len"])
    if form.split:
        n = extents["kv_len"]
        lines.append(
            f"  keys are split into {short.parts(n)} parts of {short.part(n)}, whose states a second kernel merges"
        )
    elif short.choose(extents["q_len"], extents["kv_len"], 1, False, True).split:
        lines.append(f"  keys are not split over blocks: {obstacle(program)}")
    for stage in found.stages:
        r = stage.report
        assert r is not None
        resident = found.target.resident(r.registers, stage.threads, stage.shared_bytes)
        lines.append(
            f"{stage.role} kernel: {r}, {stage.shared_bytes} bytes of dynamic shared memory, {resident} blocks of "
            f"{stage.threads} threads on a multiprocessor at once; {r.front + r.link:.1f} s to compile"
        )
    for tried, r in found.passed:
        lines.append(f"  not in {tried.rows} x {tried.keys} with {tried.threads // WARP} warps: {r}")
    return _Device(lines, (rows, s.keys), rows)


def _threads(s: Mma | Wgmma) -> tuple[str, str]:
    """The skeleton of a schedule, and what its threads do."""
    if isinstance(s, Wgmma):
        return "wgmma", f"{s.consumers} groups of 4 warps, each with 64 queries, and one that has keys copied"
    return "mma", f"{s.warps} warps of {16 * s.tall} queries"


def _by_rows(keys: Keys) -> bool:
    """Whether the first or last key that queries need depends on which queries these are."""
    return any(x.op == "value" for x in topological(keys.run or keys.hull or ()))


def undecided(keys: Keys, sweep: Sequence[Accumulator], blocks: BlockMap, inputs: Inputs) -> Iterator[str]:
    """Why tiles stay partial that no border of the mask runs through."""
    if keys.open or not keys.full:
        decided = classify(sweep).decided
        for c in dict.fromkeys(c for a in sweep for c in needs(a) if c not in decided):
            read = "it has no bound" if is_positional(c) else "it depends on more than positions"
            yield f"{expression(c, budget=BRIEF)} is evaluated in every visited tile: {read}"
    if not blocks.partial:
        return
    found = blocks.waste
    share = f"{found.uniform} of {found.tiles} partial tiles looked at are in truth empty or full"
    tables = unsorted(keys, inputs) if found.uniform or found.share > 0.5 else []
    for name, axis in tables:
        overlap = f"{name} is not sorted along {axis}: tiles whose entries overlap stay partial"
        yield f"{overlap} ({share})" if found.uniform else overlap
    if found.uniform and not tables and not keys.open and keys.full:
        yield f"{share}: the bound of the mask is not exact there"


def unsorted(keys: Keys, inputs: Inputs) -> list[tuple[str, str]]:
    """The tables of numbers whose extremes decide the classes and which go up and down, with the axis along which they do."""
    tables = [
        x
        for x in topological([keys.possible, keys.certain, *(keys.run or ())])
        if x.op == "extreme" and x["kind"] != "bool"
    ]
    found = []
    for name, position, axis in sorted({(x["name"], x["axis"], x["dims"][x["axis"]]) for x in tables}):
        table = np.moveaxis(np.asarray(inputs.operands[name]), position, -1)
        rises, falls = ((step(table[..., 1:], table[..., :-1])).sum(axis=-1) for step in (np.greater, np.less))
        if (np.minimum(rises, falls) > 1).any():  # one step back may be padding at the end
            found.append((name, axis))
    return found


def _flop(s: Statement, problem: Problem) -> int:
    if isinstance(s, Dot | DotAcc) or (isinstance(s, FeatureReduce) and s.axes == "ij"):
        return 2 * problem.features[s.feature]
    return 0


def notes(graph: Graph, inputs: Inputs) -> Iterator[str]:
    """What a user should know of these inputs."""
    x = inputs.extents
    bare = {("le", "j", "i"), ("lt", "j", "i")}
    for y in graph.nodes():
        named = [o["name"] if o.op == "index" else "" for o in y.operands]
        if x["q_len"] != x["kv_len"] and (y.op, *named) in bare:
            yield (
                f"{expression(y)} aligns query 0 with key 0, but there are {x['q_len']} queries and {x['kv_len']} keys; for "
                "decoding write j <= i + at.kv_len - at.q_len"
            )
    for table in sorted({y["name"] for y in graph.nodes() if y.op == "gather" and _clamped(y)}):
        yield f"indices into {table} are clamped to its extent"


def copies(program: Program, inputs: Inputs) -> Iterator[str]:
    """What a call on the CPU copies."""
    for table in layout(program).tables:
        if table.matrix:
            yield f"{table.name} is copied once per call, in the compute type"
    for name, array in (("Q", inputs.q), ("K", inputs.k), ("V", inputs.v)):
        if array.strides[-1] != array.itemsize and array.shape[-1] > 1:
            yield f"{name} is copied once per call: its last axis is not contiguous"


def _clamped(x: Node) -> bool:
    pairs = zip(x.operands, x["dims"], strict=False)
    return any(not (o.op == "index" and o["name"] == axis) for o, axis in pairs)


def disagreement(graph: Graph, program: Program, inputs: Inputs, outputs: list[Array], dtypes: list[str]) -> str:
    """ "none", or the first level that differs from the graph: "tile" or "kernel", with its error."""
    reference = interpret(graph, inputs)
    tiled = tile_interp.run(program, inputs, tile=(16, 16))
    for n, ref in enumerate(reference):
        gap, top = distance(tiled[n], ref), float(np.abs(np.where(np.isfinite(ref), ref, 0)).max(initial=1.0))
        if gap > EXACT * top:
            return f"tile: output {n} of the tile program is off by {gap:.2e} in float64"
    found = report(graph, inputs, outputs, dtypes)
    for n, (gap, limit) in enumerate(zip(found.errors, found.bounds, strict=True)):
        if gap > limit:
            return f"kernel: output {n} is off by {gap:.2e}, allowed {limit:.2e}; the tile program is right"
    return "none: graph, tile program and kernel agree"
