"""What each intrinsic does to a block in lockstep: one rule per name of the table of intrinsics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate.elementwise import fast_ex2, fast_rcp
from attnc.backends.cuda.emulate.faults import Fault
from attnc.backends.cuda.emulate.fragments import (
    from_bf16,
    from_f16,
    half,
    load_matrices,
    multiply,
    pack,
    to_bf16,
    to_f16,
)
from attnc.backends.cuda.emulate.memory import Memory
from attnc.backends.cuda.emulate.registers import Registers
from attnc.backends.cuda.emulate.shared import BASE, SharedMemory
from attnc.backends.cuda.emulate.values import LETTERS, Data, Value, convert, counters, operand, spread

Array = np.ndarray[Any, Any]


class Block:
    """The block that runs: its threads, its shared memory, and the memory of the device."""

    def __init__(self, grid: int, threads: int, shared_bytes: int, memory: Memory) -> None:
        self.grid, self.n, self.shared_bytes, self.memory = grid, threads, shared_bytes, memory
        self.threads = np.arange(threads, dtype=np.int32)
        self.begin(0)

    def begin(self, index: int) -> None:
        """Starts the block of that index."""
        self.index, self.shared = index, SharedMemory(self.shared_bytes, self.n)

    def vector(self, x: Any, letter: str) -> Array:
        """An operand, an entry per thread."""
        result: Array = spread(convert(x, letter), self.n)
        return result


Rule = Callable[..., Any]


def _barrier(block: Block) -> None:
    block.shared.barrier()


def _barrier_or(block: Block, p: Any) -> Value:
    block.shared.barrier()
    return Value(np.bool_(np.any(convert(p, "p"))))


def _copy16(block: Block, to: Any, source: Any, size: Any) -> None:
    sizes = block.vector(size, "r")
    if ((sizes != 0) & (sizes != 16)).any():
        raise Fault(f"copy16 of {np.unique(sizes)} bytes: it copies 16, or 0 and writes zeros")
    values, read = np.zeros((block.n, 8), np.int16), sizes == 16
    if read.any():
        values[read] = block.memory.read(block.vector(source, "l")[read], "V16").view(np.int16).reshape(-1, 8)
    block.shared.copy(block.vector(to, "r"), values)


def _copy_wait(block: Block, pending: Any) -> None:
    if type(pending) is not int or pending not in range(4):
        raise Fault(f"copy_wait({pending}): the groups still pending must be a constant of 0..3")
    block.shared.wait(pending)


def _unrolled(block: Block, count: Any) -> Iterator[Value]:
    if type(count) is not int:
        raise Fault(f"unrolled({count}): how often must be a constant")
    return counters(count)


def _shuffle(letter: str) -> Rule:
    def rule(block: Block, x: Any, mask: Any) -> Value:
        # The lane that is asked for differs in the mask's bits.
        return Value(block.vector(x, letter)[block.threads ^ (block.vector(mask, "r") & 31)])

    return rule


def _vote_any(block: Block, p: Any) -> Value:
    return Value(np.repeat(block.vector(p, "p").reshape(-1, 32).any(axis=1), 32))


def _load_shared(dtype: str, letter: str) -> Rule:
    size = np.dtype(dtype).itemsize

    def rule(block: Block, address: Any) -> Value:
        found = block.shared.read(block.vector(address, "r"), size).view(dtype).reshape(block.n)
        return Value(found.astype(LETTERS[letter], copy=False))

    return rule


def _load_shared_4(block: Block, address: Any) -> tuple[Value, ...]:
    return tuple(map(Value, block.shared.read(block.vector(address, "r"), 16).view(np.int32).T))


def _store_shared(*letters: str) -> Rule:
    def rule(block: Block, address: Any, *values: Any) -> None:
        block.shared.write(block.vector(address, "r"), _stacked(block, letters, values).view(np.int16))

    return rule


def _stacked(block: Block, letters: tuple[str, ...], values: tuple[Any, ...]) -> Array:
    return np.stack([block.vector(x, letter) for x, letter in zip(values, letters, strict=True)], axis=1)


def _load(dtype: str, finish: Callable[[Array], Array]) -> Rule:
    def rule(block: Block, address: Any) -> Value:
        where: Data = convert(address, "l")
        found = finish(block.memory.read(np.atleast_1d(where), dtype))
        return Value(found if isinstance(where, np.ndarray) else found[0])

    return rule


def _load_r128(block: Block, address: Any) -> tuple[Value, ...]:
    found = block.memory.read(block.vector(address, "l"), "V16").view(np.int32)
    return tuple(map(Value, found.reshape(block.n, 4).T))


def _store_if(*letters: str) -> Rule:
    def rule(block: Block, p: Any, address: Any, *values: Any) -> None:
        chosen = block.vector(p, "p")
        words = _stacked(block, letters, values)
        if chosen.any():
            words = words[chosen].view(f"V{words.itemsize * words.shape[1]}").reshape(-1)
            block.memory.write(block.vector(address, "l")[chosen], words)

    return rule


def _as_is(x: Array) -> Array:
    return x


def _integers(x: Array) -> Array:
    return x.astype(np.int64)


def _as_double(block: Block, x: Any) -> Value:
    return Value(convert(x, "l").view(np.float64))


def _scalar(block: Block, x: Any) -> Value:
    return Value(convert(x, "l").view(np.float64).astype(np.float32))


def _device(block: Block, letters: str) -> Any:
    """A decorator of functions that kernels call: operands are no constants inside, results have the letters' types."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*operands: Any) -> Any:
            found = function(*(Value(operand(x)) if isinstance(x, int) else x for x in operands))
            if len(letters) < 2:
                return Value(convert(found, letters)) if letters else None
            return tuple(Value(convert(x, letter)) for x, letter in zip(found, letters, strict=True))

        return call

    return decorate


