"""Barriers with numbers: 0 of the whole block, 1..15 of as many threads as is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.clocks import ACTORS, Clocks
from attnc.backends.cuda.emulate.faults import Fault

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Barrier:
    """The meeting that is going on, and what became of those before."""

    threads: int = 0
    arrived: int = 0
    kind: str = ""
    vote: bool = False
    groups: list[int] = field(default_factory=list)
    always: list[int] = field(default_factory=list)  # the groups of the first meeting
    told: Array = field(default_factory=lambda: np.zeros(ACTORS, np.int32))
    done: list[tuple[Array, bool]] = field(default_factory=list)  # what was told, and the vote


class Barriers:
    """Of a block."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.all = [Barrier() for _ in range(16)]

    def arrive(self, group: Any, number: int, threads: int, kind: str = "", vote: bool = False) -> int:
        """Counts a group's threads; the index of the meeting."""
        x = self.all[number]
        if not x.arrived:
            x.threads, x.kind = threads, kind
        if (x.threads, x.kind) != (threads, kind):
            raise Fault(
                f"barrier {number}: {group.name} come to one of {threads} threads{kind}, others to one of {x.threads}{x.kind}"
            )
        if group.number in x.groups:
            raise Fault(f"barrier {number}: {group.name} come twice before the others have come")
        if x.arrived + group.n > threads:
            raise Fault(f"barrier {number}: {x.arrived + group.n} threads come, it is one of {threads}")
        x.told = np.maximum(x.told, self.clocks.publish(group.warps, group.number))
        x.vote |= vote
        x.arrived += group.n
        x.groups.append(group.number)
        meeting = len(x.done)
        if x.arrived == threads:
            x.always = x.always or sorted(x.groups)
            if sorted(x.groups) != x.always:
                raise Fault(
                    f"barrier {number}: {group.name} meet where other groups met: their warps could meet each other's instead"
                )
            x.done.append((x.told, x.vote))
            x.arrived, x.groups, x.vote, x.told = 0, [], False, np.zeros_like(x.told)
        return meeting

    def sync(self, group: Any, number: int, threads: int, kind: str = "", vote: bool = False) -> bool:
        """Waits until all have come; whether any has voted."""
        x, meeting = self.all[number], self.arrive(group, number, threads, kind, vote)
        group.wait(
            lambda: len(x.done) > meeting, lambda: f"barrier {number}, where {x.arrived} of {threads} threads have come"
        )
        told, any_vote = x.done[meeting]
        self.clocks.acquire(group.warps, told)
        return any_vote
