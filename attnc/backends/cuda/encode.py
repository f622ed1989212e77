"""Has the driver encode tensor maps, in memory from which launches take them. Needs libcuda, which CuPy does not show for this.

Signatures and numbers are those of cuda.h 13.0 (NVIDIA's cuda-bindings 13.0.3, `cuda/bindings/cydriver.pxd`); what is fetched
at once and how what lies outside is filled, those of CUTLASS (`include/cute/atom/copy_traits_sm90_tma.hpp`).
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from attnc.backends.cuda.tensor_map import ITEMSIZE, Geometry, TensorMap, geometry
from attnc.dsl.place import here
from attnc.errors import DeviceError

BYTES, ALIGN = 128, 64  # of a CUtensorMap
SUCCESS = 0
UINT16 = 1  # of CUtensorMapDataType: what numbers of 16 bits mean is the kernel's business
NO_INTERLEAVE, FETCH_128_BYTES, FILL_ZEROS = 0, 2, 0
SWIZZLES = {32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle by the bytes of a row of the box
UNITS = (ctypes.c_uint32 * 4)(1, 1, 1, 1)  # steps within a box
LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
ENCODE, REPLACE = "cuTensorMapEncodeTiled", "cuTensorMapReplaceAddress"


@functools.cache
def driver() -> Any:
    """NVIDIA's driver, whose functions know their arguments. DeviceError where it cannot be loaded."""
    try:
        return typed(ctypes.CDLL(LIBRARY))
    except OSError as error:
        raise DeviceError(
            "kernels for sm_90a cannot be launched",
            where=here(),
            cause=f"{LIBRARY} cannot be loaded ({error}); the arrays are described to them by the driver",
            cure="install NVIDIA's driver 580 or later, where the loader of shared libraries finds it",
        ) from error


def typed(library: Any) -> Any:
    """A library with the functions that are called here, after their arguments were declared."""
    place, number, longs = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_uint64)
    units = ctypes.POINTER(ctypes.c_uint32)
    signatures = {
        ENCODE: (place, number, ctypes.c_uint32, place, longs, longs, units, units, number, number, number, number),
        REPLACE: (place, place),
        "cuGetErrorName": (number, ctypes.POINTER(ctypes.c_char_p)),
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, number
    return library


class Maps:
    """The maps of a call, 128 bytes each. They live as long as this does; what they describe changes with `renew`."""

    def __init__(self, maps: Sequence[TensorMap], numbers: Mapping[str, int], features: Mapping[str, int]) -> None:
        """numbers: of the words of an argument block, by name. features: extents."""
        self._maps, self._numbers, self._features = tuple(maps), numbers, features
        self._room = ctypes.create_string_buffer(BYTES * len(maps) + ALIGN)
        first = -(-ctypes.addressof(self._room) // ALIGN) * ALIGN
        self._places = [first + BYTES * n for n in range(len(maps))]
        self._words = [numbers[f"{x.array}_p"] for x in maps]
        self._known: list[int | None] = [None] * len(maps)
        self._replace: Any = None  # the driver's function, once it was loaded
        self._there = [True] * len(maps)  # whether an array has entries, so that its map holds its address

    def places(self, maps: Sequence[TensorMap]) -> dict[str, int]:
        """The addresses of some of them by their names."""
        return {x.name: self._places[self._maps.index(x)] for x in maps}

    def renew(self, words: ctypes.Array[ctypes.c_int64]) -> None:
        """Describe the arrays whose addresses are others than the last time; words: the argument block.

        All else that the block says of arrays must be the same each time. DeviceError: the driver refuses.
        """
        for n, (word, known) in enumerate(zip(self._words, self._known, strict=True)):
            address = words[word]
            if address != known:
                if known is None:
                    self._encode(n, words)
                elif self._there[n] and (code := self._replace(self._places[n], address)):
                    raise _refused(code, REPLACE, self._maps[n], f"for the address {address:#x}")
                self._known[n] = address

    def _encode(self, n: int, words: ctypes.Array[ctypes.c_int64]) -> None:
        x = geometry(self._maps[n], {name: words[number] for name, number in self._numbers.items()}, self._features)
        if code := encode(self._places[n], x):
            raise _refused(code, ENCODE, self._maps[n], f"for {x}")
        self._there[n] = x.address == words[self._words[n]]
        self._replace = driver().cuTensorMapReplaceAddress


def encode(place: int, x: Geometry) -> int:
    """Write the 128 bytes of a map to an address, a multiple of 64; the driver's number of an error, or 0."""
    width = ITEMSIZE * x.columns
    assert width in SWIZZLES and x.rows <= 256, f"internal error: no box for the copy engine: {x}"
    extents, strides = (ctypes.c_uint64 * 4)(*x.extents), (ctypes.c_uint64 * 3)(*x.strides)
    box = (ctypes.c_uint32 * 4)(x.columns, x.rows, 1, 1)
    how = NO_INTERLEAVE, SWIZZLES[width], FETCH_128_BYTES, FILL_ZEROS
    code: int = driver().cuTensorMapEncodeTiled(place, UINT16, 4, x.address, extents, strides, box, UNITS, *how)
    return code


def _refused(code: int, function: str, x: TensorMap, about: str) -> DeviceError:
    text = ctypes.c_char_p()
    known = driver().cuGetErrorName(code, ctypes.byref(text)) == SUCCESS and text.value
    name = known.decode() if known else f"error {code}"
    return DeviceError(
        f"`{'out' if x.array == 'out0' else x.array.upper()}` cannot be described to the kernel",
        where=here(),
        cause=f"the driver's {function} answers {name} {about}",
        cure="pass a contiguous copy of it; if that is refused too, update NVIDIA's driver",
    )