def _mma(decode: Any) -> Rule:
    def rule(block: Block, *x: Any) -> tuple[Value, ...]:
        a0, a1, a2, a3, b0, b1, c0, c1, c2, c3 = x
        return multiply(decode, block.n, (a0, a1, a2, a3), (b0, b1), (c0, c1, c2, c3))

    return rule


RULES: dict[str, Rule] = {
    "thread": lambda block: Value(block.threads),
    "block": lambda block: Value(np.int32(block.index)),
    "blocks": lambda block: Value(np.int32(block.grid)),
    "device": _device,
    "registers": lambda block, shape, kind: Registers(shape, kind),
    "unrolled": _unrolled,
    "shared": lambda block: Value(np.int32(BASE)),
    "barrier": _barrier,
    "barrier_or": _barrier_or,
    "warp_sync": lambda block: None,
    "ldmatrix": lambda block, address: load_matrices(block.shared, block.n, address, transposed=False),
    "ldmatrix_t": lambda block, address: load_matrices(block.shared, block.n, address, transposed=True),
    "mma_bf16": _mma(from_bf16),
    "mma_f16": _mma(from_f16),
    "copy16": _copy16,
    "copy_commit": lambda block: block.shared.commit(),
    "copy_wait": _copy_wait,
    "shuffle_f": _shuffle("f"),
    "shuffle_r": _shuffle("r"),
    "shuffle_l": _shuffle("l"),
    "vote_any": _vote_any,
    "load_shared_f": _load_shared("f4", "f"),
    "load_shared_r": _load_shared("i4", "r"),
    "load_shared_h": _load_shared("u2", "r"),
    "load_shared_4": _load_shared_4,
    "store_shared_f": _store_shared("f"),
    "store_shared_r": _store_shared("r"),
    "store_shared_h": _store_shared("h"),
    "store_shared_4": _store_shared("r", "r", "r", "r"),
    "load_f32": _load("f4", _as_is),
    "load_f64": _load("f8", _as_is),
    "load_i64": _load("i8", _as_is),
    "load_i32": _load("i4", _integers),
    "load_i16": _load("i2", _integers),
    "load_i8": _load("i1", _integers),
    "load_u8": _load("u1", _integers),
    "load_bf16": _load("u2", from_bf16),
    "load_f16": _load("u2", from_f16),
    "load_r128": _load_r128,
    "store_f32_if": _store_if("f"),
    "store_r_if": _store_if("r"),
    "store_h_if": _store_if("h"),
    "store_l_if": _store_if("l"),
    "store_d_if": _store_if("d"),
    "store_r128_if": _store_if("r", "r", "r", "r"),
    "pack_bf16": lambda block, low, high: pack(to_bf16, block.n, low, high),
    "pack_f16": lambda block, low, high: pack(to_f16, block.n, low, high),
    "low_bf16": lambda block, x: half(from_bf16, block.n, x, 0),
    "high_bf16": lambda block, x: half(from_bf16, block.n, x, 1),
    "low_f16": lambda block, x: half(from_f16, block.n, x, 0),
    "high_f16": lambda block, x: half(from_f16, block.n, x, 1),
    "as_double": _as_double,
    "scalar": _scalar,
    "fast_ex2": lambda block, x: fast_ex2(x),
    "fast_rcp": lambda block, x: fast_rcp(x),
}
