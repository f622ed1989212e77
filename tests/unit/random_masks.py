"""Random masks as text: every operator of the language on integers, floats and masks, and tables of all sorts."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

import attnc as at
from attnc.dsl.functions import number as literal

BATCH, HEADS = 2, 3
EXTREMES = (2**63 - 1, -(2**63), 2**62, -(2**62) - 1, 2**31, 2**30 + 1, -(2**31) - 1, 0, -1, 1)
UNARY = [
    "exp",
    "exp2",
    "log",
    "log2",
    "log1p",
    "tanh",
    "sigmoid",
    "erf",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "floor",
    "abs",
    "sign",
]
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


@dataclass
class Maker:
    """Writes expressions; `operands` are their tables and scalars, with annotations. Lq and Lk are `q_len` and `kv_len`."""

    rng: Random
    q_len: int
    kv_len: int
    operands: dict[str, tuple[str, Any]] = field(default_factory=dict)

    def pick(self, *choices: Any) -> Any:
        """One of the choices; functions are called."""
        chosen = self.rng.choice(choices)
        return chosen() if callable(chosen) else chosen

    def declare(self, annotation: str, value: Any) -> str:
        """A new operand; gives its name."""
        name = f"x{len(self.operands)}"
        self.operands[name] = annotation, value
        return name

    # -- leaves

    def number(self) -> str:
        """A scalar operand: as a rule of the size of positions."""
        value = (
            self.rng.choice(EXTREMES)
            if self.rng.random() < 0.15
            else self.rng.randint(-20, max(self.q_len, self.kv_len) + 9)
        )
        return self.declare("int", value)

    def real(self) -> str:
        """A float: literal, or scalar operand."""
        extremes = (float("inf"), float("-inf"), float("nan"), 1e308, -1e-300, 0.0, -0.0)
        if self.rng.random() < 0.2:
            return self.declare("float", self.rng.choice(extremes))
        value = self.rng.choice((self.rng.uniform(-9, 40), self.rng.randint(-20, 80) / 4))
        return self.declare("float", value) if self.rng.random() < 0.5 else f"const({value!r})"

    def place(self) -> str:
        """Where something is, as masks use it."""
        return self.rng.choice((
            "i", "j", "i", "j", "(i - j)", "(j - i)", "(i + at.kv_len - at.q_len)", "(i + j)", "(2 * i - 3 * j)", "h", "b", "(i + h)",
        ))  # fmt: skip

    def block(self, index: str) -> str:
        """A digit of an index."""
        c = self.rng.choice((2, 3, 4, 7, 8, 16))
        divisor = f"{c}" if self.rng.random() < 0.6 else self.declare("int", c)
        return self.rng.choice(
            (
                f"({index} // {divisor})",
                f"({index} % {divisor})",
                f"({index} // {divisor} % 3)",
                f"({index} // {divisor} * {divisor})",
            )
        )

    def table(self, kind: str, depth: int) -> str:
        """A read of a table that varies over one or two indices, now and then outside of it."""
        lengths = {"b": BATCH, "h": HEADS, "i": self.q_len, "j": self.kv_len}
        dims = [a for a in "bh" if self.rng.random() < 0.25]
        axis = self.rng.choice("ijn")
        index = {"i": "i", "j": "j"}.get(axis) or self.pick(
            "(i - j)", "(j - i + 20)", lambda: self.block("i"), lambda: self.integer(depth - 1)
        )
        reads = [*dims, index]
        dims, extents = [*dims, axis], [*(lengths[a] for a in dims), lengths.get(axis, self.rng.randint(1, 50))]
        if axis == "n" and self.rng.random() < 0.4:
            reads[-1:] = self.block("i"), self.block("j")
            dims.append("m")
            extents = [*extents[:-1], self.rng.randint(1, 12), self.rng.randint(1, 12)]
        extents = [1 if self.rng.random() < 0.08 else n for n in extents]
        values = self.entries(kind, extents)
        name = self.declare(f"at.Tensor[{', '.join(map(repr, dims))}, {kind}]", values)
        return f"{name}[{', '.join(reads)}]"

    def entries(self, kind: str, extents: list[int]) -> np.ndarray:
        """Sorted runs, noise, one value; extremes, NaN and infinities."""
        draw = np.random.default_rng(self.rng.getrandbits(32))
        runs = np.cumsum(draw.random(extents) < 0.1, axis=-1)
        if kind == "bool":
            return self.rng.choice((runs % 2 == 0, draw.random(extents) < 0.5, np.full(extents, draw.random() < 0.5)))
        if kind == "int":
            values = self.rng.choice(
                (
                    runs,
                    7 * runs,
                    draw.integers(-9, self.kv_len + 9, extents),
                    np.sort(draw.integers(-5, 60, extents), axis=-1),
                )
            )
            if self.rng.random() < 0.1:
                values = np.where(draw.random(extents) < 0.1, self.rng.choice(EXTREMES), values)
            elif self.rng.random() < 0.3:
                values = (
                    values.astype(self.rng.choice(("int8", "int16", "int32", "uint32")))
                    if values.min() >= 0
                    else values
                )
            return values
        values = self.rng.choice(
            (runs * 0.5, draw.standard_normal(extents) * 9, np.sort(draw.uniform(-9, 60, extents), axis=-1))
        )
        if self.rng.random() < 0.4:
            strange = draw.choice([np.nan, np.inf, -np.inf, -0.0, 1e300], extents)
            values = np.where(draw.random(extents) < 0.15, strange, values)
        with np.errstate(over="ignore"):
            return values.astype(self.rng.choice(("float32", "float64")))

    # -- expressions

    def integer(self, depth: int) -> str:
        """An integer expression."""
        if depth <= 0:
            return self.pick(
                self.place,
                self.place,
                self.number,
                lambda: self.block(self.rng.choice("ij")),
                lambda: f"const({self.rng.randint(0, 40)})",
            )

        def x() -> str:
            return self.integer(depth - self.rng.randint(1, 2))

        def divisor() -> str:
            return self.pick("2", "3", "16", "(-5)", self.number, x)

        return self.pick(
            lambda: f"({x()} {self.rng.choice('+-')} {x()})", lambda: f"({x()} {self.rng.choice('+-')} {x()})",
            lambda: f"({x()} * {self.pick(x, '3', '(-2)', self.number)})", lambda: f"(({x()} - {self.place()}) ** 2)",
            lambda: f"({x()} // {divisor()})", lambda: f"({x()} % {divisor()})",
            lambda: f"at.minimum({x()}, {x()})", lambda: f"at.maximum({x()}, {x()})",
            lambda: f"at.clip({x()}, {self.pick(x, '3')}, {self.pick(x, '19')})",
            lambda: f"at.abs({x()})", lambda: f"at.sign({x()})", lambda: f"(-{x()})", lambda: f"(~{x()})",
            lambda: f"({x()} {self.rng.choice('&|^')} {self.pick(x, '7', '12', '(-4)')})",
            lambda: f"({x()} << {self.pick('1', '3', '70', x)})", lambda: f"({x()} >> {self.pick('1', '2', '65', x)})",
            lambda: f"at.where({self.mask(depth - 2)}, {x()}, {x()})",
            lambda: f"({self.mask(depth - 2)} + {x()})",
            lambda: self.table("int", depth), lambda: self.table("int", depth),
        )  # fmt: skip

    def floating(self, depth: int) -> str:
        """A float expression."""
        if depth <= 0:
            return self.pick(
                self.real,
                lambda: f"({self.integer(0)} * {self.rng.choice((0.25, -0.5, 1.5, 0.1))})",
                lambda: self.table("float", 0),
            )

        def x() -> str:
            return self.floating(depth - self.rng.randint(1, 2))

        return self.pick(
            *[lambda: f"at.{self.rng.choice(UNARY)}({x()})"] * 5,
            *[lambda: f"({x()} {self.rng.choice('+-*/')} {x()})"] * 3,
            lambda: f"({x()} {self.rng.choice(('//', '%'))} {self.pick(x, '1.5', '(-0.75)')})",
            lambda: f"({x()} ** {self.pick('2', '0.5', '(-1.0)', x)})",
            lambda: f"at.minimum({x()}, {x()})", lambda: f"at.maximum({x()}, {x()})", lambda: f"at.relu({x()})", lambda: f"(-{x()})",
            lambda: f"at.where({self.mask(depth - 1)}, {x()}, {x()})",
            lambda: f"({self.integer(depth - 1)} / {self.pick('3', '16', x)})",
            lambda: self.table("float", depth),
        )  # fmt: skip

    def comparison(self, depth: int) -> str:
        """Two expressions compared."""
        sign = self.rng.choice(COMPARISONS)
        if self.rng.random() < 0.3:
            return f"({self.floating(depth)} {sign} {self.pick(self.real, lambda: self.floating(depth - 1))})"
        return f"({self.integer(depth)} {sign} {self.pick(self.number, lambda: self.integer(depth - 1))})"

    def mask(self, depth: int) -> str:
        """A mask."""
        if depth <= 0:
            return self.pick(
                lambda: self.comparison(0),
                lambda: self.comparison(0),
                lambda: self.table("bool", 0),
                lambda: self.declare("bool", True),
            )

        def m() -> str:
            return self.mask(depth - self.rng.randint(1, 2))

        return self.pick(
            *[lambda: self.comparison(depth)] * 3,
            *[lambda: f"({m()} {self.rng.choice('&|')} {m()})"] * 3,
            lambda: f"({m()} {self.rng.choice(('^', '==', '!='))} {m()})",
            lambda: f"(~{m()})",
            lambda: self.long(),
            lambda: f"at.where({m()}, {m()}, {m()})",
            lambda: self.table("bool", depth),
        )  # fmt: skip

    def long(self) -> str:
        """A mask whose disjunctive form is long: it grows exponentially."""
        if self.rng.random() < 0.5:
            return "(" + " ^ ".join(self.comparison(0) for _ in range(8)) + ")"
        return "(" + " & ".join(f"({self.mask(0)} | {self.comparison(0)})" for _ in range(7)) + ")"


WEIGHTS = (
    "at.softmax(at.dot(q, k), where={})",
    "at.softmax(at.dot(q, k), where={})",
    "at.softmax(at.where({}, at.dot(q, k), -at.inf))",
    "at.where({}, at.sigmoid(at.dot(q, k)), 0)",
)


@dataclass(frozen=True)
class Program:
    """A random variant that weighs the keys by a random mask, and the mask alone as softmax's."""

    source: str
    variant: at.Attention
    plain: at.Attention
    q_len: int
    kv_len: int
    operands: dict[str, Any]

    def __str__(self) -> str:
        values = "".join(
            f"\n# {name} = {np.array2string(np.asarray(x), threshold=60)}" for name, x in self.operands.items()
        )
        return f"{self.source}# {self.q_len} queries, {self.kv_len} keys{values}"


def program(seed: int, number: int) -> Program:
    """Random program `number` of a seed."""
    rng = Random(f"masks:{seed}:{number}")
    make = Maker(rng, rng.randint(1, 61), rng.randint(1, 61))
    text = make.mask(rng.randint(0, 3))
    operands = "".join(f", {name}: {annotation}" for name, (annotation, _) in make.operands.items())
    star = ", *" if operands else ""
    texts = [
        f"def variant(q, k, v, b, h, i, j{star}{operands}):\n    return {w.format(text)} @ v\n"
        for w in (rng.choice(WEIGHTS), WEIGHTS[0])
    ]
    variants = []
    for source in texts:
        space: dict[str, Any] = {"at": at, "const": literal}
        exec(source, space)
        variants.append(at.attention(space["variant"]))
    return Program(texts[0], *variants, make.q_len, make.kv_len, {name: x for name, (_, x) in make.operands.items()})
