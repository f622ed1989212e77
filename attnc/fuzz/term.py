"""Source text with what is known of its value: kind, axes, a range, and whether it is computed without rounding.

The ranges keep random programs well-conditioned: arguments of exp stay small, those of log and sqrt positive, divisors away from 0.
The grain says which floats are exact, so that functions that jump (floor, sign, comparisons) cannot be moved by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from attnc.ir.ops import Kind

EXACT_BITS = 20  # exact values stay below 2**20 grains: exact in float32 too
LIMIT = 60.0  # of general float values
INT_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Term:
    """`text` is an expression of the language with values in [low, high].

    `grain` g: every value is a multiple of 2**-g, computed exactly; None: rounded. `level`: reductions over j nested in it.
    """

    text: str
    kind: Kind
    axes: frozenset[str]
    low: float
    high: float
    grain: int | None = None
    level: int = 0

    @property
    def exact(self) -> bool:
        """Whether the value is exact in float32 and wider."""
        return self.grain is not None and self.size * 2.0**self.grain <= 2**EXACT_BITS

    @property
    def size(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def named(self, name: str) -> Term:
        """The same value under a name."""
        return replace(self, text=name)


def number(value: bool | int | float) -> Term:
    """A literal."""
    if isinstance(value, bool):
        return Term(repr(value), "bool", frozenset(), 0, 1, 0)
    kind: Kind = "int" if isinstance(value, int) else "float"
    text = repr(value) if value >= 0 else f"({value!r})"
    return Term(text, kind, frozenset(), value, value, grain_of(value))


def grain_of(value: float) -> int | None:
    """The smallest g up to 6 for which value is a multiple of 2**-g; None where there is none."""
    return next((g for g in range(7) if value * 2**g == round(value * 2**g)), None)


def combine(
    template: str, parts: Iterable[Term], kind: Kind, low: float, high: float, grain: int | None = None
) -> Term:
    """A term over `parts` (put into the template's braces), with their axes and level."""
    parts = list(parts)
    axes = frozenset[str]().union(*(p.axes for p in parts))
    text = template.format(*(p.text for p in parts))
    return Term(text, kind, axes, low, high, grain, max((p.level for p in parts), default=0))


def _grains(a: Term, b: Term, rule: Callable[[int, int], int]) -> int | None:
    return rule(a.grain, b.grain) if a.exact and b.exact and a.grain is not None and b.grain is not None else None


def numeric(*parts: Term) -> Kind:
    """The kind of arithmetic on parts: bools count as integers."""
    return "float" if any(p.kind == "float" for p in parts) else "int"


def add(a: Term, b: Term) -> Term:
    """a + b."""
    return combine("({} + {})", [a, b], numeric(a, b), a.low + b.low, a.high + b.high, _grains(a, b, max))


def sub(a: Term, b: Term) -> Term:
    """a - b."""
    return combine("({} - {})", [a, b], numeric(a, b), a.low - b.high, a.high - b.low, _grains(a, b, max))


def mul(a: Term, b: Term) -> Term:
    """a * b."""
    ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return combine("({} * {})", [a, b], numeric(a, b), min(ends), max(ends), _grains(a, b, int.__add__))


def div(a: Term, b: Term) -> Term:
    """a / b, for b away from 0."""
    ends = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    return combine("({} / {})", [a, b], "float", min(ends), max(ends))


def minimum(a: Term, b: Term) -> Term:
    """The smaller."""
    low, high = min(a.low, b.low), min(a.high, b.high)
    return combine("at.minimum({}, {})", [a, b], numeric(a, b), low, high, _grains(a, b, max))


def maximum(a: Term, b: Term) -> Term:
    """The larger."""
    low, high = max(a.low, b.low), max(a.high, b.high)
    return combine("at.maximum({}, {})", [a, b], numeric(a, b), low, high, _grains(a, b, max))


def select(c: Term, a: Term, b: Term) -> Term:
    """at.where(c, a, b)."""
    kind: Kind = "bool" if a.kind == b.kind == "bool" else numeric(a, b)
    grain = _grains(a, b, max)
    return combine("at.where({}, {}, {})", [c, a, b], kind, min(a.low, b.low), max(a.high, b.high), grain)


def floordiv(a: Term, b: Term) -> Term:
    """a // b of exact terms; integers by 0 give 0."""
    least = 1.0 if numeric(a, b) == "int" else 2.0 ** -(b.grain or 0)
    bound = math.ceil(a.size / least)
    return combine("({} // {})", [a, b], numeric(a, b), -bound, bound, 0)


def mod(a: Term, b: Term) -> Term:
    """a % b of exact terms, with Python's sign; integers by 0 give 0."""
    return combine("({} % {})", [a, b], numeric(a, b), min(b.low, 0), max(b.high, 0), max(a.grain or 0, b.grain or 0))


def power(a: Term, b: Term) -> Term:
    """a ** b of positive a."""
    ends = [x**y for x in (a.low, a.high) for y in (b.low, b.high)]
    return combine("({} ** {})", [a, b], "float", min(ends), max(ends))


@dataclass(frozen=True, slots=True)
class Function:
    """A function of one float: where it is well-conditioned, and its range there. `jumps`: exact arguments only."""

    text: str
    low: float
    high: float
    image: Callable[[float, float], tuple[float, float]]
    jumps: bool = False

    def __call__(self, x: Term) -> Term:
        """f(x), for x in [low, high]."""
        low, high = self.image(x.low, x.high)
        return combine(self.text, [x], "float", low, high, 0 if self.jumps else None)


def _rising(f: Callable[[float], float]) -> Callable[[float, float], tuple[float, float]]:
    return lambda low, high: (f(low), f(high))


def _erf_unit(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(x, -700.0)))


