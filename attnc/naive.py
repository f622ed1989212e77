"""The naive program that `verify` compares with: unfused, in the dtype of the inputs. How far off it is, is what a kernel may be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from attnc.interp import Array, Inputs, Interpreter, Value, interpret
from attnc.ir.graph import Graph, Node

MOST = 8  # runs
CHANCE = 6  # one in so many results is moved up, and one down
EXACT = frozenset((
    "const", "scalar", "extent", "index", "role", "gather", "extreme", "cast", "neg", "abs", "sign", "floor", "minimum",
    "maximum", "where", "lt", "le", "eq", "ne", "and", "or", "xor", "not", "shl", "shr",
))  # fmt: skip


def naive(graph: Graph, inputs: Inputs, reference: list[Array]) -> Iterator[list[Array]]:
    """The outputs of the naive program, run by run.

    Every node is rounded to q's dtype, sums are in at least float32. In float64, where that would be the reference itself, sums
    run backwards and results are those of other roundings. One run is one throw of the dice: in float32 and float64, whose
    noise a kernel is compared with and not outdone by far, more follow with other roundings again.
    """
    q = inputs.q.dtype
    runs = range(MOST)
    if q.name != "float64":
        yield _rounded(graph, inputs, reference)
        runs = range(MOST - 1) if q.name == "float32" else range(0)
    for seed in runs:
        yield _other(graph, inputs, q.type, seed)


def _other(graph: Graph, inputs: Inputs, dtype: Any, seed: int) -> list[Array]:
    return interpret(graph, inputs, dtype=dtype, reverse=True, make=partial(OtherRoundings, seed=seed))


def _rounded(graph: Graph, inputs: Inputs, reference: list[Array]) -> list[Array]:
    """What overflows in float32 though the reference is finite is computed again with the range of float64."""
    q = inputs.q.dtype
    found = interpret(graph, inputs, dtype=np.float32, rounding=q)
    lost = [np.isfinite(ref) & ~np.isfinite(x) for x, ref in zip(found, reference, strict=True)]
    if any(x.any() for x in lost):
        again = interpret(graph, inputs, dtype=np.float64, rounding=q if q.itemsize < 4 else np.float32)
        found = [np.where(bad, y, x) for x, y, bad in zip(found, again, lost, strict=True)]
    return found


class OtherRoundings(Interpreter):
    """Evaluates as if every inexact result had been rounded by chance: a third of them are a neighbour of what they were.

    That is how often two numbers, rounded up or down by chance in proportion to what is nearer, differ.
    """

    def __init__(self, *args: Any, seed: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.random = np.random.default_rng([seed, self.start])

    def _evaluate(self, x: Node) -> Value:
        found = super()._evaluate(x)
        if found.data.dtype.kind != "f" or x.op in EXACT or (x.op == "reduce" and x["how"] != "sum"):
            return found
        return Value(moved(found.data, self.random), found.axes)


def moved(x: Array, random: np.random.Generator) -> Array:
    """x, of which a third is the next number up or down.

    Numbers whose lower half of bits is 0 stay: integers, halves, infinities, NaN were hardly rounded, and comparisons ask for them.
    """
    bits: Array = np.ascontiguousarray(x).view(np.int64 if x.dtype.itemsize == 8 else np.int32).reshape(x.shape)
    low = (1 << int(np.finfo(x.dtype).nmant) // 2) - 1
    thrown = random.integers(0, CHANCE, x.shape, np.int8)
    step = np.where((bits & low) == 0, 0, (thrown == 0) * -1 + (thrown == 1) * 1)
    spacing = np.spacing(np.where(step == 0, x.dtype.type(1), np.abs(x)))
    return np.asarray(np.where(step == 0, x, x + step.astype(x.dtype) * spacing))
