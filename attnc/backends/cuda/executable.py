"""What a call on a GPU launches, one kernel after the other, and how many blocks of each. Needs neither Numba nor a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attnc.backends.block import Layout
from attnc.backends.cuda.report import Report
from attnc.backends.cuda.tensor_map import TensorMap
from attnc.schedule.cuda_target import CudaTarget
from attnc.schedule.short import PLAIN, Form, parts

if TYPE_CHECKING:
    from attnc.schedule.mma import Mma
    from attnc.schedule.wgmma import Wgmma

QUEUE = 16  # bytes at the beginning of a workspace, of which the first four count the items that were taken
FLAG = 4  # bytes


@dataclass(frozen=True, slots=True)
class Stage:
    """One kernel. role: "summary" (of the tables that are searched), "main", "merge" (of the parts of split keys), or "repair"
    (of the units whose flag is set).

    parameters: the words of the argument block that it takes, in order, among them the names of its maps. threads: of a block.
    shared_bytes: dynamic. report: what the assembler says of it, where that is known. persistent: blocks on each
    multiprocessor, which take their items from the queue in the workspace; 0: a block for each item.
    """

    role: str
    code: bytes
    entry: str
    parameters: tuple[str, ...]
    threads: int
    shared_bytes: int
    report: Report | None = None
    maps: tuple[TensorMap, ...] = ()
    persistent: int = 0


@dataclass(frozen=True, slots=True)
class Executable:
    """The kernels of a call in the order of their launches. layout: of the argument block. rows: of a tile.

    aligned: whether rows of q, k and v must be contiguous and begin at multiples of 16 bytes. form: what a block takes; the calls
    that `attnc.schedule.short.choose` gives this form are its calls, but it is right for any. record: bytes of the workspace for
    each row and part of the keys, where these are split. flags: queries of a unit, for each of which the workspace holds a
    number that says whether it must be repaired; 0: no flags. features: extents of feature axes. schedule: of the main kernel,
    where that is known. passed: faster ones that were compiled and that spill registers. reason: why the fastest kind of kernel
    does not serve.
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
    flags: int = 0
    features: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    def blocks(self, stage: Stage, extents: Mapping[str, int], tables: Mapping[str, Sequence[int]]) -> int:
        """The blocks of a stage's launch; of a persistent one the items, which fewer blocks take in turn.

        extents: batch, heads, q_len, kv_len, group; tables: the shapes of the operand tables.
        """
        batch, heads, q_len = (extents[name] for name in ("batch", "heads", "q_len"))
        if stage.role == "summary":
            return sum(
                math.prod(n for m, n in enumerate(tables[name]) if m != axis) for name, axis in self.layout.searches
            )
        if stage.role == "merge":
            return batch * heads * q_len
        if stage.role == "repair":
            return self._units(extents)
        group = extents["group"] if self.form.share else 1
        tiles = -(-q_len * group // self.rows)
        return batch * (heads // group) * tiles * (parts(extents["kv_len"]) if self.form.split else 1)

    def workspace(self, extents: Mapping[str, int]) -> int:
        """Bytes of device memory whose address, a multiple of 16, is the word `scratch`: for the states of the parts where keys
        are split, for the queue and the flags of persistent kernels; 0 for others.

        It may be used again when the last stage has run.
        """
        if not self.form.split:
            return self.cleared(extents)
        rows = extents["batch"] * extents["heads"] * extents["q_len"]
        return rows * parts(extents["kv_len"]) * self.record

    def cleared(self, extents: Mapping[str, int]) -> int:
        """Bytes at the beginning of the workspace that must be 0 when the first stage begins: the queue and the flags."""
        if not any(stage.persistent for stage in self.stages):
            return 0
        assert not self.form.split, "internal error: the states of parts where the queue is"
        return QUEUE + FLAG * self._units(extents)

    def _units(self, extents: Mapping[str, int]) -> int:
        """Flags of a call: one for each unit of the queries of a head."""
        return extents["batch"] * extents["heads"] * -(-extents["q_len"] // self.flags) if self.flags else 0
