"""What bounds every kernel on this machine: fused multiply-adds, matrix products, reading memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.bench.row import Row
from attnc.bench.timing import BLAS_PAUSE, PAUSE, Settings, alternate, timed, torch_or_none

SIDE = 2048  # of the matrices
READ = 1 << 28  # bytes
STEPS = 2_000_000


@dataclass(frozen=True, slots=True)
class MachineRow:
    """The machine's own rates, with the threads of the settings."""

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return "machine"

    def measure(self, settings: Settings) -> Row:
        """Three rates. sgemm and the sum are PyTorch's, or NumPy's where it is not installed."""
        side, size, steps = (256, 1 << 20, 1000) if settings.quick else (SIDE, READ, STEPS)
        peak, torch = Peak(settings.threads, steps), torch_or_none()
        numbers: Any = torch.ones(size // 4) if torch else np.ones(size // 4, np.float32)
        calls = {"FMA": peak, "sgemm": sgemm(settings.quick), "sum": numbers.sum}
        measures = {name: timed(call) for name, call in calls.items()}
        times = alternate(measures, settings, pause=PAUSE if torch else BLAS_PAUSE)
        figures = (
            times.figure("FMA peak", "", "FMA", factor=peak.work / 1e9, unit="GFLOP/s"),
            times.figure(f"sgemm of {side}", "", "sgemm", factor=2 * side**3 / 1e9, unit="GFLOP/s"),
            times.figure("sgemm / FMA peak", "FMA", "sgemm", factor=2 * side**3 / peak.work),
            times.figure(f"sum of {size >> 20} MiB", "", "sum", factor=size / 1e9, unit="GB/s"),
        )
        return Row(
            self.name, f"{settings.threads} threads, float32, {'PyTorch' if torch else 'NumPy'}", figures, times.seconds
        )


def sgemm(quick: bool) -> Callable[[], Any]:
    """A product of two float32 matrices."""
    torch, side = torch_or_none(), 256 if quick else SIDE
    if not torch:
        x = np.ones((side, side), np.float32)
        return lambda: x @ x
    y, out = torch.ones((side, side)), torch.empty((side, side))
    return lambda: torch.mm(y, y, out=out)


class Peak:
    """Independent chains of fused multiply-adds in registers, in every thread: calling it does `work` operations.

    As many chains as the micro-kernels of attention keep sums.
    """

    def __init__(self, threads: int, steps: int) -> None:
        import llvmlite.binding as llvm

        from attnc.schedule import target

        host = target.host()
        lanes, chains = host.vector_bytes // 4, host.tile[0] * host.tile[1]
        self.threads, self.work = threads, 2.0 * lanes * chains * steps * threads
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=target.features(), codemodel="jitdefault", jit=True
        )
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_chains(lanes, chains)), machine)
        self.engine.finalize_object()
        self.address = self.engine.get_function_address("peak")
        self.results = np.zeros(threads * 64, np.float32)
        self.block = (ctypes.c_int64 * 2)(self.results.ctypes.data, steps)

    def __call__(self) -> None:
        from attnc.backends.cpu import threads

        threads.run(self.address, ctypes.addressof(self.block), self.threads)


def _chains(lanes: int, count: int) -> str:
    """LLVM IR of `void peak(int64 args, int64 worker)`; args: address of the results, steps."""
    vector, names = f"<{lanes} x float>", range(count)
    fma = f"llvm.fma.v{lanes}f32"
    splat, starts = (
        f"<{', '.join(['float 0.5'] * lanes)}>",
        [f"<{', '.join([f'float {c}.0'] * lanes)}>" for c in names],
    )
    entry = [
        "  %words = inttoptr i64 %args to ptr", "  %out = load i64, ptr %words", "  %at = getelementptr i64, ptr %words, i64 1",
        "  %steps = load i64, ptr %at", "  %shift = mul i64 %worker, 256", "  %mine = add i64 %out, %shift",
        "  %place = inttoptr i64 %mine to ptr", "  br label %loop",
    ]  # fmt: skip
    loop = ["  %n = phi i64 [ 0, %entry ], [ %next, %loop ]"]
    loop += [
        f"  %x{c} = phi {vector} [ {starts[c]}, %entry ], [ %y{c}, %loop ]" for c in names
    ]  # unlike each other, so none can be spared
    loop += [f"  %y{c} = call {vector} @{fma}({vector} %x{c}, {vector} {splat}, {vector} {splat})" for c in names]
    loop += [
        "  %next = add i64 %n, 1",
        "  %more = icmp slt i64 %next, %steps",
        "  br i1 %more, label %loop, label %end",
    ]
    # Every chain reaches memory, else it would not be computed.
    end = [f"  store volatile {vector} %y{c}, ptr %place, align 4" for c in names]
    parts = ["entry:", *entry, "loop:", *loop, "end:", *end, "  ret void"]
    head = f"declare {vector} @{fma}({vector}, {vector}, {vector})\n"
    return head + "define void @peak(i64 %args, i64 %worker) {\n" + "\n".join(parts) + "\n}\n"
