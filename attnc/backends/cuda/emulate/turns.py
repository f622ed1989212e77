"""Groups of threads take turns: one runs until it must wait, then the next one that can go on does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnc.backends.cuda.emulate.faults import Deadlock

KERNEL = "<kernel>"  # the file name of the source


@dataclass(frozen=True, slots=True)
class Waiting:
    """Until `ready`; `reason` says what for, at `line` of the kernel."""

    ready: Callable[[], bool]
    reason: Callable[[], str]
    line: int


class _Stopped(BaseException):
    """Unwinds a group because another one failed."""


class Turns:
    """Runs one body per group, to the end of all or the first error. The order is the same each time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.locks = [threading.Lock() for _ in names]  # held while their group has no turn
        for lock in self.locks:
            lock.acquire()
        self.waiting: list[Waiting | None] = [None] * len(names)
        self.ended = [False] * len(names)
        self.error: BaseException | None = None

    def run(self, bodies: Sequence[Callable[[], None]]) -> None:
        """Raises what the first body that fails raises."""
        others = [
            threading.Thread(target=self._live, args=(k, body), daemon=True) for k, body in enumerate(bodies) if k
        ]
        for thread in others:
            thread.start()
        self.locks[0].release()
        self._live(0, bodies[0])
        for thread in others:
            thread.join()
        if self.error is not None:
            raise self.error

    def wait(self, group: int, ready: Callable[[], bool], reason: Callable[[], str]) -> None:
        """Gives the turn away until `ready`, which may be asked often, and by others; what it raises is raised here."""
        if ready():
            return
        self.waiting[group] = Waiting(ready, reason, _line())
        self._next(group)
        self.locks[group].acquire()
        if self.error is not None:
            raise _Stopped
        self.waiting[group] = None
        ready()

    def _live(self, group: int, body: Callable[[], None]) -> None:
        self.locks[group].acquire()
        try:
            if self.error is None:
                body()
        except _Stopped:
            pass
        except BaseException as error:
            self.error = self.error or error
        self.ended[group] = True
        self._next(group)

    def _next(self, group: int) -> None:
        """Wakes the next group that can go on; after an error any that has to unwind."""
        count = len(self.names)
        alive = [k % count for k in range(group + 1, group + 1 + count) if not self.ended[k % count]]
        chosen = next((k for k in alive if self.error is not None or self._can_go_on(k)), None)
        if chosen is None and alive:
            self.error = Deadlock(self._blocked())
            chosen = alive[0]
        if chosen is not None:
            self.locks[chosen].release()

    def _can_go_on(self, group: int) -> bool:
        waiting = self.waiting[group]
        try:
            return waiting is None or waiting.ready()
        except Exception:
            return True  # and asks again itself, so that the error is its own

    def _blocked(self) -> str:
        parts = []
        for name, ended, waiting in zip(self.names, self.ended, self.waiting, strict=True):
            if ended:
                parts.append(f"{name} have ended")
            elif waiting is not None:
                parts.append(f"{name} wait in line {waiting.line} for {waiting.reason()}")
        return "; ".join(parts)


def _line() -> int:
    """Of the kernel that calls."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename != KERNEL:
        assert frame.f_back is not None, "internal error: no kernel waits"
        frame = frame.f_back
    return frame.f_lineno
