"""Every op's interval rule is sound: for random forms of i and j on random boxes, and any number to compare with."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from attnc.interp import Inputs, Interpreter, align
from attnc.ir.graph import Node, const, node, rewrite
from attnc.ir.ops import OPS
from attnc.passes.bound import bound
from attnc.passes.canonicalise import simplify
from attnc.passes.fold import fold_node
from attnc.tile.program import Keys, RowMap
from attnc.tile.regions import classify

LENGTH = 40
BOXES = 12
EXAMPLES = 15  # calls of a rule, each with BOXES boxes and up to four comparisons
RNG = np.random.default_rng(0)
STRANGE = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -7.5, 0.25])
TABLES = {
    "ints": RNG.integers(-20, 21, LENGTH),
    "sorted": np.sort(RNG.integers(-20, 60, LENGTH)),
    "floats": RNG.standard_normal(LENGTH) * 8,
    "strange": STRANGE[np.where(RNG.random(LENGTH) < 0.7, 3, RNG.integers(0, len(STRANGE), LENGTH))],
    "bools": np.arange(LENGTH) // 7 % 2 == 0,
}
INT_SCALARS = (2**63 - 1, -(2**63), 2**40, 3, 0, -7)
FLOAT_SCALARS = (np.inf, -np.inf, np.nan, 1e300, 2.5, -0.5)
KINDS = ("bool", "int", "float")
SHARE = 0.25  # of the boxes where a mask has one value, those that must be found to
MANY = {  # more calls, for rules with cases
    ("mul", "int"), ("floordiv", "int"), ("mod", "int"), ("and", "int"), ("or", "int"), ("xor", "int"), ("shl", "int"),
    ("shr", "int"), ("minimum", "int"), ("where", "bool"), ("mul", "float"), ("div", "float"), ("pow", "float"),
}  # fmt: skip
LOOSE = {"xor": 0.1, "or": 0.1, "pow": 0.1, "sin": 0.1, "cos": 0.1}


def _signatures() -> list[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Every elementwise op with every kind of operands that it takes."""
    found = []
    for name, op in OPS.items():
        if not op.elementwise:
            continue
        assert op.arity is not None
        for kinds in product(KINDS, repeat=op.arity):
            for attrs in [{"kind": kind} for kind in KINDS] if name == "cast" else [{}]:
                if op.kind(kinds, attrs) is not None:
                    found.append((name, kinds, attrs))
    return found


SIGNATURES = _signatures()
coefficient = st.sampled_from([0, 1, 1, 1, -1, -1, 2, -3, 7])
form = st.tuples(coefficient, coefficient, st.one_of(st.integers(-8, 9), st.integers(-40, 40)))
LEAVES = {
    "int": ("form", "form", "const", "scalar", "ints", "sorted"),
    "bool": ("form", "form", "bools"),
    "float": ("form", "form", "const", "scalar", "floats", "strange"),
}


@dataclass(frozen=True)
class Argument:
    """An operand: a * i + b * j + c, a table's entry there, a constant or a scalar. `number`: a factor, or what is compared."""

    kind: str
    leaf: str
    form: tuple[int, int, int]
    number: float

    def node(self) -> Node:
        """Its graph."""
        a, b, c = self.form
        if self.leaf == "scalar":
            return node("scalar", name="n" if self.kind == "int" else "x", kind=self.kind)
        terms = [node("mul", const(n), node("index", name=axis)) for n, axis in ((a, "i"), (b, "j"))]
        x = const(c) if self.leaf == "const" else node("add", node("add", *terms), const(c))
        if self.leaf in TABLES:
            return node("gather", x, name=self.leaf, dims=("n",), features=(), kind=self.kind)
        if self.kind == "bool":
            return node("le", x, const(round(10 * self.number)))
        return x if self.kind == "int" else node("mul", node("cast", x, kind="float"), const(self.number))


def arguments(place: int, kind: str) -> st.SearchStrategy[Argument]:
    """Operands of that kind; behind the first place constants are as frequent as all else."""
    leaves = LEAVES[kind] + ("const",) * (kind == "int" and place > 0) * 4
    return st.builds(Argument, st.just(kind), st.sampled_from(leaves), form, st.sampled_from([1.0, 0.25, -0.1, 3.7]))


def _inputs(**scalars: object) -> Inputs:
    x = np.zeros((BOXES, 1, LENGTH, 1))
    return Inputs(x, x, x, {**TABLES, **scalars})


