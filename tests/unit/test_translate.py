"""The translation of emitted code against Python, which runs the same text, and against Numba, which compiles it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnc as at
from attnc.backends.cpu import machine
from attnc.backends.module import execute
from attnc.variants import document, t5

IMPORTS = """
from numba.types import int64
from attnc.backends.cpu.memory import load, store
"""
WORDS = 12


class Int(int):
    """An integer that wraps at 64 bits; by zero it divides to 0."""


def wrapping(name: str) -> Callable[[Any, Any], Int]:
    plain = getattr(int, name)

    def operator(x: Any, y: Any) -> Int:
        if name.strip("_r") in ("floordiv", "mod") and (x if name.startswith("__r") else y) == 0:
            return Int(0)
        return Int((plain(int(x), int(y)) + 2**63) % 2**64 - 2**63)

    return operator


for op in ("add", "sub", "mul", "floordiv", "mod", "and"):
    setattr(Int, f"__{op}__", wrapping(f"__{op}__"))
    setattr(Int, f"__r{op}__", wrapping(f"__r{op}__"))
Int.__neg__ = lambda x: Int(0) - x  # type: ignore[method-assign]


def compiled(source: str, words: list[int]) -> list[int]:
    """The words after the kernel ran on them."""
    loaded = machine.load_object(machine.compile_object(IMPORTS + source, "/nowhere/small.py", "kernel"), "kernel")
    memory = np.array(words, np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(loaded.address)(memory.ctypes.data, 3)
    return memory.tolist()


def interpreted(source: str, words: list[int]) -> list[int]:
    """The same by Python: addresses are indices of the words."""
    memory = [Int(x) for x in words]

    def store(place: int, x: int) -> None:
        memory[place // 8] = Int(x)

    space: dict[str, Any] = {"load": lambda _, place: memory[place // 8], "store": store, "int64": Int}
    exec(source, space)
    space["kernel"](Int(0), Int(3))
    return [int(x) for x in memory]


def both(source: str, words: list[int]) -> None:
    assert compiled(source, words) == interpreted(source, words), source


names = st.sampled_from(["a", "b", "c", "worker"])
literals = st.integers(-9, 9).map(str) | st.sampled_from(["16", "1099511627776", "9223372036854775807"])
numbers = literals.map("int64({})".format)


def deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    test = st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(lambda x: f"{' '.join(x)}")
    test |= st.tuples(test, st.sampled_from(["and", "or"]), test).map(lambda x: f"(({x[0]}) {x[1]} not ({x[2]}))")
    operation = st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%", "&"]), inner).map(
        lambda x: f"({' '.join(x)})"
    )
    extreme = st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda x: f"{x[0]}({x[1]}, {x[2]})")
    choice = st.tuples(inner, test, inner).map(lambda x: f"({x[0]} if {x[1]} else {x[2]})")
    return operation | extreme | choice | inner.map("(-{})".format)


expressions = st.recursive(names | numbers, deeper, max_leaves=12)
words = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)


@settings(max_examples=60, deadline=None)
@given(st.lists(expressions, min_size=4, max_size=4), st.lists(words, min_size=WORDS, max_size=WORDS))
def test_integers_are_pythons(texts: list[str], memory: list[int]) -> None:
    lines = [f"{name} = load(int64, args + {8 * k})" for k, name in enumerate("abc")]
    lines += [f"store(args + {8 * (k + 4)}, {text} + 0)" for k, text in enumerate(texts)]
    both("def kernel(args, worker):\n    " + "\n    ".join(lines), memory)


CONTROL = """
def kernel(args, worker):
    n, limit = load(int64, args), load(int64, args + 8)
    total, seen = 0, 0
    for x in range(n):
        if x == 4 or (x > 6 and not x == 9):
            continue
        if total > limit:
            break
        for x in range(x, 2 * n, worker):
            total += x
            seen += 1
        total -= x
    k = n
    while True:
        k //= 2
        if k < 3:
            store(args + 16, k)
            break
        else:
            k += 1
            while k % 3 == 0:
                k = k - 1
    for x in range(n - 1, 2, -2):
        seen = seen * 3 + x
    pair = total, seen
    first, second = pair
    first, second = second, first
    flag = first > second
    flag = flag and seen != 0
    if flag:
        store(args + 24, first)
    elif worker == 3:
        store(args + 24, pair[1] - 1)
    store(args + 32, first)
    store(args + 40, second)
    if n == 7:
        return
    store(args + 48, x)
