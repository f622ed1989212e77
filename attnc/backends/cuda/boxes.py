"""Splitting a range of an index where its digits wrap (`attnc.passes.cuts`): Python that kernels call."""

from __future__ import annotations

from typing import Any

from attnc.backends.cuda.elementwise import floordiv, maximum, minimum, mod
from attnc.backends.cuda.intrinsics import device


@device("l")
def box_last(first: Any, last: Any, shift: Any, radices: Any, apart: Any) -> Any:
    """The last index of the first box of first..last, where index + shift wraps at multiples of radices (widest last).

    apart: 0, or up to how many units of the narrowest radix are boxes of their own. Always within first..last, so that a
    loop over boxes ends, whatever overflows.
    """
    x, left = first + shift, last - first
    done = False
    for n in range(len(radices) - 1, -1, -1):
        unit = maximum(radices[n], 1)
        if not done:
            digit = mod(x, unit)
            if digit == 0 and left >= unit - 1:  # whole units
                left = left - mod(left + 1, unit)
                done = True
            else:
                left = minimum(left, unit - 1 - digit)
    unit = maximum(radices[0], 1)
    count = floordiv(left + 1, unit)
    if mod(x, unit) == 0 and count >= 1 and count <= apart:
        left = unit - 1
    return first + left
