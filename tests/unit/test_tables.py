"""The tables have no holes: every op and every statement has a rule wherever one is needed."""

import ast
import inspect
import itertools
import pkgutil
import re
import textwrap
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import attnc
from attnc.backends.arguments import layout
from attnc.backends.cpu import boxes, elementwise, emit, leaves, memory, microkernel, past, rearrange, summary, sweep
from attnc.backends.cpu.context import Types
from attnc.backends.cpu.emit import emit as emit_source
from attnc.backends.cuda import body
from attnc.backends.cuda import emit as cuda_emit
from attnc.backends.cuda.hopper import skeleton
from attnc.compile import lower
from attnc.interp import ELEMENTWISE, Inputs, Interpreter, interpret
from attnc.ir.graph import Graph, Node, const, node, topological
from attnc.ir.ops import OPS, Kind
from attnc.ir.text import expression, listing
from attnc.ir.verify import verify
from attnc.passes import bound as bounds
from attnc.passes.expand import expand
from attnc.schedule.schedule import Schedule
from attnc.tile import interp as tile_interp
from attnc.tile import text
from attnc.tile.program import Keys, Program, Statement, Step, Store

STATEMENTS = {*typing.get_args(Statement), Store}
COMPOSITE = {"softmax", "lse"}  # `expand` rewrites them before anything is planned
PRODUCTS = {"attend": "gemm_scale", "dot": "gemm_zero", "project": "gemm_zero"}
SCHEDULE = Schedule(rows=16, keys=24, width=8, tile=(6, 2))

Q, K, V = (node("role", name=name) for name in "qkv")
I, J, H = (node("index", name=name) for name in "ijh")
S = node("mul", node("dot", Q, K, axis="d"), const(0.25))
POSITIVE = node("add", node("abs", S), const(0.5))
FEATURE = node("reduce", node("tanh", node("add", Q, K)), how="sum", axis="d")
MASK = node("le", J, I)
MATRIX = node("gather", name="w", dims=("d", "e"), features=("d", "e"), kind="float")
TABLE = node("gather", node("floordiv", J, const(2)), name="t", dims=("j",), features=(), kind="float")


def scores(x: Node) -> Node:
    """Any number per pair, or free of it, as a score that depends on the pair."""
    if x.dtype == "bool":
        x = node("where", x, const(1.0), const(0.25))
    elif x.dtype == "int":
        x = node("mul", node("cast", x, kind="float"), const(0.125))
    return node("add", x, S)


def example(name: str) -> Node:
    """An output of a variant that needs the op."""
    match name:
        case "const" | "role" | "dot" | "attend" | "softmax":
            return attend(node("mul", S, const(2.0)))
        case "lse":
            return node("lse", S, MASK, masked=True, sink=False)
        case "scalar" | "extent" | "index":
            leaf = {"scalar": {"name": "c", "kind": "int"}, "extent": {"name": "kv_len"}, "index": {"name": "h"}}[name]
            return attend(scores(node(name, **leaf)))
        case "gather":
            return attend(scores(TABLE))
        case "project":
            return node("project", Q, MATRIX, contract="d", result="e")
        case "reduce":
            return attend(FEATURE)
        case "cast":
            return attend(scores(node("cast", node("sub", I, J), kind="float")))
        case "value":
            return attend(S)  # leaves of tile programs: the lowering makes them
        case "extreme":
            return node("attend", node("softmax", S, node("lt", const(0.0), TABLE), masked=True, sink=False), V)
    return attend(scores(elementwise_example(name)))


def elementwise_example(name: str) -> Node:
    if name == "where":
        return node("where", MASK, S, const(0.0))
    if name in ("and", "or", "xor"):
        return node(name, MASK, node("lt", node("mod", J, const(3)), const(2)))
    if name == "not":
        return node("not", MASK)
    if name in ("shl", "shr", "floordiv", "mod"):
        return node(name, node("add", I, J), const(2))
    if name in ("lt", "le", "eq", "ne"):
        return node(name, I, J)
    if name == "weight":
        return node("maximum", node(name, S, const(5.0), const(-1e3)), const(1e-3))
    if name == "neg":  # a sum with a negative number is simplified to a difference
        return node("maximum", node(name, S), const(-1.0))
    if OPS[name].arity == 1:
        return node(name, POSITIVE)
    return node(name, POSITIVE, const(1.5))


def attend(x: Node) -> Node:
    return node("attend", node("softmax", x, MASK, masked=True, sink=False), V)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, n, f)) for n, f in ((5, 3), (7, 3), (7, 4)))
    tables = {"w": rng.standard_normal((3, 4)), "t": rng.standard_normal(7), "c": 3}
    return Inputs(q, k, v, tables)


