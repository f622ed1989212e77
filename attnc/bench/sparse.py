"""Masked attention beside PyTorch's compiled FlexAttention and its SDPA with a mask: same process, arrays and threads, in turn.

attnc's time always includes the analysis of the mask, which happens inside the kernel. The analysis alone is timed on the
same kernel with the bodies of its tiles replaced by counters (`attnc.bench.analysis.counting`). It and the making of a peer's mask
are timed alike, with warm caches: in each round three calls in a row, of which the fastest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import attnc as at
from attnc.bench.analysis import Tiles, all_partial, changed, count, counting
from attnc.bench.peers import Flex, Masked, alternate, pytorch, same_threads
from attnc.errors import UnsupportedError
from attnc.variant import Attention

MaskMod = Callable[[Any, Any, Any, Any], Any]
IN_A_ROW = 3  # analyses, and masks of peers; calls with the mask ready come one at a time
PEERS: dict[str, Callable[[Any, MaskMod, int], Flex | Masked]] = {"flex_attention": Flex, "SDPA with mask": Masked}


@dataclass(frozen=True, slots=True)
class Problem:
    """A mask at a size: the variant and its operands, and a mask_mod(b, h, i, j) of torch tensors, made by `mask(torch)`.

    shape: of Q, K and V. needed: pairs of one head that the mask lets through. aims: least ratios to peers, by name.
    """

    name: str
    variant: Attention
    operands: dict[str, Any]
    mask: Callable[[Any], MaskMod]
    shape: tuple[int, int, int, int]
    needed: int
    aims: dict[str, float]


@dataclass(frozen=True, slots=True)
class Peer:
    """Median seconds of a call with the mask ready, and of making the mask; pairs of one head that are visited.

    failed: why there are no numbers, else "".
    """

    name: str
    aim: float | None
    seconds: float = 0.0
    analysis: float = 0.0
    pairs: int = 0
    difference: float = 0.0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class SparseRow:
    """attnc's median seconds: of a call, of the analysis in it (warm), and of a call in which no tile is full. `tiles`: of all heads."""

    problem: Problem
    seconds: float
    analysis: float
    masked: float
    tiles: Tiles
    peers: tuple[Peer, ...]

    @property
    def partial_tile(self) -> float:
        """The time of a partial tile relative to a full one's; NaN where there are no tiles of both classes."""
        if not self.tiles.full or not self.tiles.partial:
            return float("nan")
        one = self.masked / self.tiles.visited
        return one * self.tiles.full / (self.seconds - one * self.tiles.partial)

    @property
    def waste(self) -> float:
        """Pairs visited for each pair needed."""
        return self.tiles.pairs / (self.problem.shape[0] * self.problem.shape[1] * self.problem.needed)


def bench_sparse(
    problems: Sequence[Problem], rounds: int = 5, threads: int | None = None, peers: Sequence[str] = tuple(PEERS)
) -> Iterator[SparseRow]:
    """Measure one problem after the other. A peer that is missing or fails is in the row, with the reason.

    threads: of all; by default what attnc uses. The first call of a compiled flex_attention takes a minute.
    """
    torch, missing = None, ""
    try:
        torch = pytorch("bench sparse")
    except UnsupportedError as error:
        missing = f"PyTorch cannot be imported: {error.__cause__}"
    with same_threads(torch, threads):
        for problem in problems:
            yield _measure(torch, missing, problem, rounds, peers)


def window(length: int = 16384, heads: int = 4, dim: int = 64, size: int = 1024) -> Problem:
    """A causal window of `size` keys."""
    from attnc.variants import sliding_window

    needed = sum(min(i + 1, size) for i in range(length))
    aims = {"flex_attention": 2.5, "SDPA with mask": 18.0}
    operands = {"window": size}

    def mask(torch: Any) -> MaskMod:
        return lambda b, h, i, j: (j <= i) & (i - j < size)

    return Problem(f"window {size}", sliding_window, operands, mask, (1, heads, length, dim), needed, aims)


