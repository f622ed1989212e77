"""Matrix instructions of four warps: what they read and write may not be touched until they have been waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.descriptors import chunks
from attnc.backends.cuda.emulate.faults import Fault
from attnc.backends.cuda.emulate.fragments import from_bf16, from_f16
from attnc.backends.cuda.emulate.registers import Registers
from attnc.backends.cuda.emulate.values import spread

Array = np.ndarray[Any, Any]
M, FOUR = 64, 128  # rows of a product, and the threads that compute it
DECODE = {"bf16": from_bf16, "f16": from_f16}


@dataclass(frozen=True, slots=True)
class Product:
    """acc (+)= left right; cells: of shared memory, that are being read; source: registers that are."""

    acc: Registers
    left: Array
    right: Array
    add: bool
    cells: tuple[Array, ...]
    source: Registers | None


class Products:
    """Of a group of threads: those begun since the last commit, and the groups of those that are under way."""

    def __init__(self) -> None:
        self.open: list[Product] = []
        self.groups: list[list[Product]] = []

    def shared(self, group: Any, acc: Any, a: Any, b: Any, *options: Any) -> None:
        """wgmma_ss: both operands come from shared memory."""
        n, decode, add, transposed = _checked(group, acc, *options)
        cells, left = _operand(group, a, M, False)
        self._start(group, acc, decode(left), (cells,), None, (b, n, decode, add, transposed))

    def registers(self, group: Any, acc: Any, a: Any, k: Any, b: Any, *options: Any) -> None:
        """wgmma_rs: the left operand comes from registers 4 k .. 4 k + 3 of an array."""
        n, decode, add, transposed = _checked(group, acc, *options)
        if not isinstance(a, Registers) or a.letter != "r":
            raise TypeError("wgmma_rs: its left operand is no array of int32 registers")
        at = 4 * group.one(k, "the number of a fragment")
        if not 0 <= at <= len(a.cells) - 4:
            raise IndexError(f"wgmma_rs: registers {at}..{at + 3} of an array of {len(a.cells)}")
        if a.results:
            raise Fault("wgmma_rs: its left operand is what another one computes")
        a.ready("registers of its left operand")
        held = np.concatenate([spread(x, group.n) for x in a.cells[at : at + 4]])
        # registers: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15
        left = decode(held.view(np.int16)).reshape(2, 2, 4, 8, 8).transpose(2, 1, 3, 0, 4).reshape(M, 16)
        self._start(group, acc, left, (), a, (b, n, decode, add, transposed))

    def _start(
        self, group: Any, acc: Registers, left: Array, cells: tuple[Array, ...], source: Registers | None, rest: Any
    ) -> None:
        b, n, decode, add, transposed = rest
        acc.ready("accumulators")
        if acc.sources:
            raise Fault("wgmma: its accumulators are the left operand of another one")
        more, right = _operand(group, b, n, transposed)
        right = decode(right) if transposed else decode(right).T
        self.open.append(Product(acc, left, right, add, (*cells, more), source))
        acc.results += 1
        if source is not None:
            source.sources += 1

    def commit(self) -> None:
        """Makes the products begun since the last call a group; there may be none."""
        self.groups.append(self.open)
        self.open = []

    def wait(self, group: Any, pending: int) -> None:
        """All groups but the last `pending` are done."""
        sums: dict[int, tuple[Registers, Array]] = {}
        while len(self.groups) > pending:
            for x in self.groups.pop(0):
                self._finish(group, x, sums)
        for acc, total in sums.values():
            _put(acc, total)

    @staticmethod
    def _finish(group: Any, x: Product, sums: dict[int, tuple[Registers, Array]]) -> None:
        product = np.matmul(x.left, x.right)
        if x.add:
            product += sums[id(x.acc)][1] if id(x.acc) in sums else _get(x.acc, group.n)
        sums[id(x.acc)] = x.acc, product
        x.acc.results -= 1
        x.acc.fresh = True
        if x.source is not None:
            x.source.sources -= 1
        for cells in x.cells:
            group.block.shared.finish_read(cells, group.warps)

    def end(self) -> None:
        """Fault: threads returned before their products were done."""
        if self.open or any(self.groups):
            raise Fault("the kernel ends without wgmma_commit and wgmma_wait after wgmma")


def whole(group: Any, name: str) -> None:
    """Fault: a group is not four warps that compute together."""
    if group.n != FOUR or group.threads[0] % FOUR:
        raise Fault(f"{name} by {group.name}: it takes four warps, the first of them a multiple of four")


def _checked(group: Any, acc: Any, add: Any, kind: Any, transposed: Any) -> tuple[int, Any, bool, bool]:
    whole(group, "wgmma")
    if not isinstance(acc, Registers) or acc.letter != "f":
        raise TypeError("wgmma: its accumulators are no array of float32 registers")
    n = 2 * len(acc.cells)
    if n % 8 or not 8 <= n <= 256:
        raise Fault(
            f"wgmma: {len(acc.cells)} accumulators per thread are {n} columns: multiples of 8 up to 256 are possible"
        )
    if kind not in DECODE:
        raise Fault(f"wgmma of {kind!r}: it multiplies {' or '.join(DECODE)}")
    if type(transposed) is not int or transposed not in (0, 1):
        raise Fault(f"wgmma: whether its right operand is transposed is the constant 0 or 1, not {transposed}")
    return n, DECODE[kind], group.one(add, "whether wgmma adds") != 0, bool(transposed)


def _operand(group: Any, descriptor: Any, n: int, transposed: bool) -> tuple[Array, Array]:
    addresses = chunks(group.one(descriptor, "a descriptor"), n, transposed)
    cells = group.block.shared.places(addresses.reshape(-1), 16, "wgmma")
    found = group.block.shared.begin_read(cells, group.warps, "wgmma")
    return cells, found.reshape(len(addresses), -1)


# Accumulators: thread 4 g + t of warp w holds rows 16 w + g and 16 w + 8 + g, of each 8 columns the two at 2 t.


def _put(acc: Registers, total: Array) -> None:
    parts = total.reshape(4, 2, 8, -1, 4, 2).transpose(3, 1, 5, 0, 2, 4).reshape(len(acc.cells), FOUR)
    acc.cells[:] = list(parts)


def _get(acc: Registers, n: int) -> Array:
    parts = np.stack([spread(x, n) for x in acc.cells]).reshape(-1, 2, 2, 4, 8, 4)
    return parts.transpose(3, 1, 4, 0, 5, 2).reshape(M, -1)