def _within(low: float, high: float) -> Callable[[float, float], tuple[float, float]]:
    return lambda a, b: (low, high)


FUNCTIONS: dict[str, Function] = {
    "exp": Function("at.exp({})", -4, 3, _rising(math.exp)),
    "exp2": Function("at.exp2({})", -5, 4, _rising(math.exp2)),
    "log": Function("at.log({})", 0.1, LIMIT, _rising(math.log)),
    "log2": Function("at.log2({})", 0.1, LIMIT, _rising(math.log2)),
    "log1p": Function("at.log1p({})", -0.8, LIMIT, _rising(math.log1p)),
    "tanh": Function("at.tanh({})", -4, 4, _rising(math.tanh)),
    "sigmoid": Function("at.sigmoid({})", -8, 8, _rising(_sigmoid)),
    "erf": Function("at.erf({})", -3, 3, _rising(math.erf)),
    "sqrt": Function("at.sqrt({})", 0.05, LIMIT, _rising(math.sqrt)),
    "rsqrt": Function("at.rsqrt({})", 0.05, LIMIT, lambda a, b: (b**-0.5, a**-0.5)),
    "sin": Function("at.sin({})", -20, 20, _within(-1, 1)),
    "cos": Function("at.cos({})", -20, 20, _within(-1, 1)),
    "floor": Function("at.floor({})", -LIMIT, LIMIT, lambda a, b: (math.floor(a), math.floor(b)), jumps=True),
    "sign": Function("at.sign({})", -LIMIT, LIMIT, _within(-1, 1), jumps=True),
    "neg": Function("(-{})", -LIMIT, LIMIT, lambda a, b: (-b, -a)),
    "abs": Function("at.abs({})", -LIMIT, LIMIT, lambda a, b: (0, max(abs(a), abs(b)))),
    "relu": Function("at.relu({})", -LIMIT, LIMIT, lambda a, b: (max(a, 0), max(b, 0))),
    "gelu": Function("at.gelu({})", -8, 8, lambda a, b: (-0.2, max(_erf_unit(b), 0))),
    "gelu_tanh": Function("at.gelu({}, approximate='tanh')", -8, 8, lambda a, b: (-0.2, max(b, 0))),
    "silu": Function("at.silu({})", -8, 8, lambda a, b: (-0.3, max(b, 0))),
    "softplus": Function("at.softplus({})", -8, 8, _rising(lambda x: math.log1p(math.exp(x)))),
    "square": Function("({} ** 2)", -7, 7, lambda a, b: (0, max(a * a, b * b))),
    "cube": Function("({} ** 3)", -3.5, 3.5, _rising(lambda x: x**3)),
}