def _dense(x: Node, inputs: Inputs) -> np.ndarray:
    (value,) = Interpreter(inputs, np.float64, 0, LENGTH).run([x])
    return np.broadcast_to(align(value, ("b", "i", "j")), (BOXES, LENGTH, LENGTH))


def _classes(mask: Node, inputs: Inputs, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, body = bound(mask), (RowMap("r", const(0.0)),)
    keys = Keys(0, (), found.possible, found.certain, body, body, False, found.cut_i, found.cut_j, found.run)
    return classify(keys, inputs, np.arange(BOXES), np.zeros(BOXES, np.int64), *boxes.T)


def _masks(f: Node) -> list[Node]:
    """What is asked of a value: its order and equality with a number t that is known when the kernel runs, one per box."""
    t = node("gather", node("index", name="b"), name="t", dims=("b",), features=(), kind=f.dtype)
    if f.dtype == "bool":
        return [f, node("eq", f, t)]
    return [node("le", f, t), node("le", t, f), node("eq", f, t), node("lt", node("neg", f), t)]


def _thresholds(tiles: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """For each box a number at the edge of its values, beside it, among them, or far away."""
    if tiles[0].dtype == bool:
        return rng.random(BOXES) < 0.5
    if tiles[0].dtype.kind == "i":
        step, far = 1, (2**63 - 1, -(2**63), 10**9, 0)
    else:
        step, far = 0.25, (np.inf, -np.inf, np.nan, 1e9)
    found = []
    for x in tiles:
        least, most = np.fmin.reduce(x, axis=None), np.fmax.reduce(x, axis=None)
        with np.errstate(over="ignore", invalid="ignore"):
            choices = (least, most, least, most, least - step, most + step, -least, -most, rng.choice(x.ravel()))
        found.append(choices[rng.integers(len(choices))] if rng.random() < 0.9 else rng.choice(np.array(far)))
    return np.array(found, tiles[0].dtype)


def _boxes(rng: np.random.Generator) -> np.ndarray:
    """Corners i0, i1, j0, j1."""
    first = rng.integers(0, LENGTH, (BOXES, 2))
    last = np.minimum(first + rng.integers(0, 17, (BOXES, 2)), LENGTH - 1)
    return np.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=1)


@pytest.mark.parametrize(
    ("name", "kinds", "attrs"), SIGNATURES, ids=lambda x: "-".join(x) if isinstance(x, tuple) else str(x)
)
def test_a_rule_contains_the_dense_values(name, kinds, attrs):
    seen = {"uniform": 0, "decided": 0}
    scalars = st.builds(dict, n=st.sampled_from(INT_SCALARS), x=st.sampled_from(FLOAT_SCALARS))

    examples = EXAMPLES * (4 if (name, kinds[0]) in MANY else 1)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, phases=(Phase.generate, Phase.shrink)
    )
    @given(st.tuples(*(arguments(*x) for x in enumerate(kinds))), scalars, st.integers(0, 2**32 - 1))
    def check(operands, scalars, seed):
        rng = np.random.default_rng(seed)
        f = node(name, *(x.node() for x in operands), **attrs)
        corners = _boxes(rng)

        def tiles(dense: np.ndarray) -> list[np.ndarray]:
            return [x[i0 : i1 + 1, j0 : j1 + 1] for x, (i0, i1, j0, j1) in zip(dense, corners, strict=True)]

        t = _thresholds(tiles(_dense(f, _inputs(**scalars))), rng)
        inputs = _inputs(**scalars, t=t)
        for mask in rewrite(_masks(f), lambda x: fold_node(simplify(x))):  # as the pipeline does before
            found = tiles(_dense(mask, inputs))
            live, every = (np.array([test(x) for x in found]) for test in (np.any, np.all))
            possible, certain = _classes(mask, inputs, corners)
            for what, wrong in (("impossible, yet true", live & ~possible), ("certain, yet false", certain & ~every)):
                assert not wrong.any(), f"{mask!r} is {what} on {corners[wrong]}, t = {t[wrong]}, {scalars}"
            seen["uniform"] += int((every | ~live).sum())
            seen["decided"] += int((certain | ~possible).sum())

    check()
    assert seen["decided"] > LOOSE.get(name, SHARE) * seen["uniform"], "a rule that decides too little"
