"""The variant that is being written: its lines, its operands with their values, and the names that can be used again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from attnc.fuzz.shape import Shape
from attnc.fuzz.term import Term, number
from attnc.ir.ops import Kind

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@dataclass(frozen=True, slots=True)
class Declared:
    """One operand: its annotation, its default in the signature ('' for none), its value (None: not passed)."""

    name: str
    annotation: str
    default: str
    value: Any
    kinds: tuple[str, ...]  # rows of the coverage table


def dtype_of(name: str) -> Any:
    """The NumPy dtype of that name, bfloat16 included."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


class Scribe:
    """Collects lines and operands. All choices come from `rng`, all values from `arrays`."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape = rng, shape
        self.arrays = np.random.default_rng(rng.getrandbits(63))
        self.lines: list[str] = []
        self.operands: list[Declared] = []
        self.bound: list[Term] = []
        self._counts: dict[str, int] = {}

    def fresh(self, prefix: str) -> str:
        """A name that is not used yet: s, s2, s3 ..."""
        self._counts[prefix] = count = self._counts.get(prefix, 0) + 1
        return prefix if count == 1 and prefix not in "qkvbhij" else f"{prefix}{count}"

    def let(self, term: Term, prefix: str, reuse: bool = True) -> Term:
        """A line that names the term; later expressions may use the name."""
        name = self.fresh(prefix)
        self.lines.append(f"{name} = {term.text}")
        result = term.named(name)
        if reuse:
            self.bound.append(result)
        return result

    def declare(self, annotation: str, value: Any, *kinds: str, default: str = "", prefix: str = "c") -> str:
        """A keyword-only parameter; gives its name."""
        name = self.fresh(prefix)
        self.operands.append(Declared(name, annotation, default, value, kinds))
        return name

    def make_optional(self, given: bool) -> None:
        """The operand declared last gets the default None, and is left out of the call unless `given`."""
        last = self.operands[-1]
        label = "optional given" if given else "optional absent"
        value = last.value if given else None
        self.operands[-1] = replace(last, default="None", value=value, kinds=(*last.kinds, label))

    def scalar(self, kind: Kind, low: float, high: float) -> Term:
        """A run-time scalar in [low, high]; half of the floats are exact."""
        value: bool | int | float
        if kind == "bool":
            value = bool(self.rng.getrandbits(1))
        elif kind == "int":
            value = self.rng.randint(int(low), int(high))
        else:
            value = self.real(low, high)
        default = repr(value) if self.rng.random() < 0.3 else ""
        passed = None if default and self.rng.random() < 0.5 else value
        name = self.declare(kind, passed, f"scalar {kind}", default=default)
        literal = number(value)
        return Term(name, kind, frozenset(), literal.low, literal.high, literal.grain)

    def real(self, low: float, high: float) -> float:
        """A float in [low, high], a multiple of 1/4 in half of the cases where one fits."""
        x = self.rng.uniform(low, high)
        quarter = round(x * 4) / 4
        return quarter if self.rng.random() < 0.5 and low <= quarter <= high else x

    def constant(self, value: Any, type_name: str) -> str:
        """A compile-time constant; gives its name."""
        default = repr(value) if self.rng.random() < 0.3 else ""
        passed = None if default else value
        return self.declare(f"at.Const[{type_name}]", passed, f"const {type_name}", default=default)

    def table(
        self, axes: tuple[str, ...], extents: tuple[int, ...], kind: Kind, low: float, high: float, exact: bool = False
    ) -> Term:
        """An operand tensor with values in [low, high]; the term's text is its bare name."""
        if kind == "bool":
            data: np.ndarray[Any, Any] = self.arrays.random(extents) < 0.6
        elif kind == "int":
            names = [n for n in INTEGERS if np.iinfo(n).min <= low and high <= np.iinfo(n).max]
            data = self.arrays.integers(int(low), int(high) + 1, extents).astype(self.rng.choice(names))
        else:
            data, grain = self._floats(extents, low, high, exact)
        declared = [repr(a) for a in axes] + ([kind] if self.rng.random() < 0.15 else [])
        shared = ("tensor of extent 1",) if 1 in extents else ()
        labels = (*_labels(axes), f"tensor of {data.dtype.name}", *shared)
        name = self.declare(f"at.Tensor[{', '.join(declared)}]", data, *labels, prefix="t")
        return Term(name, kind, frozenset(), low, high, grain if kind == "float" else 0)

    def _floats(
        self, extents: tuple[int, ...], low: float, high: float, exact: bool
    ) -> tuple[np.ndarray[Any, Any], int | None]:
        dtype = dtype_of(self.rng.choice(FLOATS))
        if exact or (self.rng.random() < 0.5 and high - low >= 0.5):
            first, last = int(np.ceil(low * 4)), int(np.floor(high * 4))
            return (self.arrays.integers(first, last + 1, extents) / 4).astype(dtype), 2
        return self.arrays.uniform(low, high, extents).astype(dtype), None


def _labels(axes: tuple[str, ...]) -> list[str]:
    """The rows of the coverage table for a tensor's axes: those of the pair, its own, and features."""
    pair = "".join(a for a in axes if a in "bhgij")
    features = "".join(a for a in axes if a in "der")
    own = ["tensor with an own axis"] if "n" in axes else []
    feature_label = [f"{'vector' if len(features) == 1 else 'matrix'} {features}"] if features else []
    return [*([f"tensor {pair}"] if pair else []), *own, *feature_label]
