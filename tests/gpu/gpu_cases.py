"""The calls whose numbers are checked on a GPU, and the kernels that they need."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

import attnc.variants as library
from attnc.fuzz.samples import Setting, arrays, placed
from attnc.runtime.arrays import numpy_dtype
from attnc.variants.samples import examples_of

SQUARE = ("natten", "sliding_tile")  # canvases: as many keys as queries
DTYPES = ("bfloat16", "float16", "float32")
BENCHED = ("full", "causal", "soft_cap", "alibi", "sliding_window", "document")  # in bfloat16 at head dim 128
MASKED = ("causal", "sliding_window", "document")  # variants with weights of 0


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of the library and the shape of a call: Q (B,Hq,Lq,D), K (B,Hkv,Lk,D), V (B,Hkv,Lk,Dv).

    poisoned: some values are NaN and infinite, which rows that mask them must not show. shared: all heads of K and V are the first one,
    and all batches of V, by a stride of 0.
    """

    name: str
    dtype: str = "bfloat16"
    D: int = 64
    Dv: int = 0
    lengths: tuple[int, int] = (70, 131)
    heads: tuple[int, int] = (4, 2)
    batch: int = 2
    lse: bool = False
    strided: bool = False
    layout: str = "bhld"
    poisoned: bool = False
    shared: bool = False

    def __str__(self) -> str:
        extra = " lse" * self.lse + " poisoned" * self.poisoned + " shared" * self.shared
        return f"{self.name}: {self.setting}{extra}"

    @property
    def variant(self) -> Any:
        """The variant itself, for its reference."""
        return getattr(library, self.name)

    @property
    def setting(self) -> Setting:
        """The shape."""
        q, k = self.lengths
        lengths = (q, q) if self.name in SQUARE else (q, k)
        return Setting(
            self.D, self.Dv or self.D, lengths, self.dtype, self.heads, self.batch, self.strided, self.layout
        )

    def inputs(self) -> tuple[list[Any], dict[str, Any]]:
        """Random q, k, v in the layout, and operands: NumPy arrays, the same on every machine."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        x = self.setting
        sizes = (self.batch, *self.heads, *x.lengths, x.D, x.Dv)
        q, k, v = arrays(x, rng)
        operands = examples_of(self.name, rng, *sizes, numpy_dtype(self.dtype))
        if self.poisoned:
            n = v.shape[2]
            v[..., n - 1, 5], v[..., n // 2, 6], v[..., n // 3, 7] = np.nan, np.inf, -np.inf
        found = [placed(y, x) for y in (q, k, v)]
        if self.shared:
            assert x.layout == "bhld"
            found[1:] = np.broadcast_to(found[1][:, :1], k.shape), np.broadcast_to(found[2][:1, :1], v.shape)
        return found, operands


def cases() -> list[Case]:
    """All of the library in three dtypes at odd lengths with grouped heads, and one variant through everything else."""
    found = [Case(name, dtype) for dtype in DTYPES for name in library.__all__]
    for dtype in DTYPES[:2]:
        found += [Case(name, dtype, D=128, lengths=(257, 333)) for name in BENCHED]
        found += [Case("causal", dtype, D=256, lengths=(65, 127))]
    found += [Case("causal", "float32", D=128), Case("causal", "float32", D=256, lengths=(33, 65))]
    found += [
        Case("causal", D=80, Dv=48, lengths=(17, 63)),
        Case("causal", D=7, Dv=13, lengths=(33, 20), heads=(2, 1)),
        Case("causal", lengths=(1, 1)),
        Case("causal", lengths=(1, 1000), heads=(8, 1)),  # few queries: kernels of their own
        Case("alibi", D=128, lengths=(5, 3001), heads=(8, 2)),
        Case("causal", lengths=(70, 20)),  # the first 50 rows have no keys
        Case("full", lengths=(20, 0)),
        Case("causal", lengths=(300, 300), heads=(6, 6), batch=3),
        Case("causal", lse=True),
        Case("soft_cap", D=128, lse=True),
        Case("causal", strided=True),
        Case("alibi", D=128, strided=True),
        Case("causal", layout="blhd"),
        Case("causal", "float16", layout="blhd", strided=True),
        Case("document", D=128, lengths=(1030, 1030), heads=(2, 1), batch=1),
    ]
    return [*found, *_large()]


def _large() -> list[Case]:
    """What rings, flags and maps may get wrong: many tiles, masked NaN, strides of 0."""
    found = [
        Case("full", D=128, lengths=(500, 1501)),
        Case("causal", D=128, lengths=(1000, 1501)),
        Case("causal", "float16", lengths=(1537, 1537), heads=(2, 1), batch=1),
        Case("causal", D=96, lengths=(257, 333)),
        Case("causal", D=192, Dv=128, lengths=(257, 333)),
        Case("sliding_window", D=128, lengths=(1500, 1500), heads=(2, 1)),
        Case("full", "float16", lengths=(40, 50), heads=(64, 8), batch=8),
        Case("causal", shared=True),
        Case("causal", "float16", D=128, lengths=(200, 333), shared=True),
    ]
    found += [Case(name, dtype, poisoned=True, lengths=(200, 200)) for name in MASKED for dtype in DTYPES]
    found += [Case("causal", D=dim, poisoned=True, lengths=(150, 180), heads=(2, 1), batch=1) for dim in (128, 256)]
    return found
