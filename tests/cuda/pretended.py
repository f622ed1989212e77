"""Kernels that are not compiled, for tests of the directory around them."""

from __future__ import annotations

from attnc.backends.arguments import layout
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.report import Report
from attnc.schedule.cuda_target import named
from attnc.schedule.short import PLAIN

REPORT = Report(100, 0, 0, 0, 0, 744, (), 1.5, 0.5, {"numba": "0"})


def executable(graph, program, problem, target, aligned, *, form=PLAIN, cache=None):
    """In place of `attnc.compile.cuda_executable`: the code is what was asked for, as text."""
    block = layout(program)
    words = tuple(name for name in block.words if name not in ("counter", "scratch", "scratch_stride"))
    asked = f"{graph.key} {target} {aligned} {problem.dtype} {dict(problem.features)} {problem.small} {form}".encode()
    stages = [Stage("main", asked, "kernel", words, 128, 64 * 1024, REPORT)]
    if block.searches:
        stages.insert(0, Stage("summary", b"summary", "kernel", words, 256, 0, REPORT))
    return Executable(named(target), block, tuple(stages), 64, aligned, form)
