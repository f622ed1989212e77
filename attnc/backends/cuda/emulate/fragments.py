"""Matrix instructions on the fragments of warps, and the 16-bit floats that fragments are made of.

Layouts are those of the PTX ISA for mma.m16n8k16 and ldmatrix.m8n8.x4.b16. In a warp, thread 4 g + t holds, of row or
column g, the entries 2 t and 2 t + 1 of each 8x8 block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.shared import Window
from attnc.backends.cuda.emulate.values import Value, convert, spread

Array = np.ndarray[Any, Any]
NAN_16 = 0x7FFF  # what the hardware makes of any NaN


def from_bf16(bits: Array) -> Array:
    """16-bit integers as the bfloat16 numbers that they encode, in float32."""
    return (bits.astype(np.uint16, copy=False).astype(np.uint32) << 16).view(np.float32)


def from_f16(bits: Array) -> Array:
    """16-bit integers as the float16 numbers that they encode, in float32."""
    return bits.view(np.float16).astype(np.float32)


def to_bf16(x: Array) -> Array:
    """float32 rounded to the nearest bfloat16, ties to even, as uint16."""
    bits = x.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(x), NAN_16, rounded).astype(np.uint16)


def to_f16(x: Array) -> Array:
    """float32 rounded to the nearest float16, ties to even, as uint16."""
    return np.where(np.isnan(x), NAN_16, x.astype(np.float16).view(np.uint16)).astype(np.uint16)


def _registers(operands: Any, letter: str, n: int) -> Array:
    return np.concatenate([spread(convert(x, letter), n) for x in operands])


def multiply(decode: Any, n: int, a: Any, b: Any, c: Any) -> tuple[Value, ...]:
    """mma.m16n8k16.row.col: c + a b in float32; four, two and four registers per thread."""
    warps = n // 32
    # registers of a: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15
    left = decode(_registers(a, "r", n).view(np.int16)).reshape(2, 2, warps, 8, 8)
    left = left.transpose(2, 1, 3, 0, 4).reshape(warps, 16, 16)
    # registers of b: rows 0-7, 8-15; a thread's pair lies down its column
    right = decode(_registers(b, "r", n).view(np.int16)).reshape(2, warps, 8, 8)
    right = right.transpose(1, 0, 3, 2).reshape(warps, 16, 8)
    # registers of c: rows 0-7, its pair of columns; rows 8-15
    product = np.matmul(left, right).reshape(warps, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3).reshape(4, n)
    return tuple(map(Value, _registers(c, "f", n).reshape(4, n) + product))


def load_matrices(shared: Window, n: int, address: Any, transposed: bool) -> tuple[Value, ...]:
    """ldmatrix.x4: thread 8 m + r gives the address of row r of matrix m; register m is the thread's pair of matrix m."""
    rows = shared.read(spread(convert(address, "r"), n), 16).reshape(n // 32, 4, 8, 8)
    if transposed:
        rows = rows.transpose(0, 1, 3, 2)
    pairs = np.ascontiguousarray(rows.swapaxes(0, 1)).view(np.int32)
    return tuple(map(Value, pairs.reshape(4, n)))


def pack(encode: Any, n: int, low: Any, high: Any) -> Value:
    """Two floats as the halves of a register."""
    pairs = np.empty((n, 2), np.uint16)
    pairs[:, 0], pairs[:, 1] = (encode(spread(convert(x, "f"), n)) for x in (low, high))
    return Value(pairs.view(np.int32).reshape(n))


def half(decode: Any, n: int, x: Any, high: int) -> Value:
    """A half of a register as a float."""
    halves = spread(convert(x, "r"), n).view(np.int16).reshape(n, 2)[:, high]
    return Value(decode(np.ascontiguousarray(halves)))
