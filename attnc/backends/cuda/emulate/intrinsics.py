"""What each intrinsic does to a block in lockstep: one rule per name of the table of intrinsics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnc.backends.cuda.emulate import hopper
from attnc.backends.cuda.emulate.block import Group
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
from attnc.backends.cuda.emulate.registers import Registers
from attnc.backends.cuda.emulate.shared import BASE
from attnc.backends.cuda.emulate.values import LETTERS, Data, Value, convert, counters, operand

Array = np.ndarray[Any, Any]


Rule = Callable[..., Any]


def _barrier(group: Group) -> None:
    group.block.barriers.sync(group, 0, group.block.threads)


def _barrier_or(group: Group, p: Any) -> Value:
    vote = bool(np.any(convert(p, "p")))
    return Value(np.bool_(group.block.barriers.sync(group, 0, group.block.threads, " that vote", vote)))


def _copy16(group: Group, to: Any, source: Any, size: Any) -> None:
    sizes = group.vector(size, "r")
    if ((sizes != 0) & (sizes != 16)).any():
        raise Fault(f"copy16 of {np.unique(sizes)} bytes: it copies 16, or 0 and writes zeros")
    values, read = np.zeros((group.n, 8), np.int16), sizes == 16
    if read.any():
        values[read] = group.memory.read(group.vector(source, "l")[read], "V16").view(np.int16).reshape(-1, 8)
    group.shared.copy(group.vector(to, "r"), values)


def _copy_wait(group: Group, pending: Any) -> None:
    if type(pending) is not int or pending not in range(4):
        raise Fault(f"copy_wait({pending}): the groups still pending must be a constant of 0..3")
    group.shared.wait(pending)


def _unrolled(group: Group, count: Any) -> Iterator[Value]:
    if type(count) is not int:
        raise Fault(f"unrolled({count}): how often must be a constant")
    return counters(count)


def _shuffle(letter: str) -> Rule:
    def rule(group: Group, x: Any, mask: Any) -> Value:
        # The lane that is asked for differs in the mask's bits.
        return Value(group.vector(x, letter)[group.places ^ (group.vector(mask, "r") & 31)])

    return rule


def _vote_any(group: Group, p: Any) -> Value:
    return Value(np.repeat(group.vector(p, "p").reshape(-1, 32).any(axis=1), 32))


def _load_shared(dtype: str, letter: str) -> Rule:
    size = np.dtype(dtype).itemsize

    def rule(group: Group, address: Any) -> Value:
        found = group.shared.read(group.vector(address, "r"), size).view(dtype).reshape(group.n)
        return Value(found.astype(LETTERS[letter], copy=False))

    return rule


def _load_shared_4(group: Group, address: Any) -> tuple[Value, ...]:
    return tuple(map(Value, group.shared.read(group.vector(address, "r"), 16).view(np.int32).T))


def _store_shared(*letters: str) -> Rule:
    def rule(group: Group, address: Any, *values: Any) -> None:
        group.shared.write(group.vector(address, "r"), _stacked(group, letters, values).view(np.int16))

    return rule


def _stacked(group: Group, letters: tuple[str, ...], values: tuple[Any, ...]) -> Array:
    return np.stack([group.vector(x, letter) for x, letter in zip(values, letters, strict=True)], axis=1)


def _load(dtype: str, finish: Callable[[Array], Array]) -> Rule:
    def rule(group: Group, address: Any) -> Value:
        where: Data = convert(address, "l")
        found = finish(group.memory.read(np.atleast_1d(where), dtype))
        return Value(found if isinstance(where, np.ndarray) else found[0])

    return rule


def _load_r128(group: Group, address: Any) -> tuple[Value, ...]:
    found = group.memory.read(group.vector(address, "l"), "V16").view(np.int32)
    return tuple(map(Value, found.reshape(group.n, 4).T))


def _store_if(*letters: str) -> Rule:
    def rule(group: Group, p: Any, address: Any, *values: Any) -> None:
        chosen = group.vector(p, "p")
        words = _stacked(group, letters, values)
        if chosen.any():
            words = words[chosen].view(f"V{words.itemsize * words.shape[1]}").reshape(-1)
            group.memory.write(group.vector(address, "l")[chosen], words)

    return rule


def _as_is(x: Array) -> Array:
    return x


def _integers(x: Array) -> Array:
    return x.astype(np.int64)


def _as_double(group: Group, x: Any) -> Value:
    return Value(convert(x, "l").view(np.float64))


def _scalar(group: Group, x: Any) -> Value:
    return Value(convert(x, "l").view(np.float64).astype(np.float32))


def _device(group: Group, letters: str) -> Any:
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
    def rule(group: Group, *x: Any) -> tuple[Value, ...]:
        a0, a1, a2, a3, b0, b1, c0, c1, c2, c3 = x
        return multiply(decode, group.n, (a0, a1, a2, a3), (b0, b1), (c0, c1, c2, c3))

    return rule


RULES: dict[str, Rule] = {
    "thread": lambda group: Value(group.threads),
    "block": lambda group: Value(np.int32(group.block.index)),
    "blocks": lambda group: Value(np.int32(group.block.grid)),
    "device": _device,
    "registers": lambda group, shape, kind: Registers(shape, kind, group.order),
    "unrolled": _unrolled,
    "shared": lambda group: Value(np.int32(BASE)),
    "barrier": _barrier,
    "barrier_or": _barrier_or,
    "warp_sync": lambda group: None,
    "ldmatrix": lambda group, address: load_matrices(group.shared, group.n, address, transposed=False),
    "ldmatrix_t": lambda group, address: load_matrices(group.shared, group.n, address, transposed=True),
    "mma_bf16": _mma(from_bf16),
    "mma_f16": _mma(from_f16),
    "copy16": _copy16,
    "copy_commit": lambda group: group.shared.commit(),
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
    "pack_bf16": lambda group, low, high: pack(to_bf16, group.n, low, high),
    "pack_f16": lambda group, low, high: pack(to_f16, group.n, low, high),
    "low_bf16": lambda group, x: half(from_bf16, group.n, x, 0),
    "high_bf16": lambda group, x: half(from_bf16, group.n, x, 1),
    "low_f16": lambda group, x: half(from_f16, group.n, x, 0),
    "high_f16": lambda group, x: half(from_f16, group.n, x, 1),
    "as_double": _as_double,
    "scalar": _scalar,
    "fast_ex2": lambda group, x: fast_ex2(x),
    "fast_rcp": lambda group, x: fast_rcp(x),
    **hopper.RULES,
}
