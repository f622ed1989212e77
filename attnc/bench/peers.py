"""What the comparisons with PyTorch share: the same threads, calls in turn, and how its attentions are called."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attnc.errors import UnsupportedError

WARM_UPS = 2


def pytorch(purpose: str) -> Any:
    """The module torch. UnsupportedError where it is missing."""
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            f"{purpose} compares with PyTorch",
            cause=f"it cannot be imported ({error})",
            cure="pip install 'attnc[torch]'",
        ) from error
    return torch


@contextmanager
def same_threads(torch: Any, threads: int | None) -> Iterator[None]:
    """attnc, and PyTorch where there is one, with as many threads, by default what attnc uses; as before afterwards."""
    from attnc.backends.cpu.threads import get_num_threads, set_num_threads

    ours, theirs = get_num_threads(), torch and torch.get_num_threads()
    try:
        set_num_threads(threads or ours)
        if torch:
            torch.set_num_threads(threads or ours)
        yield
    finally:
        set_num_threads(ours)
        if torch:
            torch.set_num_threads(theirs)


def alternate(
    calls: Sequence[Callable[[], Any]], rounds: int, warm_ups: int = WARM_UPS, in_a_row: Sequence[int] | None = None
) -> list[float]:
    """Median seconds of each, called in turn so that a slow moment of the machine meets all.

    in_a_row: how often each is called in its turn, of which the fastest counts: then the others have not emptied the caches.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(-warm_ups, rounds):
        for call, count, kept in zip(calls, in_a_row or [1] * len(calls), times, strict=True):
            fastest = min(_seconds(call) for _ in range(count))
            if number >= 0:
                kept.append(fastest)
    return [statistics.median(x) for x in times]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Flex:
    """PyTorch's FlexAttention and its create_block_mask, both compiled for one mask_mod(b, h, i, j) and length."""

    def __init__(self, torch: Any, mask_mod: Callable[..., Any], length: int) -> None:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        torch.compiler.reset()  # else a second length makes kernels for any length, which are slower
        self.attention = torch.compile(flex_attention, dynamic=False)
        self.create = torch.compile(create_block_mask, dynamic=False)
        self.mask_mod, self.length = mask_mod, length
        self.mask = self.analyse()

    def analyse(self) -> Any:
        """The block mask, one for all batches and heads."""
        return self.create(self.mask_mod, None, None, self.length, self.length, device="cpu")

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        """The output for a block mask that is ready."""
        return self.attention(q, k, v, block_mask=self.mask)

    @property
    def pairs(self) -> int:
        """Visited in one head."""
        blocks = self.mask.kv_num_blocks.sum() + self.mask.full_kv_num_blocks.sum()
        rows, keys = self.mask.BLOCK_SIZE
        return int(blocks) * int(rows) * int(keys)


class Masked:
    """PyTorch's scaled_dot_product_attention with a boolean mask (length, length)."""

    BLOCK = 1024  # rows of the mask made at once: the integers of all pairs would take gigabytes

    def __init__(self, torch: Any, mask_mod: Callable[..., Any], length: int) -> None:
        self.torch, self.mask_mod, self.length = torch, mask_mod, length
        self.mask = self.analyse()

    def analyse(self) -> Any:
        """The mask."""
        torch, keys = self.torch, self.torch.arange(self.length)
        mask = torch.empty((self.length, self.length), dtype=torch.bool)
        for start in range(0, self.length, self.BLOCK):
            rows = keys[start : start + self.BLOCK, None]
            mask[start : start + self.BLOCK] = self.mask_mod(0, 0, rows, keys[None, :])
        return mask

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        """The output for a mask that is ready."""
        return self.torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)

    @property
    def pairs(self) -> int:
        """Visited in one head: all."""
        return self.length**2
