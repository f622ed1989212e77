"""What each intrinsic that only sm_90a has does to a group of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from attnc.backends.cuda.emulate import tma
from attnc.backends.cuda.emulate.faults import Fault
from attnc.backends.cuda.emulate.pool import ALLOWED
from attnc.backends.cuda.emulate.registers import Registers
from attnc.backends.cuda.emulate.values import Value
from attnc.backends.cuda.emulate.wgmma import whole

if TYPE_CHECKING:
    from attnc.backends.cuda.emulate.block import Group

Rule = Callable[..., Any]
PENDING = range(8)  # groups of copies or products that a wait may leave


def _mbar_init(group: Group, p: Any, address: Any, count: Any) -> None:
    addresses, counts = group.vector(address, "r"), group.vector(count, "r")
    for k in group.acting(p):
        group.block.mbarriers.init(group, int(k), int(addresses[k]), int(counts[k]))


def _mbar_wait(group: Group, address: Any, parity: Any) -> None:
    group.block.mbarriers.wait(
        group, group.one(address, "the address of an mbarrier"), group.one(parity, "the parity of a phase")
    )


def _named(group: Group, number: Any, threads: Any) -> tuple[int, int]:
    at, count = group.one(number, "the number of a barrier"), group.one(threads, "the threads of a barrier")
    if at not in range(1, 16):
        raise Fault(f"barrier {at}: those with numbers are 1..15")
    if count % 32 or not 0 < count <= group.block.threads:
        raise Fault(f"barrier {at} of {count} threads: whole warps of 32 are possible, up to the block's threads")
    return at, count


def _named_barrier(group: Group, *operands: Any) -> None:
    group.block.barriers.sync(group, *_named(group, *operands))


def _named_arrive(group: Group, *operands: Any) -> None:
    group.block.barriers.arrive(group, *_named(group, *operands))


def _registers_more(group: Group, count: Any) -> None:
    wanted, pool = group.constant(count, ALLOWED, "registers_more"), group.block.pool
    group.wait(lambda: pool.more(group.warps, wanted), lambda: pool.reason(wanted))


def _registers_less(group: Group, count: Any) -> None:
    group.block.pool.less(group.warps, group.constant(count, ALLOWED, "registers_less"))


def _wgmma_fence(group: Group) -> None:
    whole(group, "wgmma_fence")
    group.order.fence = group.order.tick()


def _wgmma_commit(group: Group) -> None:
    whole(group, "wgmma_commit")
    group.products.commit()


def _wgmma_wait(group: Group, pending: Any) -> None:
    whole(group, "wgmma_wait")
    group.products.wait(group, group.constant(pending, PENDING, "wgmma_wait"))


def _hold(group: Group, array: Any) -> None:
    if not isinstance(array, Registers):
        raise TypeError("hold takes an array of registers")
    array.hold()


def _atomic_next(group: Group, p: Any, address: Any) -> Value:
    found, addresses = np.zeros(group.n, np.int32), group.vector(address, "l")
    for k in group.acting(p):
        here = addresses[k : k + 1]
        found[k] = group.memory.read(here, "i4")[0]
        group.memory.write(here, found[k : k + 1] + np.int32(1))
    return Value(found)


def _broadcast(group: Group, x: Any) -> Value:
    return Value(np.repeat(group.vector(x, "r")[::32], 32))


def _wait_of_stores(name: str) -> Rule:
    def rule(group: Group, pending: Any) -> None:
        getattr(group.stores, name)(group, group.constant(pending, PENDING, f"tma_{name}"))

    return rule


RULES: dict[str, Rule] = {
    "mbar_init_if": _mbar_init,
    "mbar_expect_if": lambda group, p, address, size: group.block.mbarriers.arrive(group, p, address, size),
    "mbar_arrive_if": lambda group, p, address: group.block.mbarriers.arrive(group, p, address),
    "mbar_wait": _mbar_wait,
    "mbar_fence": lambda group: group.block.mbarriers.fence(group),
    "async_fence": lambda group: group.block.shared.fence(group.warps, group.number),
    "tma_load_if": tma.load,
    "tma_store_if": lambda group, *operands: group.stores.start(group, *operands),
    "tma_commit": lambda group: group.stores.commit(),
    "tma_wait_read": _wait_of_stores("wait_read"),
    "tma_wait": _wait_of_stores("wait"),
    "registers_more": _registers_more,
    "registers_less": _registers_less,
    "named_barrier": _named_barrier,
    "named_arrive": _named_arrive,
    "wgmma_ss": lambda group, *operands: group.products.shared(group, *operands),
    "wgmma_rs": lambda group, *operands: group.products.registers(group, *operands),
    "wgmma_fence": _wgmma_fence,
    "wgmma_commit": _wgmma_commit,
    "wgmma_wait": _wgmma_wait,
    "hold": _hold,
    "atomic_next": _atomic_next,
    "broadcast": _broadcast,
}
