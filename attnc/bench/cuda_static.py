"""What the compiler makes of CUDA kernels, on any machine: resources, tensor-core instructions, and how long it takes.

A compile is cold: an empty cache directory, and a source that this process has not compiled. The compiler's packages are
imported before, with an empty kernel for each target: that takes about a second of every process that compiles.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.backends.cuda import sass
from attnc.backends.cuda.compile import compile_cubin
from attnc.backends.cuda.executable import Executable
from attnc.backends.cuda.report import Report
from attnc.compile import cuda_executable, cuda_source
from attnc.runtime.arrays import numpy_dtype
from attnc.runtime.binding import bind
from attnc.runtime.cache import Cache
from attnc.schedule.cuda_target import WARP, named
from attnc.schedule.mma import Mma
from attnc.schedule.wgmma import Wgmma
from attnc.variant import Attention

NAMES = ("full", "causal", "soft_cap", "alibi", "sliding_window")
FIRST = """
from attnc.backends.cuda.elementwise import add
from attnc.backends.cuda.intrinsics import thread


def kernel(n):
    add(thread(), n)
"""


@dataclass(frozen=True, slots=True)
class StaticRow:
    """A variant of the library, compiled. dim: of q, k and v. passed: how many schedules spilled registers.

    code, instructions: of the main kernel, in order and by opcode. loop: tensor-core instructions of its main loop.
    seconds, cpu_seconds: of all of the compilation, source and other kernels included.
    """

    name: str
    dim: int
    target: str
    schedule: Mma | Wgmma
    passed: int
    report: Report
    shared_bytes: int
    resident: int
    loop: int
    code: Sequence[sass.Instruction]
    instructions: Mapping[str, int]
    lines: int
    seconds: float
    cpu_seconds: float


def bench_cuda_static(
    names: Sequence[str] = NAMES,
    dims: Sequence[int] = (64, 128),
    targets: Sequence[str] = ("sm_80", "sm_90", "sm_90a"),
    dtype: str = "bfloat16",
) -> Iterator[StaticRow]:
    """Compile each variant of the library for each head dim and target.

    Raises UnsupportedError where the packages that compile, or NVIDIA's disassemblers, are missing.
    """
    for target in targets:
        compile_cubin(FIRST, "/first.py", 32, named(target))
    for name in names:
        for dim in dims:
            for target in targets:
                yield _row(name, dim, target, dtype)


def _row(name: str, dim: int, target: str, dtype: str) -> StaticRow:
    import attnc.variants
    from attnc.variants.samples import examples_of

    variant: Attention = getattr(attnc.variants, name)
    x = np.zeros((1, 2, 128, dim), numpy_dtype(dtype))
    operands = examples_of(name, np.random.default_rng(0), 1, 2, 2, 128, 128, dim, dim, x.dtype)
    bound = bind(variant.signature, x, x, x, operands)
    prepared = variant._prepare(bound, False)
    problem = variant._problem(prepared, bound)
    call: tuple[Any, ...] = prepared.graph, prepared.program, problem, target, True
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        found: Executable = cuda_executable(*call, cache=Cache(folder))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    main, schedule = next(x for x in found.stages if x.role == "main"), found.schedule
    assert schedule is not None and main.report is not None
    code = sass.disassemble(main.code)
    return StaticRow(
        name, dim, target, schedule, len(found.passed), main.report, main.shared_bytes,
        found.target.resident(main.report.registers, main.threads, main.shared_bytes),
        sum(sass.histogram(sass.main_loop(code))[x] for x in sass.TENSOR), code, sass.histogram(code),
        len(cuda_source(*call).splitlines()), seconds, cpu,
    )  # fmt: skip


def table(rows: Sequence[StaticRow]) -> tuple[list[str], list[list[str]]]:
    """What kernels take of a GPU, and of the compiler."""
    columns = [
        "variant", "D", "target", "queries x keys", "warps", "registers", "spills", "stack", "shared", "blocks at once",
        "tensor cores in loop", "compile s", "CPU s", "lines",
    ]  # fmt: skip
    return columns, [
        [
            r.name, str(r.dim), r.target, f"{r.schedule.rows} x {r.schedule.keys}", str(r.schedule.threads // WARP),
            _registers(r), str(r.report.spilled), str(r.report.stack), str(r.shared_bytes), str(r.resident),
            _loop(r), f"{r.seconds:.1f}", f"{r.cpu_seconds:.1f}", str(r.lines),
        ]
        for r in rows
    ]  # fmt: skip


def _registers(r: StaticRow) -> str:
    """Of a thread at the launch, and what the producer's and the consumers' have then."""
    later = f" -> {r.schedule.registers[0]}, {r.schedule.registers[1]}" if isinstance(r.schedule, Wgmma) else ""
    return f"{r.report.registers}{later}"


def _loop(r: StaticRow) -> str:
    return f"{r.loop} {next(x for x in reversed(sass.TENSOR) if r.instructions.get(x))}"