@at.attention  # type: ignore[untyped-decorator]
def packed_causal(  # type: ignore[no-untyped-def]
    q, k, v, b, i, j, *, doc: at.Tensor["b", "j", int]  # type: ignore[name-defined]  # noqa: F821, UP037
):  # fmt: skip
    """Causal attention inside each of several documents in one row; doc[b, j] is the number of the document of key j."""
    same = (j <= i) & (doc[b, i] == doc[b, j])
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=same) @ v


def documents(count: int = 8, length: int = 2048, heads: int = 4, dim: int = 64) -> Problem:
    """`count` packed causal documents of `length` each."""
    doc = np.repeat(np.arange(count), length)
    needed = count * length * (length + 1) // 2
    shape = (1, heads, count * length, dim)

    def mask(torch: Any) -> MaskMod:
        table = torch.from_numpy(doc)
        return lambda b, h, i, j: (j <= i) & (table[i] == table[j])

    name = f"{count} causal documents of {length}"
    return Problem(name, packed_causal, {"doc": doc[None]}, mask, shape, needed, {"flex_attention": 3.0})


def canvas(width: int = 64, kernel: int = 13, heads: int = 4, dim: int = 64) -> Problem:
    """Neighbourhood attention on a square image."""
    from attnc.variants import natten

    r, length = kernel // 2, width * width

    def mask(torch: Any) -> MaskMod:
        def near(b: Any, h: Any, i: Any, j: Any) -> Any:
            row = torch.clamp(i // width, r, width - 1 - r)
            column = torch.clamp(i % width, r, width - 1 - r)
            return ((row - j // width).abs() <= r) & ((column - j % width).abs() <= r)

        return near

    name, operands = f"natten {width}x{width}, kernel {kernel}", {"width": width, "kernel": kernel}
    return Problem(name, natten, operands, mask, (1, heads, length, dim), length * kernel**2, {"flex_attention": 2.0})


def _measure(torch: Any, missing: str, problem: Problem, rounds: int, names: Sequence[str]) -> SparseRow:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(problem.shape, dtype=np.float32) for _ in range(3))
    inputs = (q, k, v)
    analysis, masked = (changed(problem.variant, inputs, problem.operands, x) for x in (counting, all_partial))
    calls: list[Callable[[], Any]] = [lambda: problem.variant(*inputs, **problem.operands), analysis, masked]
    counts = [1, IN_A_ROW, 1]
    peers = [Peer(name, problem.aims.get(name), failed=missing) for name in names]
    if torch is None:
        times = alternate(calls, rounds, in_a_row=counts)
    else:
        with torch.inference_mode():
            peers, extra = _peers(torch, problem, inputs, peers, calls[0]())
            counts += [1, IN_A_ROW] * (len(extra) // 2)
            times = alternate([*calls, *extra], rounds, in_a_row=counts)
    for n, place in enumerate(x for x, peer in enumerate(peers) if not peer.failed):
        peers[place] = replace(peers[place], seconds=times[3 + 2 * n], analysis=times[4 + 2 * n])
    return SparseRow(problem, times[0], times[1], times[2], count(analysis), tuple(peers))


def _peers(
    torch: Any, problem: Problem, inputs: tuple[Any, ...], peers: Sequence[Peer], ours: Any
) -> tuple[list[Peer], list[Callable[[], Any]]]:
    """Each peer with its first output compared, and for each that has one two things to time: its call and its mask."""
    tensors = [torch.from_numpy(x) for x in inputs]
    found: list[Peer] = []
    calls: list[Callable[[], Any]] = []
    for peer in peers:
        try:
            made = PEERS[peer.name](torch, problem.mask(torch), problem.shape[2])
            theirs = made(*tensors).numpy()
        except Exception as error:  # whatever a compiler of another project raises
            text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            found.append(replace(peer, failed=text))
            continue
        found.append(replace(peer, pairs=made.pairs, difference=float(np.abs(ours - theirs).max())))
        calls += [partial(made, *tensors), made.analyse]
    return found, calls
