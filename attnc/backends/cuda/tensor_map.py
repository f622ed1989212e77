"""What the copy engine of Hopper must know of an array: kernels take it as a parameter of 128 bytes, which the driver encodes.

Plain data: neither Numba nor a driver is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STEP = 16  # bytes: strides and addresses are multiples of it, and not 0
LONGEST = 2**40  # bytes: strides are below it
ITEMSIZE = 2


@dataclass(frozen=True, slots=True)
class TensorMap:
    """The parameter `name` of a kernel describes `array` ("q", "k", "v" or "out0"), (batch, heads, length, features), of numbers of 16 bits.

    feature: its last axis. A copy moves a box of `rows` x `columns`, into rows of as many bytes whose chunks of 16 bytes are
    permuted (`attnc.schedule.mma.Swizzled`). What lies outside of the array reads as 0 and is not written.
    """

    name: str
    array: str
    feature: str
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """Numbers of a map, innermost first: extents (features, length, heads, batch), strides of the last three in bytes."""

    address: int
    extents: tuple[int, int, int, int]
    strides: tuple[int, int, int]
    rows: int
    columns: int


def geometry(x: TensorMap, words: Mapping[str, int], features: Mapping[str, int]) -> Geometry:
    """Of a call; words: by name, its argument block.

    An axis of stride 0 counts as one of extent 1: kernels ask for its entry 0. An array without entries, which may be said to lie
    anywhere, counts as one row where nothing is: no kernel asks for it.
    """
    kv = x.array in ("k", "v")
    heads = words["heads"] // words["group"] if kv else words["heads"]
    lengths = (words["kv_len" if kv else "q_len"], heads, words["batch"])
    steps = [words[f"{x.array}_{part}"] for part in ("l", "h", "b")]
    address = words[f"{x.array}_p"]
    if 0 in lengths:
        address, steps = STEP, [0, 0, 0]
    rows, heads, batch = [n if step else 1 for n, step in zip(lengths, steps, strict=True)]
    extents = features[x.feature], rows, heads, batch
    row, head, whole = [step if n > 1 else STEP for n, step in zip(extents[1:], steps, strict=True)]
    return Geometry(address, extents, (row, head, whole), x.rows, x.columns)
