"""Kernels for few queries: when they take a call, and where keys are split. Pure functions of a call's lengths.

Batch and heads do not matter, nor does the GPU: a sequence has the same bits in any batch and on any device. The price is that
keys are split also where the batch would fill the GPU: a part writes and reads its states once, a few bytes in a hundred of its
keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnc.schedule.mma import Mma

QUERIES = 16  # of a short call, at most: they and the heads of a group fill few tensor-core tiles of 16 rows
LEAST = 256  # keys of a part, at least
PARTS = 32  # of a call, at most


@dataclass(frozen=True, slots=True)
class Form:
    """What a block takes. share: rows of its tile are (query, head of a group), else the queries of a head.

    split: a part of the keys, whose states a second kernel merges. warps: of a block, 0 for the schedule's own choice.
    """

    share: bool = False
    split: bool = False
    warps: int = 0


PLAIN = Form()


def choose(q_len: int, kv_len: int, group: int, share: bool, split: bool) -> Form:
    """The form for a call. share, split: whether the program can be compiled so."""
    share = share and group > 1
    split = split and kv_len > LEAST
    if q_len > QUERIES or not (share or split):
        return PLAIN
    rows = q_len * group if share else q_len
    return Form(share, split, 1 if rows <= 16 else 4)


def part(kv_len: int) -> int:
    """Keys of a part: LEAST times a power of two, so that there are at most PARTS."""
    length = LEAST
    while length * PARTS < kv_len:
        length *= 2
    return length


def parts(kv_len: int) -> int:
    """How many parts; one where there are no keys."""
    return max(1, -(-kv_len // part(kv_len)))


def candidates(warps: int) -> Iterator[Mma]:
    """Schedules of a short kernel, the fastest first; the later ones need fewer registers and less shared memory."""
    for keys in (64, 32, 16):
        yield Mma(warps, 1, keys)
