"""Emitted kernels, and which of them a call launches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc.backends.cuda.parts import MERGE
from attnc.backends.cuda.tensor_map import TensorMap
from attnc.schedule.mma import Mma
from attnc.schedule.wgmma import Wgmma

SUMMARY_THREADS = 256
REPAIR_THREADS = 128


@dataclass(frozen=True, slots=True)
class Source:
    """An emitted module; `parameters`: the words of the argument block that `kernel` takes; bytes of shared memory of a block.

    summary: a second module where tables are searched: its kernel is launched before, with a block of SUMMARY_THREADS for each row
    of each table. merge: where keys are split, the kernel that is launched after, with a block of `MERGE` for each batch, head
    and query. record: bytes of the workspace for each of these and each part of the keys. maps: of the parameters behind the words.
    repair: the kernel that computes again, with care, the units of queries whose sums are not finite.
    """

    text: str
    parameters: tuple[str, ...]
    shared: int
    summary: str | None = None
    merge: Source | None = None
    record: int = 0
    maps: tuple[TensorMap, ...] = ()
    repair: Source | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The parameters that are words."""
        return self.parameters[: len(self.parameters) - len(self.maps)]


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel of a call, as `attnc.backends.cuda.executable.Stage` has it when it is compiled."""

    role: str
    text: str
    parameters: tuple[str, ...]
    threads: int
    shared: int
    maps: tuple[TensorMap, ...] = ()
    persistent: int = 0


def stages(source: Source, schedule: Mma | Wgmma) -> Iterator[Part]:
    """The kernels of a call in the order of their launches."""
    if source.summary is not None:
        yield Part("summary", source.summary, source.words, SUMMARY_THREADS, 0)
    blocks = int(isinstance(schedule, Wgmma))  # of a multiprocessor, whose registers one block fills
    yield Part("main", source.text, source.parameters, schedule.threads, source.shared, source.maps, blocks)
    for role, other, threads in (("repair", source.repair, REPAIR_THREADS), ("merge", source.merge, MERGE.threads)):
        if other is not None:
            yield Part(role, other.text, other.parameters, threads, other.shared)
