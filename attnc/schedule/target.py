"""What the compiler must know of a machine. Imports no Numba: a warm start asks this too."""

from __future__ import annotations

import functools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A CPU: bytes of its widest vector register (64 AVX-512, 32 AVX2, 16 SSE2 and NEON) and how many there are.

    bf16: whether one instruction multiplies and adds pairs of bfloat16 (AVX512-BF16), at twice the rate of float32.
    """

    vector_bytes: int
    registers: int
    bf16: bool = False

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and vectors of a matrix tile that fill the registers."""
        return (12, 2) if self.registers == 32 else (6, 2)


@functools.cache
def host() -> Target:
    """This machine."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if all(features.get(name, False) for name in ("avx512f", "avx512dq", "avx512vl")):
        return Target(64, 32, features.get("avx512bf16", False))
    if features.get("avx2", False) and features.get("fma", False):
        return Target(32, 16)
    neon = bool(features.get("neon", False))
    return Target(16, 32 if neon else 16)
