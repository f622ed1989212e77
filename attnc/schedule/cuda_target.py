"""The CUDA architectures that attnc compiles for, and what a schedule must know of them. Imports no CUDA package.

Figures: CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability". All of these have tensor
cores for bfloat16, cp.async, 65536 registers per multiprocessor and at most 255 per thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.dsl.place import here
from attnc.errors import UnsupportedError

REGISTERS = 65536
REGISTERS_OF_THREAD = 255
THREADS_OF_BLOCK = 1024
WARP = 32
RESERVED = 1024  # bytes of shared memory that the system takes of each block
REGISTER_UNIT = 256  # registers are given to a warp in these units
SHARED_UNIT = 128


@dataclass(frozen=True, slots=True)
class CudaTarget:
    """An architecture. `feature` is "a" where its code uses instructions that no other architecture has.

    shared: bytes of shared memory of a multiprocessor. threads, blocks: how many it holds at once.
    """

    capability: tuple[int, int]
    feature: str
    shared: int
    threads: int
    blocks: int

    @property
    def name(self) -> str:
        """As nvJitLink spells it: sm_90a."""
        return f"sm_{self.capability[0]}{self.capability[1]}{self.feature}"

    @property
    def compute(self) -> str:
        """As NVVM spells it: compute_90a."""
        return self.name.replace("sm", "compute")

    @property
    def shared_of_block(self) -> int:
        """Bytes of shared memory that one block can have, of which all over 48 KiB must be dynamic."""
        return self.shared - RESERVED

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether a device of this compute capability runs the target's machine code."""
        if self.feature:
            return capability == self.capability
        return capability[0] == self.capability[0] and capability[1] >= self.capability[1]

    def resident(self, registers: int, threads: int, shared: int) -> int:
        """How many blocks of `threads` a multiprocessor holds; 0 where one does not fit.

        registers: per thread. shared: bytes per block.
        """
        if registers > REGISTERS_OF_THREAD or threads > THREADS_OF_BLOCK or shared > self.shared_of_block:
            return 0
        warps = _units(threads, WARP)
        of_block = warps * _units(registers * WARP, REGISTER_UNIT) * REGISTER_UNIT
        bytes_of_block = _units(shared + RESERVED, SHARED_UNIT) * SHARED_UNIT
        return min(
            self.blocks, self.threads // (warps * WARP), REGISTERS // max(of_block, 1), self.shared // bytes_of_block
        )


KIB = 1024
TARGETS = (
    CudaTarget((8, 0), "", 164 * KIB, 2048, 32),  # A100
    CudaTarget((8, 6), "", 100 * KIB, 1536, 16),  # RTX 30, A40
    CudaTarget((8, 7), "", 164 * KIB, 1536, 16),  # Jetson Orin
    CudaTarget((8, 9), "", 100 * KIB, 1536, 24),  # RTX 40, L40
    CudaTarget((9, 0), "", 228 * KIB, 2048, 32),  # H100, H200
    CudaTarget((9, 0), "a", 228 * KIB, 2048, 32),  # the same, with wgmma
    CudaTarget((10, 0), "", 228 * KIB, 2048, 32),  # B200
    CudaTarget((10, 3), "", 228 * KIB, 2048, 32),  # B300
    CudaTarget((11, 0), "", 228 * KIB, 1536, 24),  # Jetson Thor
    CudaTarget((12, 0), "", 100 * KIB, 1536, 24),  # RTX 50, RTX PRO 6000
    CudaTarget((12, 1), "", 100 * KIB, 1536, 24),  # DGX Spark
)


def named(name: str) -> CudaTarget:
    """The target `name`, such as "sm_90". UnsupportedError where attnc does not know it."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise UnsupportedError(
        f"{name!r} is not a CUDA target of attnc",
        cause="kernels need the tensor cores and asynchronous copies of sm_80, and a compiler that knows the target",
        cure=f"name one of {', '.join(target.name for target in TARGETS)}",
    )


def asked(what: str, device: object = "cpu", target: str = "sm_90") -> str | None:
    """The name of the target that is asked for, None for the CPU. UnsupportedError for other devices."""
    if device not in ("cpu", "cuda"):
        raise UnsupportedError(
            f"{what} for {device!r}",
            where=here(),
            cause="attnc emits kernels for two devices",
            cure='"cpu" or "cuda"',
        )
    return target if device == "cuda" else None


def of_device(capability: tuple[int, int]) -> CudaTarget:
    """The best target whose code a device of this compute capability runs; features of one architecture count.

    UnsupportedError where there is none.
    """
    found = [target for target in TARGETS if target.runs_on(capability)]
    if not found:
        raise UnsupportedError(
            f"attnc has no CUDA target for compute capability {capability[0]}.{capability[1]}",
            cause=f"it compiles for {', '.join(target.name for target in TARGETS)}",
            cure="use a device of one of these architectures, or call with arrays on the CPU",
        )
    return max(found, key=lambda target: (target.capability, target.feature))


def _units(amount: int, unit: int) -> int:
    return -(-amount // unit)
