"""The suite `sparse`: masks beside PyTorch's compiled FlexAttention and its SDPA with a mask.

attnc's time always includes the analysis of the mask, which happens inside the kernel. "flex + mask" is what a user of a new mask pays
there: create_block_mask and the call, timed as one. The analysis alone is timed on attnc's kernel with the bodies of its tiles
replaced by counters (`attnc.bench.analysis.counting`). It and the making of a peer's mask are timed alike, with warm caches: in each round
three calls in a row, of which the fastest counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import attnc as at
from attnc.bench.analysis import Tiles, all_partial, changed, count, counting
from attnc.bench.attention import IN_A_ROW, OURS, AttentionRow
from attnc.bench.case import Case, Modify, square
from attnc.bench.long import LongRow
from attnc.bench.row import Figure, Row, Times, constant
from attnc.bench.suite import Spec
from attnc.bench.timing import Settings, timed

PEERS = ("flex", "SDPA", "NumPy")


def sparse(quick: bool) -> list[Spec]:
    """A window, packed documents, neighbourhoods of an image, and a window over a million keys."""
    if quick:
        return [
            SparseRow(window(300, 2, 16, 40), PEERS, 0.0), SparseRow(documents(3, 50, 2, 16), PEERS, 0.0),
            SparseRow(canvas(8, 3, 2, 16), PEERS, 0.0), LongRow(3000, 100, 16),
        ]  # fmt: skip
    wide = {"flex + mask": 3.5, "SDPA": 25.0}
    return [
        SparseRow(window(), PEERS[:2], 100.0, wide), SparseRow(documents(), PEERS[:2], 100.0, wide),
        SparseRow(canvas(), PEERS[:2], 100.0, {"flex + mask": 2.0}), LongRow(),
    ]  # fmt: skip


def window(length: int = 16384, heads: int = 4, dim: int = 64, size: int = 1024) -> Case:
    """A causal window of `size` keys."""
    from attnc.variants import sliding_window

    def mask(xp: Any) -> Modify:
        return lambda b, h, i, j: (j <= i) & (i - j < size)

    needed = sum(min(i + 1, size) for i in range(length))
    return Case(
        "window", sliding_window, square(length, dim, heads), operands={"window": size}, mask=mask, pairs=needed
    )


@at.attention  # type: ignore[untyped-decorator]
def packed_causal(  # type: ignore[no-untyped-def]
    q, k, v, b, i, j, *, doc: at.Tensor["b", "j", int]  # type: ignore[name-defined]  # noqa: F821, UP037
):  # fmt: skip
    """Causal attention inside each of several documents in one row; doc[b, j] is the number of the document of key j."""
    same = (j <= i) & (doc[b, i] == doc[b, j])
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=same) @ v


def documents(number: int = 8, length: int = 2048, heads: int = 4, dim: int = 64) -> Case:
    """`number` packed causal documents of `length` each."""
    doc = np.repeat(np.arange(number), length)

    def mask(xp: Any) -> Modify:
        table = xp.asarray(doc)
        return lambda b, h, i, j: (j <= i) & (table[i] == table[j])

    needed = number * length * (length + 1) // 2
    shape = square(number * length, dim, heads)
    return Case("documents", packed_causal, shape, operands={"doc": doc[None]}, mask=mask, pairs=needed)


def canvas(width: int = 64, kernel: int = 13, heads: int = 4, dim: int = 64) -> Case:
    """Neighbourhood attention on a square image."""
    from attnc.variants import natten

    r, length = kernel // 2, width * width

    def mask(xp: Any) -> Modify:
        def near(b: Any, h: Any, i: Any, j: Any) -> Any:
            row = xp.clip(i // width, r, width - 1 - r)
            column = xp.clip(i % width, r, width - 1 - r)
            return (xp.abs(row - j // width) <= r) & (xp.abs(column - j % width) <= r)

        return near

    operands = {"width": width, "kernel": kernel}
    return Case("natten", natten, square(length, dim, heads), operands=operands, mask=mask, pairs=length * kernel**2)


@dataclass(frozen=True, slots=True)
class SparseRow:
    """A case beside peers, its tiles and its analysis. analysis: least ratio of the time of flex's mask to that of the analysis."""

    case: Case
    peers: tuple[str, ...]
    analysis: float
    aims: Any = None

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    def measure(self, settings: Settings) -> Row:
        """Times and figures."""
        row = AttentionRow(self.case, self.peers, self.aims or {})
        found = row.prepare(settings)
        # What `Attention` is to the bench is its kernel: these two are that kernel, changed.
        operands: Any = dict(self.case.operands)
        variant: Any = self.case.variant
        analysis, masked = (changed(variant, found.inputs, operands, x) for x in (counting, all_partial))
        found.measures["analysis"] = timed(analysis, in_a_row=IN_A_ROW)
        found.measures["no full tiles"] = timed(masked)
        times = found.times(settings)
        return row.row(found, times, [*row.figures(times), *self.figures(times, count(analysis))])

    def figures(self, times: Times, tiles: Tiles) -> list[Figure]:
        """What the analysis takes and finds."""
        shape, masks = self.case.shape, list[Figure]()
        if "flex" in self.peers:
            if "flex" in times.missing:
                times.missing["flex: mask"] = times.missing["flex"]
            masks.append(times.figure("flex: mask / analysis", "flex: mask", "analysis", aim=self.analysis))
        return [
            times.figure("analysis", "analysis", unit="s"),
            times.figure("analysis / attnc", "analysis", OURS),
            *masks,
            constant("full tiles", tiles.full),
            constant("partial tiles", tiles.partial),
            constant("pairs visited / needed", tiles.pairs / (shape.batch * shape.heads * self.case.needed)),
            *partial_tile(times, tiles),
        ]


def partial_tile(times: Times, tiles: Tiles) -> list[Figure]:
    """The time of a partial tile relative to a full one's; none where there are no tiles of both classes."""
    if not tiles.full or not tiles.partial:
        return []
    seconds, masked = (float(np.median(times.seconds[x])) for x in (OURS, "no full tiles"))
    one = masked / tiles.visited
    return [constant("partial / full tile", one * tiles.full / (seconds - one * tiles.partial))]
