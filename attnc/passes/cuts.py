"""Where a tile's range of an index is split before its class is judged, so that no digit of the index wraps inside a box.

x // c and x % c of an index are the digits of a number. On a range that crosses a multiple of c the remainder takes every value and
forgets which quotient it belongs to; split at the wraps, a range becomes a few boxes on which every digit is an exact interval
that is independent of the others: at most two per radix and one more, whatever the length of the range.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.graph import Node

UNITS = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """Boxes of an index: `index + shift` wraps at the multiples of each of `radices`, widest last. Uniform integer graphs.

    The first box of [p, last]: x, end = p + shift, last + shift; for the radices R from the widest: where R divides x and
    x + R - 1 <= end, the box ends with the last whole unit, (end + 1) // R * R - 1; else end = min(end, x // R * R + R - 1). After
    the narrowest the box ends at `end`. The next box begins behind it. A radix below 1 counts as 1.

    apart: each whole unit of the narrowest radix is a box of its own, as long as the box would hold at most UNITS of them (what
    a table says of one unit says nothing of the next).
    """

    shift: Node
    radices: tuple[Node, ...]
    apart: bool = False
