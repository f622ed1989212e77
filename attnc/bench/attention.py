"""A case measured: attnc, its peers, and what else a row wants to time, in turn; the figures of the comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from attnc.bench.case import Array, Case
from attnc.bench.peers import PEERS, Inputs, Ready
from attnc.bench.row import Figure, Row, Times, constant
from attnc.bench.timing import BLAS_PAUSE, PAUSE, Measure, Settings, alternate, chosen, reason, timed

IN_A_ROW = 3  # masks and analyses: warm
OURS = "attnc"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a row knows after preparing: the case's arrays and output, and what is to be timed."""

    case: Case
    inputs: Inputs
    measures: dict[str, Measure]
    missing: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)

    def times(self, settings: Settings) -> Times:
        """Of all, in turn."""
        return alternate(self.measures, settings, self.missing, pause=BLAS_PAUSE if "NumPy" in self.measures else PAUSE)


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """A case beside peers. aims: least ratio of a peer's time to attnc's by peer, or by "flex + mask", "SDPA + mask", for a call that makes
    its mask. plain: the same attention without its score function; attnc's time may be PLAIN of that.
    """

    case: Case
    peers: tuple[str, ...]
    aims: Mapping[str, float] = field(default_factory=dict)
    plain: Callable[..., Any] | None = None
    most: float = 1.25

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def prepare(self, settings: Settings) -> Measured:
        """Every call made once: compiled, and its output compared."""
        case, inputs = self.case, self.case.inputs()
        found = Measured(case, inputs, {OURS: timed(partial(case.variant, *inputs, **case.operands))})
        if self.plain is not None:
            found.measures["plain"] = timed(partial(self.plain, *inputs))
        ours, worst = float32(case.variant(*inputs, **case.operands)), 0.0
        for name in self.peers:
            if name not in chosen(self.peers, settings):
                found.missing[name] = "left out"
                continue
            try:
                ready = PEERS[name](case, inputs, settings.threads)
                worst = max(worst, float(np.abs(ours - float32(ready.read(ready.call()))).max()))
            except Exception as error:  # whatever another project's compiler raises
                found.missing[name] = reason(error)
                continue
            found.measures.update(_measures(name, ready))
            if ready.pairs is not None:
                found.figures.append(constant(f"{name}: pairs visited / needed", ready.pairs / case.needed))
        if len(found.measures) > 1 + (self.plain is not None):
            found.figures.append(constant("difference of outputs", worst))
        return found

    def measure(self, settings: Settings) -> Row:
        """Times and figures."""
        found = self.prepare(settings)
        times = found.times(settings)
        return self.row(found, times, self.figures(times))

    def row(self, found: Measured, times: Times, figures: Sequence[Figure]) -> Row:
        """The row of these figures, and of those that need no times."""
        return Row(self.name, f"{self.case.shape} {self.case.dtype}", (*figures, *found.figures), times.seconds)

    def figures(self, times: Times) -> list[Figure]:
        """Time, rate, and ratios to the peers."""
        figures = [
            times.figure(OURS, OURS, unit="s"),
            times.figure("rate", "", OURS, factor=self.case.work / 1e9, unit="GFLOP/s"),
        ]
        if self.plain is not None:
            figures.append(times.figure("attnc / plain", OURS, "plain", aim=self.most, at_most=True))
        for name in self.peers:
            for timed_name in (name, f"{name} + mask"):
                if timed_name in times.seconds or timed_name in times.missing:
                    figures.append(
                        times.figure(f"{timed_name} / attnc", timed_name, OURS, aim=self.aims.get(timed_name))
                    )
                elif timed_name in self.aims:
                    figures.append(
                        Figure(
                            f"{timed_name} / attnc",
                            None,
                            aim=self.aims[timed_name],
                            missing=times.missing.get(name, ""),
                        )
                    )
        return figures


def _measures(name: str, ready: Ready) -> dict[str, Measure]:
    found = {name: timed(ready.call)}
    if ready.with_mask is not None and ready.mask is not None:
        found[f"{name} + mask"] = timed(ready.with_mask)
        found[f"{name}: mask"] = timed(ready.mask, in_a_row=IN_A_ROW)
    return found


def float32(x: Any) -> Array:
    """An output, to be compared."""
    return np.asarray(x).astype(np.float32, copy=False)
