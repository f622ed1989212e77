"""Descriptors of matrices in shared memory, as wgmma reads them: which chunks of 16 bytes a number of 64 bits means."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.faults import Fault
from attnc.backends.cuda.emulate.tma import CHUNK, swizzled

Array = np.ndarray[Any, Any]
K = 16  # the inner length of a product
FIELD = 0x3FFF  # 14 bits, counting 16 bytes
USED = FIELD | FIELD << 16 | FIELD << 32 | 3 << 62


@functools.lru_cache(4096)
def chunks(bits: int, n: int, transposed: bool) -> Array:
    """Addresses of the chunks of n rows of 16 numbers (n, 2), or transposed of 16 rows of n numbers (16, n / 8).

    Fault: the hardware would read something else than rows of the pattern that `kind` names, or reads nothing like that.
    """
    bits &= 2**64 - 1
    if bits & ~USED:
        raise Fault(f"descriptor {bits:#018x}: bits that are to be 0 are not")
    kind = bits >> 62
    if not kind:
        raise Fault(f"descriptor {bits:#018x}: rows are not swizzled, which attnc does not use")
    width = 256 >> kind
    start, leading, stride = ((bits >> at & FIELD) * CHUNK for at in (0, 16, 32))
    inside = start % width
    length = min(2 * n, width) if transposed else 2 * K
    if start % (8 * width) >= width or inside + length > width or (transposed and inside and 2 * n > width):
        raise Fault(
            f"descriptor {bits:#018x}: {length} bytes from {start:#x} do not lie in the first row of a pattern of 8 x {width} bytes"
        )
    strides = (("stride", stride, transposed or n > 8), ("leading offset", leading, transposed and 2 * n > width))
    for name, value, matters in strides:
        if matters and (value % (8 * width) or not value):
            raise Fault(
                f"descriptor {bits:#018x}: its {name} of {value} bytes is no multiple of a pattern of 8 x {width}"
            )
    if transposed:
        row, byte = np.arange(K)[:, None], CHUNK * np.arange(n // 8)
        offset = row // 8 * stride + row % 8 * width + byte // width * leading + byte % width
    else:
        row = np.arange(n)[:, None]
        offset = row // 8 * stride + row % 8 * width + CHUNK * np.arange(2)
    found = swizzled(start + offset, width)
    found.flags.writeable = False
    return found
