"""What a call on a GPU launches, one kernel after the other, and how many blocks of each. Needs neither Numba nor a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnc.backends.block import Layout
from attnc.backends.cuda.report import Report
from attnc.schedule.cuda_target import CudaTarget
from attnc.schedule.mma import Mma
from attnc.schedule.short import PLAIN, Form, parts
from attnc.schedule.wgmma import Wgmma


@dataclass(frozen=True, slots=True)
class Stage:
    """One kernel. role: "summary" (of the tables that are searched), "main", or "merge" (of the parts of split keys).

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
    """The kernels of a call in the order of their launches. layout: of the argument block. rows: of a tile.

    aligned: whether rows of q, k and v must be contiguous and begin at multiples of 16 bytes. form: what a block takes; the calls
    that `attnc.schedule.short.choose` gives this form are its calls, but it is right for any. record: bytes of the workspace for
    each row and part of the keys, where these are split. schedule: of the main kernel, where that is known. passed: faster ones
    that were compiled and that spill registers.
    """

    target: CudaTarget
    layout: Layout
    stages: tuple[Stage, ...]
    rows: int
    aligned: bool
    form: Form = PLAIN
    record: int = 0
    schedule: Mma | Wgmma | None = None
    passed: tuple[tuple[Mma | Wgmma, Report], ...] = ()

    def blocks(self, stage: Stage, extents: Mapping[str, int], tables: Mapping[str, Sequence[int]]) -> int:
        """The blocks of a stage's launch.

        extents: batch, heads, q_len, kv_len, group; tables: the shapes of the operand tables.
        """
        batch, heads, q_len = (extents[name] for name in ("batch", "heads", "q_len"))
        if stage.role == "summary":
            return sum(
                math.prod(n for m, n in enumerate(tables[name]) if m != axis) for name, axis in self.layout.searches
            )
        if stage.role == "merge":
            return batch * heads * q_len
        group = extents["group"] if self.form.share else 1
        tiles = -(-q_len * group // self.rows)
        return batch * (heads // group) * tiles * (parts(extents["kv_len"]) if self.form.split else 1)

    def workspace(self, extents: Mapping[str, int]) -> int:
        """Bytes of device memory for the states of the parts, whose address, a multiple of 16, is the word `scratch`.

        0 where keys are not split. It need not be cleared, and may be used again when the last stage has run.
        """
        if not self.form.split:
            return 0
        rows = extents["batch"] * extents["heads"] * extents["q_len"]
        return rows * parts(extents["kv_len"]) * self.record
