"""Looking at a variant: its stages, its plan for given inputs, and which level disagrees with the graph."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attnc.backends.arguments import layout
from attnc.backends.cpu import threads
from attnc.compile import Problem, Stage, compile
from attnc.interp import Array, Inputs, Interpreter, Value, interpret
from attnc.ir.graph import Graph, Node, node, substitute
from attnc.ir.text import expression
from attnc.passes.bound import corner
from attnc.passes.plan_sweeps import Plan
from attnc.tile import interp as tile_interp
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
            factor = expression(a.k) if a.k is not None else ""
            lines.append(f"  {a.name} = {a.how} over j of {' * '.join(x for x in (power, factor) if x) or '1'}")
    return "\n".join([*lines, *plan.reasons])


def explain(graph: Graph, program: Program, problem: Problem, inputs: Inputs) -> str:
    """The plan for given inputs."""
    schedule = compile(graph, problem, stop_after="source").schedule
    assert schedule is not None
    x = inputs.extents
    lines = [
        f"{graph.name}: q ({x['batch']}, {x['heads']}, {x['q_len']}, {x['d']}), kv length {x['kv_len']}, "
        f"value dim {x['e']}, group {x['group']}, {problem.dtype} computed in {problem.compute}",
        f"schedule: tiles of {schedule.rows} queries x {schedule.keys} keys, {schedule.width} lanes, "
        f"{threads.get_num_threads()} threads",
    ]
    pairs = x["batch"] * x["heads"] * x["q_len"] * x["kv_len"]
    for keys in program.sweeps:
        empty, full, partial = classes(keys, inputs, (schedule.rows, schedule.keys))
        total = max(empty + full + partial, 1)
        lines.append(f"sweep {keys.number}: {empty} tiles empty, {full} full, {partial} partial, of {total}")
        flop = sum(_flop(s, problem) for s in (keys.partial or keys.full)) * pairs * (full + partial) / total
        lines.append(f"  about {flop / 1e9:.3g} GFLOP in matrix products and sums over features")
    lines += [f"note: {reason}" for reason in program.reasons]
    size = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[problem.dtype]
    read = (inputs.q.size + inputs.k.size + inputs.v.size) * size
    lines.append(f"bytes of q, k, v: {read / 1e6:.3g} MB")
    return "\n".join([*lines, *(f"note: {text}" for text in notes(graph, program, inputs))])


def _flop(s: Statement, problem: Problem) -> int:
    if isinstance(s, Dot | DotAcc) or (isinstance(s, FeatureReduce) and s.axes == "ij"):
        return 2 * problem.features[s.feature]
    return 0


def classes(keys: Keys, inputs: Inputs, tile: tuple[int, int]) -> tuple[int, int, int]:
    """How many tiles of a sweep are empty, full and partial, over all batches and heads."""
    x = inputs.extents
    leaves: dict[Node, Node] = {}
    bindings: dict[Node, Value] = {}
    for axis, length, step in (("i", x["q_len"], tile[0]), ("j", x["kv_len"], tile[1])):
        start = np.arange(0, length, step)
        for end, data in (("0", start), ("1", np.minimum(start + step, length) - 1)):
            leaf = node("value", name=f"{axis}{end}", axes=(axis,), kind="int")
            leaves[corner(f"{axis}{end}")] = leaf
            bindings[leaf] = Value(data, (axis,))
    possible, certain = substitute([keys.possible, keys.certain], leaves)
    run = Interpreter(inputs, np.float64, 0, 1, bindings=bindings)
    shape = (x["batch"], x["heads"], -(-x["q_len"] // tile[0]), -(-x["kv_len"] // tile[1]))
    some, all_ = (np.broadcast_to(_spread(v), shape) for v in run.run([possible, certain]))
    if not keys.partial and not keys.open:
        all_ = np.broadcast_to(np.asarray(True), shape)
    elif not keys.full or keys.open:
        all_ = np.broadcast_to(np.asarray(False), shape)
    return int((~some).sum()), int((some & all_).sum()), int((some & ~all_).sum())


def _spread(x: Value) -> Array:
    sizes = dict(zip(x.axes, x.data.shape, strict=True))
    return x.data.reshape([sizes.get(a, 1) for a in ("b", "h", "i", "j")])


def notes(graph: Graph, program: Program, inputs: Inputs) -> Iterator[str]:
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
    for table_ in layout(program).tables:
        if table_.matrix:
            yield f"{table_.name} is copied once per call, in the compute type"
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
