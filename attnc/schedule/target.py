"""What the compiler must know of a machine. Imports no Numba: a warm start asks this too."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass

from attnc.errors import UnsupportedError

VARIABLE = "ATTNC_CPU_TARGET"
NEEDED = {  # features of each instruction set that attnc tells apart, the widest first
    "avx512": ("avx512f", "avx512dq", "avx512vl"),
    "avx2": ("avx2", "fma"),
    "generic": (),  # what every processor of the architecture has: SSE2, NEON
}
WIDER = {
    "avx512": (),
    "avx2": ("avx512", "avx10", "evex"),
    "generic": ("avx", "evex", "fma", "f16c", "xop", "vaes", "vpclmul"),
}


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
        """Rows and vectors of a matrix tile that fill the registers, with few loads for each product."""
        return (6, 4) if self.registers == 32 else (6, 2)


@functools.cache
def host() -> Target:
    """This machine, or as much of it as ATTNC_CPU_TARGET names."""
    import llvmlite.binding as llvm

    name, found = instruction_set(), llvm.get_host_cpu_features()
    if name == "avx512":
        return Target(64, 32, found.get("avx512bf16", False))
    return Target(32, 16) if name == "avx2" else Target(16, 32 if found.get("neon", False) else 16)


@functools.cache
def instruction_set() -> str:
    """ATTNC_CPU_TARGET, else the widest that this machine has. Read once, when a kernel is first compiled or loaded.

    UnsupportedError where the variable names none, or one that the machine lacks.
    """
    import llvmlite.binding as llvm

    return choose_set(os.environ.get(VARIABLE, ""), llvm.get_host_cpu_features())


@functools.cache
def features() -> str:
    """What kernels may use, as LLVM's list: this machine's features without those wider than `instruction_set()`."""
    import llvmlite.binding as llvm

    return limited(llvm.get_host_cpu_features(), instruction_set())


def choose_set(wanted: str, found: Mapping[str, bool]) -> str:
    """A name of NEEDED: `wanted`, or where that is "" the widest that is found. UnsupportedError as `instruction_set`."""
    had = [name for name, needed in NEEDED.items() if all(found.get(x, False) for x in needed)]
    if not wanted or wanted in had:
        return wanted or had[0]
    raise UnsupportedError(
        f"{VARIABLE}={wanted}",
        where="the environment",
        cause="this processor does not have it" if wanted in NEEDED else "there is no such instruction set",
        cure=f"one of {', '.join(had)}, or leave it out",
    )


def limited(found: Mapping[str, bool], name: str) -> str:
    """LLVM's list of features, "+sse2,-avx512f": those wider than the instruction set `name` are off."""
    return ",".join(
        f"{'+' if on and not feature.startswith(WIDER[name]) else '-'}{feature}"
        for feature, on in sorted(found.items())
    )
