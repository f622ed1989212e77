"""The Numba type of a SIMD value: `vec(float32, 16)` is sixteen float32 lanes, held as LLVM's `<16 x float>`.

In attention kernels the lanes are queries, so every row statistic (maximum, denominator) is itself a vector and no
step of the key loop ever reduces across lanes.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import models, register_model

from attnc.schedule.target import host

LLVM_TYPES: dict[Any, Any] = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int64: ir.IntType(64),
    types.int32: ir.IntType(32),
    types.boolean: ir.IntType(1),
}


class Vec(types.Type):
    """`width` lanes of `dtype` (a Numba scalar type); booleans are masks, one bit per lane."""

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype = dtype
        self.width = width
        super().__init__(name=f"{dtype}x{width}")

    @property
    def key(self) -> Any:
        return self.dtype, self.width


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(LLVM_TYPES[fe_type.dtype], fe_type.width))


def vec(dtype: Any, width: int) -> Vec:
    """The type of `width` lanes of `dtype`: float32, float64, int64, int32 or boolean of Numba. ValueError otherwise.

    Emitted code holds the result in a global and passes it as a type token: `F = vec(float32, 16)`, `load(F, addr)`.
    """
    if dtype not in LLVM_TYPES or width < 1:
        raise ValueError(f"no SIMD value of {width} lanes of {dtype}")
    return Vec(dtype, width)


def host_width(dtype_bytes: int) -> int:
    """Lanes of a `dtype_bytes`-byte type in one vector register of this machine."""
    return host().vector_bytes // dtype_bytes
