"""An attention problem in terms that every peer can be told: shapes, and functions of any array library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.runtime.arrays import numpy_dtype

Modify = Callable[..., Any]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """Q (batch, heads, q_len, dim), K and V (batch, kv_heads, kv_len, dim)."""

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    dim: int

    @property
    def q(self) -> tuple[int, int, int, int]:
        """Of Q."""
        return self.batch, self.heads, self.q_len, self.dim

    @property
    def kv(self) -> tuple[int, int, int, int]:
        """Of K and of V."""
        return self.batch, self.kv_heads, self.kv_len, self.dim

    def __str__(self) -> str:
        q, kv = ("x".join(map(str, x)) for x in (self.q, self.kv))
        return q if q == kv else f"{q}, {kv}"


def square(length: int, dim: int, heads: int, batch: int = 1) -> Shape:
    """As many keys as queries, and as many key heads as heads."""
    return Shape(batch, heads, heads, length, length, dim)


@dataclass(frozen=True, slots=True)
class Case:
    """What is computed. variant: attnc's, called with `operands`.

    For the peers: `causal`, or `mask(xp)`, a function (b, h, i, j) -> bool, and `score(xp)`, a function (s, b, h, i, j) of the scaled
    scores, both in the operations of xp: numpy, torch or jax.numpy. scale: None is 1/√dim. pairs: of a query and a key, that one head needs;
    None: all.
    """

    name: str
    variant: Callable[..., Any]
    shape: Shape
    dtype: str = "float32"
    operands: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = False
    mask: Callable[[Any], Modify] | None = None
    score: Callable[[Any], Modify] | None = None
    scale: float | None = None
    pairs: int | None = None

    @property
    def factor(self) -> float:
        """Of the dot products."""
        return 1 / math.sqrt(self.shape.dim) if self.scale is None else self.scale

    @property
    def needed(self) -> int:
        """Pairs of a query and a key that one head needs."""
        s = self.shape
        if self.pairs is not None:
            return self.pairs
        return sum(min(s.kv_len, i + 1) for i in range(s.q_len)) if self.causal else s.q_len * s.kv_len

    @property
    def work(self) -> float:
        """Floating-point operations: two products for each needed pair."""
        return 4.0 * self.shape.batch * self.shape.heads * self.needed * self.shape.dim

    def mask_mod(self, xp: Any) -> Modify | None:
        """The mask, that of a causal case included; None where there is none."""
        if self.mask is not None:
            return self.mask(xp)
        return (lambda b, h, i, j: j <= i) if self.causal else None

    def inputs(self) -> tuple[Array, Array, Array]:
        """Random q, k, v, standard normal."""
        rng, s = np.random.default_rng(0), self.shape
        dtype = numpy_dtype(self.dtype)
        q, k, v = (rng.standard_normal(x, dtype=np.float32).astype(dtype, copy=False) for x in (s.q, s.kv, s.kv))
        return q, k, v
