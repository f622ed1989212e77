"""Forms of CPU kernels for few queries: when they take a call, and where keys are split. Pure functions of a call's lengths.

Batch, heads and threads do not matter: a sequence has the same bits in any batch and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

QUERIES = 16  # of a short call, at most
SHORTEST = 64  # keys up to which every call takes the plain kernel: there is too little to win
LEAST = 512  # keys of a part, at least: the states of few rows are less than a hundredth of its keys and values
MANY = 4  # times as many where rows are not few, whose states are as much larger
PARTS = 32  # of a call, at most
LINEAR = 1.25  # how much more multiply-adds of pairs cost than those of states
NEAR = 128  # keys that a query visits nevertheless
PIECE = 16384  # queries or keys of a piece of a long call with a past, at least
PIECES = 16  # of such a call, at most
VECTORS = 64  # of features that products for few queries spell out, at most


@dataclass(frozen=True, slots=True)
class CpuForm:
    """What a work item is. share: rows of its tile are (query, head of a group), else the queries of a head.

    split: a part of the keys, whose states the worker that ends the last part merges. few: products with features in the lanes,
    for at most half a vector of rows. long: tiles of many keys. linear: all tiles of a head, with a past (`attnc.tile.past`).
    """

    share: bool = False
    split: bool = False
    few: bool = False
    long: bool = False
    linear: bool = False


@dataclass(frozen=True, slots=True)
class Can:
    """What a program can be compiled to: tiles that heads share, parts of the keys, long tiles, a past."""

    share: bool = False
    split: bool = False
    stream: bool = False
    linear: bool = False


PLAIN = CpuForm()


def choose(extents: Mapping[str, int], width: int, features: int, can: Can) -> CpuForm:
    """The form for a call. extents: q_len, kv_len, group. width: lanes of a vector. features: of the longest feature axis."""
    q_len, group = extents["q_len"], extents["group"]
    if can.linear and is_long(q_len, extents["kv_len"], features):
        return CpuForm(linear=True)
    if q_len > QUERIES or extents["kv_len"] <= SHORTEST:
        return PLAIN
    share = can.share and group > 1
    few = rows(q_len, group, share) <= most(width) and features <= VECTORS * width
    split = can.split and (few or extents["kv_len"] > least(few))
    return CpuForm(share, split, few, few and can.stream)


def is_long(q_len: int, kv_len: int, features: int) -> bool:
    """Whether states of features x features, that each key adds to and each query reads, cost less than the pairs.

    A pair costs 2 features (half of the pairs may be masked), a tile of queries besides the pairs around the diagonal.
    """
    return q_len * kv_len > LINEAR * ((q_len + kv_len) * features + NEAR * q_len)


def piece(q_len: int, kv_len: int) -> int:
    """Queries, or keys, of a piece of a call with a past: the least times a power of two, so that there are at most PIECES."""
    length = PIECE
    while length * PIECES < max(q_len, kv_len):
        length *= 2
    return length


def most(width: int) -> int:
    """Rows that products for few queries take, at most."""
    return max(width // 2, 2)


def rows(q_len: int, group: int, share: bool) -> int:
    """Rows of all tiles that a head, or a group of heads, has."""
    return q_len * group if share else q_len


def least(few: bool) -> int:
    """Keys of a part, at least."""
    return LEAST if few else MANY * LEAST


def part(kv_len: int, few: bool) -> int:
    """Keys of a part: the least times a power of two, so that there are at most PARTS."""
    length = least(few)
    while length * PARTS < kv_len:
        length *= 2
    return length


def parts(kv_len: int, few: bool) -> int:
    """How many parts; one where there are no keys."""
    return max(1, -(-kv_len // part(kv_len, few)))
