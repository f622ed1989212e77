"""Benchmarks: what a call costs besides its arithmetic, and how fast the kernels are beside PyTorch's."""

from attnc.bench.cpu import CpuRow, bench_cpu
from attnc.bench.cuda_static import StaticRow, bench_cuda_static
from attnc.bench.long import LongRow, bench_long
from attnc.bench.overhead import OverheadRow, bench_overhead
from attnc.bench.sparse import SparseRow, bench_sparse

__all__ = [
    "CpuRow", "LongRow", "OverheadRow", "SparseRow", "StaticRow", "bench_cpu", "bench_cuda_static", "bench_long",
    "bench_overhead", "bench_sparse",
]  # fmt: skip
