"""Benchmarks: what a call costs besides its arithmetic, and how fast the kernels are beside PyTorch's.

Each is loaded when it is first named: that of the GPU runs where no compiler is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnc.bench.cpu import CpuRow, bench_cpu
    from attnc.bench.cuda_static import StaticRow, bench_cuda_static
    from attnc.bench.gpu import GpuRow, bench_gpu
    from attnc.bench.long import LongRow, bench_long
    from attnc.bench.overhead import OverheadRow, bench_overhead
    from attnc.bench.sparse import SparseRow, bench_sparse

__all__ = [
    "CpuRow", "GpuRow", "LongRow", "OverheadRow", "SparseRow", "StaticRow", "bench_cpu", "bench_cuda_static", "bench_gpu",
    "bench_long", "bench_overhead", "bench_sparse",
]  # fmt: skip
_HOME = {
    "CpuRow": "cpu", "GpuRow": "gpu", "LongRow": "long", "OverheadRow": "overhead", "SparseRow": "sparse",
    "StaticRow": "cuda_static",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, name.removeprefix('bench_'))}"), name)
