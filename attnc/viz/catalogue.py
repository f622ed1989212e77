"""The library as a page of Markdown: of each variant its formula, its paper, how often the keys are read and what a pair costs."""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attnc import variants
from attnc.compile import lower
from attnc.dsl.signature import Operand
from attnc.ir.graph import topological
from attnc.runtime.binding import bind
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Program, graphs
from attnc.variant import Attention
from attnc.variants.samples import examples_of

B, HEADS, KV_HEADS, LENGTH, D, DV = 1, 2, 1, 8, 4, 3  # of the call that is traced
LETTERS = {"d": "D", "e": "Dv"}
HEADER = """# The library

`attnc.variants` holds these attentions, one file each: `from attnc import variants`, then `variants.NAME(Q, K, V, ...)` with the operands
by name. `python -m attnc.variants.NAME` draws one, `attnc check NAME` checks its kernels. This page is made from the files.

*Sweeps*: how many times the keys are read. *Multiply-adds*: in products and sums over features for each pair of a query and a key that is
visited, and for each vector that is projected once before; a pair's other work (exponentials, masks) comes on top. *Keys*: whose
tiles are visited, as attnc derives it from the mask: "all", those "up to its own" for each query, a "window" between two ends that move
with the query, "first to last" between fixed ends, or the "tiles of the mask", where some pair is proved or may be live. *Time*: "linear"
where long calls on the CPU take time in proportion to the length ([how](design/linear-time.md)), else it grows with the visited pairs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the page says of a variant."""

    name: str
    title: str
    formula: str
    paper: str
    operands: str
    sweeps: int
    work: str
    keys: str
    time: str


def catalogue() -> str:
    """The page; every variant is traced and lowered, none is compiled."""
    entries = [entry(name) for name in variants.__all__]
    lines = [
        HEADER,
        "",
        "| variant | | sweeps | multiply-adds | keys | time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| [{x.name}](#{x.name}) | {x.title} | {x.sweeps} | {x.work} | {x.keys} | {x.time} |" for x in entries]
    for x in entries:
        lines += ["", f"## {x.name}", "", x.title + ".", "", x.formula]
        lines += ["", f"Operands: {x.operands}."] if x.operands else []
        lines += ["", x.paper]
    return "\n".join(lines) + "\n"


def entry(name: str) -> Entry:
    """Of a variant of the library."""
    variant: Attention = getattr(variants, name)
    text = inspect.cleandoc(sys.modules[variant.function.__module__].__doc__ or "")
    head, _, paper = text.partition("\n\n")
    title = " ".join(head.split()).removesuffix(".")
    formula = _escaped(inspect.cleandoc(variant.__doc__ or ""))
    program = _program(name, variant)
    keys = dict.fromkeys(_keys(x) for x in program.sweeps)
    return Entry(
        name,
        _escaped(title),
        formula,
        _escaped(paper),
        _operands(variant),
        len(program.sweeps),
        _work(program),
        ", ".join(keys),
        "pairs" if program.past is None else "linear",
    )


def _program(name: str, variant: Attention) -> Program:
    rng = np.random.default_rng(0)
    shapes = (HEADS, LENGTH, D), (KV_HEADS, LENGTH, D), (KV_HEADS, LENGTH, DV)
    q, k, v = (rng.standard_normal((B, *shape)) for shape in shapes)
    operands = examples_of(name, rng, B, HEADS, KV_HEADS, LENGTH, LENGTH, D, DV, np.float64)
    call = bind(variant.signature, q, k, v, operands, "bhld")
    return lower(variant._trace(call))


def _work(program: Program) -> str:
    """D + Dv: of all sweeps, the features that a pair multiplies; and D·R for a projection to R features of each vector."""
    found = Counter(LETTERS.get(f, f.upper()) for sweep in program.sweeps for f in _features(sweep))
    pairs = (x if n == 1 else f"{n}·{x}" for x, n in found.items())
    vectors = dict.fromkeys(_projections(program))
    return " + ".join(pairs) + "".join(f"; {x}" for x in vectors)


def _features(sweep: Keys) -> Iterator[str]:
    for s in sweep.partial or sweep.full:
        if isinstance(s, Dot | DotAcc) or (isinstance(s, FeatureReduce) and s.axes == "ij"):
            yield s.feature


def _projections(program: Program) -> Iterator[str]:
    for s in program.statements():
        if not isinstance(s, Load):
            continue
        for x in topological(graphs(s)):
            if x.op == "project":
                a, b = (LETTERS.get(x[end], x[end].upper()) for end in ("contract", "result"))
                yield f"{a}·{b} each {'query' if s.side == 'i' else 'key'}"


def _keys(sweep: Keys) -> str:
    ends = sweep.run
    if ends is None:
        free = sweep.possible.op == "const" and sweep.hull is None
        return "all" if free else "tiles of the mask"
    moves = [any(x.op == "value" for x in topological([end])) for end in ends]
    return {(True, True): "window", (False, True): "up to its own"}.get((moves[0], moves[1]), "first to last")


def _operands(variant: Attention) -> str:
    return ", ".join(f"`{name}: {_declared(x)}`" for name, x in variant.signature.operands.items())


def _declared(x: Operand) -> str:
    optional = "" if x.required else " | None = None" if x.default is None else f" = {x.default!r}"
    return x.declared.replace("'", '"') + optional


def _escaped(text: str) -> str:
    """Outside of `code`, without marks that Markdown would take for its own."""
    return re.sub(r"`[^`]*`|[*_|<]", lambda m: m[0] if m[0][0] == "`" else f"\\{m[0]}", text)
