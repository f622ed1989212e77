"""Fuzzing: thousands of programs by the graph's and the tile program's interpreter, hundreds of compiled kernels."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from attnc.errors import UnsupportedError
from attnc.fuzz.case import Case, make
from attnc.fuzz.compare import TOLERANCE, farthest
from attnc.fuzz.coverage import Coverage
from attnc.fuzz.kernels import check_kernel
from attnc.fuzz.scribe import FLOATS
from attnc.fuzz.shrink import shrink
from attnc.interp import Array, Inputs, interpret
from attnc.ir.graph import Graph
from attnc.tile.program import Program

Evaluate = Callable[[Program, Inputs], list[Array]]
Report = Callable[[str], None]
KERNELS_FROM = 1_000_000  # numbers of the programs that are compiled: the same ones whatever else is fuzzed
EVERY, SOME = 500, 50  # programs and kernels between two lines of progress


@dataclass(frozen=True, slots=True)
class Failure:
    """A program on which two evaluations disagree, or which raised. `text` can be pasted; `shrunk` is a smaller graph."""

    name: str
    what: str
    text: str
    shrunk: str = ""

    def __str__(self) -> str:
        small = f"\nthe smallest part that still fails:\n{self.shrunk}" if self.shrunk else ""
        return f"{self.name}: {self.what}\n{self.text}{small}"


@dataclass(slots=True)
class Summary:
    """The outcome of a run."""

    seed: int
    programs: int = 0
    kernels: int = 0
    failures: list[Failure] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    compiled: Coverage = field(default_factory=Coverage)
    worst: float = 0.0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything agreed."""
        return not self.failures

    def __str__(self) -> str:
        lines = [str(self.coverage)] if self.programs else []
        if self.kernels:
            lines += ["", "of the compiled kernels:", str(self.compiled)]
        lines += [f"refused {count} times: {reason}" for reason, count in self.refused.most_common()]
        worst = f", largest relative difference {self.worst:.1e}" if self.programs else ""
        lines.append(
            f"seed {self.seed}: {self.programs} programs, {self.kernels} kernels, {len(self.failures)} disagreements{worst}, "
            f"{self.seconds:.0f} s"
        )
        return "\n".join(lines)


def fuzz(
    seed: int = 0,
    programs: int = 2000,
    kernels: int = 200,
    report: Report = print,
    *,
    evaluate: Evaluate | None = None,
    most_failures: int = 5,
) -> Summary:
    """Compare `programs` random programs in float64 at 1e-10 and verify `kernels` compiled ones, one-hot values included.

    evaluate: what is compared with the graph interpreter; by default the tile interpreter with each program's own tile.
    Failures are reported as they come; after `most_failures` the run ends.
    """
    summary, start = Summary(seed), time.perf_counter()
    for number in range(programs):
        _program(summary, seed, number, evaluate, report)
        if number + 1 < programs and (number + 1) % EVERY == 0:
            report(f"{number + 1} programs, {len(summary.failures)} disagreements, {time.perf_counter() - start:.0f} s")
        if len(summary.failures) >= most_failures:
            break
    for number in range(kernels):
        if len(summary.failures) >= most_failures:
            break
        _kernel(summary, seed, number, report)
        if number + 1 < kernels and (number + 1) % SOME == 0:
            report(f"{number + 1} kernels, {len(summary.failures)} disagreements, {time.perf_counter() - start:.0f} s")
    summary.seconds = time.perf_counter() - start
    report(str(summary))
    return summary


def lowered(graph: Graph) -> Program:
    """The tile program of a graph."""
    from attnc.compile import lower

    return lower(graph)


def by_tiles(case: Case) -> Evaluate:
    """The tile interpreter with the case's tile; where the program has a past, its outputs with it if those differ."""
    from attnc.tile.interp import run

    def evaluate(program: Program, inputs: Inputs) -> list[Array]:
        found = run(program, inputs, tile=case.tile)
        if program.past is None:
            return found
        again = run(program, inputs, tile=case.tile, linear=True)
        return again if farthest(found, again) > TOLERANCE else found

    return evaluate


def disagreement(case: Case, evaluate: Evaluate | None = None, graph: Graph | None = None) -> float:
    """How far `evaluate` is from the graph interpreter in float64, relative to the largest value of the output."""
    graph = graph or case.graph
    found = (evaluate or by_tiles(case))(lowered(graph), case.inputs)
    return farthest(interpret(graph, case.inputs), found)


def _program(summary: Summary, seed: int, number: int, evaluate: Evaluate | None, report: Report) -> None:
    summary.programs += 1
    case: Case | None = None
    try:
        case = make(seed, number)
        program = lowered(case.graph)
        summary.coverage.add(case, program)
        error = farthest(interpret(case.graph, case.inputs), (evaluate or by_tiles(case))(program, case.inputs))
    except UnsupportedError as refusal:
        summary.refused[refusal.message] += 1
    except Exception as fault:  # whatever a program raises is a finding, and the run goes on
        shrunk = "" if case is None else _smaller(case, evaluate, type(fault))
        _failed(summary, report, case, f"program {number} of seed {seed}", traceback.format_exc(limit=-4), shrunk)
    else:
        summary.worst = max(summary.worst, error if error <= TOLERANCE else 0.0)
        if error > TOLERANCE:
            _failed(summary, report, case, case.name, f"relative difference {error:.1e}", _smaller(case, evaluate))


def _failed(summary: Summary, report: Report, case: Case | None, name: str, what: str, shrunk: str = "") -> None:
    failure = Failure(name, what, "" if case is None else str(case), shrunk)
    summary.failures.append(failure)
    report(str(failure))


def _smaller(case: Case, evaluate: Evaluate | None, fault: type[Exception] | None = None) -> str:
    """The listing of a smaller graph that still disagrees, or still raises `fault`."""

    def fails(graph: Graph) -> bool:
        try:
            return disagreement(case, evaluate, graph) > TOLERANCE and fault is None
        except Exception as error:
            return fault is not None and type(error) is fault

    return str(shrink(case.graph, fails))


def _kernel(summary: Summary, seed: int, number: int, report: Report) -> None:
    summary.kernels += 1
    case: Case | None = None
    try:
        case = make(seed, KERNELS_FROM + number, FLOATS[number % len(FLOATS)])
        complaint = check_kernel(case)
        summary.compiled.add(case, lowered(case.graph))
    except UnsupportedError as refusal:
        summary.refused[f"kernel: {refusal.message}"] += 1
        return
    except Exception:
        _failed(summary, report, case, f"kernel {number} of seed {seed}", traceback.format_exc(limit=-4))
        return
    if complaint:
        _failed(summary, report, case, case.name, complaint)
