"""What a call on a GPU launches, one kernel after the other, and how many blocks of each. Needs neither Numba nor a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnc.backends.arguments import Layout
from attnc.backends.cuda.report import Report
from attnc.schedule.cuda_target import CudaTarget
from attnc.schedule.mma import Mma


@dataclass(frozen=True, slots=True)
class Stage:
    """One kernel. role: "summary" (of the tables that are searched) or "main".

    parameters: the words of the argument block that it takes, in order. threads: of a block. shared_bytes: dynamic.
    report: what the assembler says of it, where that is known.
    """

    role: str
    code: bytes
    entry: str
    parameters: tuple[str, ...]
    threads: int
    shared_bytes: int
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Executable:
    """The kernels of a call in the order of their launches. layout: of the argument block. rows: queries of a tile.

    aligned: whether rows of q, k and v must be contiguous and begin at multiples of 16 bytes.
    schedule: of the main kernel, where that is known. passed: faster ones that were compiled and that spill registers.
    """

    target: CudaTarget
    layout: Layout
    stages: tuple[Stage, ...]
    rows: int
    aligned: bool
    schedule: Mma | None = None
    passed: tuple[tuple[Mma, Report], ...] = ()

    def blocks(self, stage: Stage, extents: Mapping[str, int], tables: Mapping[str, Sequence[int]]) -> int:
        """The blocks of a stage's launch; extents: batch, heads, q_len; tables: the shapes of the operand tables."""
        if stage.role == "summary":
            return sum(
                math.prod(n for m, n in enumerate(tables[name]) if m != axis) for name, axis in self.layout.searches
            )
        return extents["batch"] * extents["heads"] * -(-extents["q_len"] // self.rows)