def source_of(program: Program) -> str:
    block = layout(program)
    types = Types("float64", "float64", {t.name: "float64" for t in block.tables}, ("float64",) * block.outputs)
    return emit_source(program, block, SCHEDULE, types, {"d": 3, "e": 4}, "a test")[0]


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_interpreted_lowered_and_emitted(name: str, inputs: Inputs) -> None:
    graph = verify(Graph((example(name),), name))
    program = lower(graph)
    if name == "extreme":  # the bounds of tables
        assert any(x.op == name for keys in program.sweeps for x in topological([keys.possible]))
    elif name != "value":
        assert any(x.op == name for x in graph.nodes())
    (expected,), (found,) = interpret(graph, inputs), tile_interp.run(program, inputs, tile=(2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert np.isfinite(expected).all() and np.abs(expected).max() > 1e-3
    text = source_of(program)
    compile(text, "kernel.py", "exec")
    if spelling := leaves.RULES.get(name, PRODUCTS.get(name)):
        assert re.search(rf"\b{spelling.split('(')[0]}\(", text.split("def kernel")[1])


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_printed(name: str) -> None:
    graph = Graph((example(name),), name)
    assert len(listing(graph).splitlines()) > 2 and str(graph.to_dot()).startswith("digraph")
    assert "{" not in expression(graph.outputs[0])


def kinds_of(name: str) -> set[Kind]:
    """The kinds of result that an elementwise op has."""
    if name == "cast":
        return {"bool", "int", "float"}
    arity = OPS[name].arity or 0
    found = {OPS[name].kind(kinds, {}) for kinds in itertools.product(("bool", "int", "float"), repeat=arity)}
    return {kind for kind in found if kind is not None}


def test_every_op_has_one_rule_per_consumer() -> None:
    for name, op in OPS.items():
        own = hasattr(Interpreter, f"_{name}")
        assert own != (name in ELEMENTWISE) or name == "value", f"the interpreter's rule of {name}"
        if op.elementwise:
            assert name == "cast" or name in leaves.RULES, f"no spelling of {name}"
            for kind in kinds_of(name):
                assert name in bounds.RULES[kind], f"no interval rule of {name} for {kind}"
    assert set(leaves.RULES) <= set(OPS) and set(ELEMENTWISE) <= set(OPS)
    assert all(OPS[name].elementwise for name in (*leaves.RULES, *ELEMENTWISE))


def test_composite_ops_are_gone_after_expansion() -> None:
    graph = expand(Graph((example("softmax"), node("lse", S, const(0.5), masked=False, sink=True))))
    assert not COMPOSITE & {x.op for x in graph.nodes()}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (elementwise, emit.ELEMENTWISE),
        (memory, emit.MEMORY),
        (microkernel, emit.GEMM),
        (rearrange, emit.REARRANGE),
        (boxes, emit.BOXES),
        (summary, emit.SUMMARY),
    ],
    ids=lambda x: getattr(x, "__name__", "names"),
)
def test_what_emitted_code_imports_exists(module: Any, names: str) -> None:
    missing = [name for name in names.split() if not callable(getattr(module, name, None))]
    assert not missing


def test_every_spelling_is_an_importable_intrinsic() -> None:
    known = set(f"{emit.ELEMENTWISE} {emit.MEMORY}".split())
    used = {rule.split("(")[0] for rule in leaves.RULES.values()} | {"cast_float", "cast_int"}
    assert used <= known


def test_no_public_name_is_hidden_by_a_module() -> None:
    """Importing attnc.x binds attnc.x to that module: a public function of this name would be gone."""
    modules = {x.name for x in pkgutil.iter_modules(attnc.__path__)}
    taken = modules & set(attnc.__all__)
    assert {name for name in taken if not inspect.ismodule(getattr(attnc, name))} == set()


def matched(function: Callable[..., Any]) -> set[str]:
    """The classes that the `match` statements of a function name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {ast.unparse(x.cls) for x in ast.walk(tree) if isinstance(x, ast.MatchClass)}


def test_every_statement_has_a_rule() -> None:
    names = {x.__name__ for x in STATEMENTS}
    item = tile_interp.Item
    of_parts = {"Save", "Merge"}  # of programs whose keys are split, which CUDA kernels alone are
    assert matched(item.step) | matched(item.statement) == names | {"Keys"} | of_parts
    assert matched(text.line) == names
    inside, outside = {x.__name__ for x in typing.get_args(Statement)}, {x.__name__ for x in typing.get_args(Step)}
    assert matched(sweep._body) == matched(body.Body._statement) == inside
    assert matched(emit._steps) == matched(skeleton.Block._steps) == outside - of_parts
    assert matched(cuda_emit._steps) == outside
    assert matched(past.begin) == {"Load", "FeatureReduce", "RowMap"}  # of the queries of a past


def test_every_statement_occurs_is_printed_and_is_executed(inputs: Inputs) -> None:
    w = node("exp", node("sub", S, node("reduce", S, how="max", axis="j")))
    total = node("reduce", w, how="sum", axis="j")
    column = node("reduce", node("abs", K), how="max", axis="d")
    outputs = (
        node("div", node("attend", w, V), node("add", total, node("reduce", Q, how="sum", axis="d"))),
        attend(node("add", FEATURE, column)),
    )
    graph = Graph(outputs)
    program = lower(graph)
    seen = {type(s) for s in program.statements()}
    assert seen == STATEMENTS
    for s in program.statements():
        assert text.line(s) in str(program)
    assert sum(isinstance(x, Keys) for x in program.steps) == len(program.sweeps)
    for expected, found in zip(interpret(graph, inputs), tile_interp.run(program, inputs, tile=(2, 3)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
