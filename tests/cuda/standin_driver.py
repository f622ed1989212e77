"""A stand-in for the functions of libcuda that attnc calls itself, behind C pointers: what is called passes through the C ABI.

A map's 128 bytes, opaque in truth, hold its arguments. What the driver refuses by its documentation is refused, and the address 0.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import POINTER, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, replace

from attnc.backends.cuda.tensor_map import Geometry

INVALID_VALUE, INVALID_DEVICE = 1, 101
NAMES = {INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE", INVALID_DEVICE: b"CUDA_ERROR_INVALID_DEVICE"}
SIZES = {0: 1, 1: 2, 2: 4, 6: 2, 7: 4, 9: 2}  # bytes by CUtensorMapDataType
SWIZZLED = {1: 32, 2: 64, 3: 128}  # bytes by CUtensorMapSwizzle
BYTES = struct.Struct("=Q4Q3Q4I4I5i")


@dataclass(frozen=True)
class Encoded:
    """The arguments of cuTensorMapEncodeTiled."""

    address: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    steps: tuple[int, ...]
    kind: int
    interleave: int
    swizzle: int
    promotion: int
    fill: int

    def pack(self) -> bytes:
        """As the stand-in writes them."""
        last = self.kind, self.interleave, self.swizzle, self.promotion, self.fill
        return BYTES.pack(self.address, *self.extents, *self.strides, *self.box, *self.steps, *last)


def geometry(x: Encoded) -> Geometry:
    """What the emulator must know of a map."""
    features, length, heads, batch = x.extents
    step_l, step_h, step_b = x.strides
    return Geometry(x.address, (features, length, heads, batch), (step_l, step_h, step_b), x.box[1], x.box[0])


def unpack(place: int) -> Encoded:
    """The map at an address of this process."""
    x = BYTES.unpack(ctypes.string_at(place, BYTES.size))
    return Encoded(x[0], x[1:5], x[5:8], x[8:12], x[12:16], *x[16:])


class Driver:
    """The library. encoded, replaced: what was asked for; refuse: the number of an error that all calls answer from now on."""

    def __init__(self) -> None:
        self.encoded: list[Encoded] = []
        self.replaced: list[tuple[int, int]] = []  # from which address to which
        self.refuse = 0
        longs, units = POINTER(c_uint64), POINTER(c_uint32)
        types = (c_void_p, c_int, c_uint32, c_void_p, longs, longs, units, units, c_int, c_int, c_int, c_int)
        self.cuTensorMapEncodeTiled = ctypes.CFUNCTYPE(c_int, *types)(self._encode)
        self.cuTensorMapReplaceAddress = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)(self._replace)
        self.cuGetErrorName = ctypes.CFUNCTYPE(c_int, c_int, POINTER(c_char_p))(self._name)

    def _encode(self, place, kind, rank, address, extents, strides, box, steps, interleave, swizzle, promotion, fill):
        if rank != 4:
            return INVALID_VALUE
        arrays = tuple(extents[:4]), tuple(strides[:3]), tuple(box[:4]), tuple(steps[:4])
        x = Encoded(address or 0, *arrays, kind, interleave, swizzle, promotion, fill)
        if self.refuse or place % 64 or not _allowed(x):
            return self.refuse or INVALID_VALUE
        self.encoded.append(x)
        ctypes.memmove(place, x.pack(), BYTES.size)
        return 0

    def _replace(self, place: int, address: int | None) -> int:
        if self.refuse or place % 64 or not address or address % 16:
            return self.refuse or INVALID_VALUE
        old = unpack(place)
        self.replaced.append((old.address, address))
        ctypes.memmove(place, replace(old, address=address).pack(), BYTES.size)
        return 0

    def _name(self, error: int, text) -> int:
        text[0] = NAMES.get(error)
        return 0 if error in NAMES else INVALID_VALUE


def _allowed(x: Encoded) -> bool:
    """By the CUDA Driver API, "Tensor Map Object Management"."""
    size = SIZES[x.kind]
    return (
        x.address > 0
        and x.address % 16 == 0
        and all(0 < n <= 2**32 for n in x.extents)
        and all(0 < n < 2**40 and n % 16 == 0 for n in x.strides)
        and all(0 < n <= 256 for n in x.box)
        and all(0 < n <= 8 for n in x.steps)
        and x.box[0] * size % 16 == 0
        and x.box[0] * size <= SWIZZLED.get(x.swizzle, 512)
        and (x.interleave, x.fill) == (0, 0)
        and x.promotion in range(4)
    )
