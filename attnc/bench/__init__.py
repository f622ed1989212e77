"""Benchmarks: what a call costs besides its arithmetic, and how fast the kernels are beside PyTorch's."""

from attnc.bench.cpu import CpuRow, bench_cpu
from attnc.bench.overhead import OverheadRow, bench_overhead

__all__ = ["CpuRow", "OverheadRow", "bench_cpu", "bench_overhead"]
