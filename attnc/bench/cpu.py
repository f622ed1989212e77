"""attnc's CPU kernels beside PyTorch's scaled_dot_product_attention: same process, same arrays, same threads, alternating."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.bench.peers import alternate, pytorch, same_threads


@dataclass(frozen=True, slots=True)
class CpuRow:
    """Medians in seconds. `ratio`: PyTorch's time over attnc's, so above 1 attnc is faster. `difference`: of the outputs."""

    name: str
    shape: tuple[int, int, int, int]
    attnc: float
    torch: float
    gflops: float
    difference: float

    @property
    def ratio(self) -> float:
        """attnc's speed relative to PyTorch's."""
        return self.torch / self.attnc


def bench_cpu(
    head_dims: tuple[int, ...] = (64, 128),
    heads: int = 8,
    length: int = 2048,
    rounds: int = 15,
    threads: int | None = None,
) -> list[CpuRow]:
    """float32, dense and causal, Q = K = V (1, heads, length, D). `threads`: of both; by default what attnc uses.

    Raises UnsupportedError where PyTorch is missing.
    """
    from attnc.variants import causal, full

    torch = pytorch("bench cpu")
    with same_threads(torch, threads):
        rows = []
        for dim in head_dims:
            for name, variant, is_causal in (("dense", full, False), ("causal", causal, True)):
                rows.append(_row(torch, name, variant, is_causal, (1, heads, length, dim), rounds))
        return rows


def _row(
    torch: Any, name: str, variant: Callable[..., Any], is_causal: bool, shape: tuple[int, int, int, int], rounds: int
) -> CpuRow:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape, dtype=np.float32) for _ in range(3))
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        a, b = alternate([lambda: variant(q, k, v), lambda: attend(*tensors, is_causal=is_causal)], rounds)
        difference = float(np.abs(variant(q, k, v) - attend(*tensors, is_causal=is_causal).numpy()).max())
    batch, heads, length, dim = shape
    flop = 4.0 * batch * heads * length * length * dim * (0.5 if is_causal else 1.0)
    return CpuRow(name, shape, a, b, flop / a / 1e9, difference)
