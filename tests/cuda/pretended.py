"""Kernels that are not compiled, for tests of what is around them."""

from __future__ import annotations

from standin_cupy import fake_cubin

from attnc.backends.arguments import layout
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.report import Report
from attnc.backends.cuda.tensor_map import TensorMap
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


MAPS = tuple(TensorMap(f"{x}_map", x, "d" if x in "qk" else "e", 64, 32) for x in ("q", "k", "v", "out0"))


def hopper(graph, program, problem, target, aligned, *, form=PLAIN, cache=None, flags=64):
    """The same, as kernels of the schedule wgmma where the target and the rows let it: persistent, with maps and a repair."""
    if target != "sm_90a" or not aligned or form != PLAIN:
        code = fake_cubin("def kernel(q_p):\n    pass\n")
        stages, flags = (Stage("main", code, "kernel", ("q_p",), 128, 0, REPORT),), 0
    else:
        words = ("batch", "scratch", *(x.name for x in MAPS))
        main, repair = (fake_cubin(f"def kernel({', '.join(x)}):\n    pass\n") for x in (words, ("scratch",)))
        stages = (
            Stage("main", main, "kernel", words, 384, 64 * 1024, REPORT, MAPS, persistent=2),
            Stage("repair", repair, "kernel", ("scratch",), 128, 0, REPORT),
        )
    features = dict(problem.features)
    return Executable(named(target), layout(program), stages, 128, aligned, form, flags=flags, features=features)