"""


@pytest.mark.parametrize("n", [1, 2, 7, 8, 20, 33])
@pytest.mark.parametrize("limit", [-100, 50, 10**6])
def test_control_flow_is_pythons(n: int, limit: int) -> None:
    both(CONTROL.replace("range(n - 1, 2, -2)", "range(n + 2, 0, -2)"), [n, limit, *range(5, 5 + WORDS - 2)])


def test_functions_are_put_in_place(tmp_path: Path) -> None:
    """Python functions that a kernel calls, with several returns, rebound arguments and what they close over."""
    library = tmp_path / "small_library.py"
    library.write_text("""
def made(step):
    def collatz(n, most):
        for k in range(most):
            if n == 1:
                return k
            if n % 2 == 0:
                n //= 2
            else:
                n = n * 3 + step
        return -1
    return collatz
collatz = made(1)
""")
    code = compile(library.read_text(), str(library), "exec")
    space: dict[str, Any] = {}
    exec(code, space)
    source = "def kernel(args, worker):\n    for k in range(1, 10):\n        store(args + 8 * k, f(k, 9) + worker)\n"
    expected = [0, *(space["collatz"](k, 9) + 3 for k in range(1, 10)), 0, 0]
    imports = (
        f"import linecache\nspace = {{}}\nexec(compile({library.read_text()!r}, {str(library)!r}, 'exec'), space)\n"
    )
    assert compiled(f"{imports}f = space['collatz']\n{source}", [0] * WORDS) == expected


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x = [1]", "no List"),
        ("x = load(int64, place=args)", "by their names"),
        ("args.x()", "by their names"),
        ("x = 1.5 * worker", "for integers"),
        ("x = worker ** 2", "no operator Pow"),
        ("x = unheard_of", "not defined"),
        ("x = print(worker)", "cannot call"),
        ("x = load(int64, 0.5)", "an address is an int64"),
        ("x = load(int64)", "missing 1 required"),
        ("for x in args: pass", "range"),
        ("x = worker\n    x = worker > 1", "x is int64 before and bool here"),
        ("with args: pass", "no With"),
    ],
)
def test_other_code_is_refused(line: str, why: str) -> None:
    with pytest.raises(AssertionError, match=f"^internal error: (.|\n)*{why}"):
        compiled(f"def kernel(args, worker):\n    {line}\n", [0] * WORDS)


def arrays(length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(length)
    return [rng.standard_normal((2, 2, length, 32)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("name", ["document", "t5"])
def test_numba_compiles_the_same_module_to_the_same_results(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    variant, operands = {
        "document": (document, {"doc": np.sort(rng.integers(0, 4, (2, 150)))}),
        "t5": (t5, {"table": rng.standard_normal((2, 32)).astype(np.float32)}),
    }[name]
    inputs = arrays(150)
    ours = variant(*inputs, **operands)
    kept: list[Any] = []

    def by_numba(source: str, filename: str, entry: str, library: object) -> bytes:
        decorate = numba.cfunc("void(int64, int64)", error_model="numpy", fastmath=set(machine.FASTMATH))
        kept.append(decorate(execute(source, filename)[entry]))
        return b""

    monkeypatch.setattr(machine, "compile_object", by_numba)
    monkeypatch.setattr(machine, "load_object", lambda _, name: machine.Loaded(kept[-1].address, name, kept[-1]))
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    np.testing.assert_array_equal(at.attention(variant.function)(*inputs, **operands), ours)
    assert len(kept) == 1
