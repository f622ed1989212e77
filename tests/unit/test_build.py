"""When kernels are compiled, and what several threads or processes may do at once."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attnc as at
from attnc.backends.cpu import machine
from attnc.runtime.cache import Cache, Entry

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import numpy as np
import attnc as at

@at.attention
def local(q, k, v, i, j, *, window: int = 5, scale: float = 0.25):
    return at.softmax(at.dot(q, k) * scale, where=(j <= i) & (i - j < window)) @ v

q, k, v = (np.random.default_rng(n).standard_normal((2, 2, 40, 16)).astype(np.float32) for n in range(3))
"""


def local(q, k, v, i, j, *, window: int = 5, scale: float = 0.25):
    return at.softmax(at.dot(q, k) * scale, where=(j <= i) & (i - j < window)) @ v


def arrays(batch: int = 2, heads: int = 2, q_len: int = 40, kv_len: int = 40, d: int = 16, dtype: Any = np.float32):
    return [
        np.random.default_rng(n).standard_normal((batch, heads, length, d)).astype(dtype)
        for n, length in enumerate((q_len, kv_len, kv_len))
    ]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the kernel of `local`."""
    path = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNC_CACHE_DIR", str(path))
        at.attention(local)(*arrays())
    return path


def kernels(cache: Cache) -> list[Entry]:
    """The entries that are kernels: not what several of them share."""
    return [x for x in cache.entries() if not {"pieces", "note"} & set(x.report)]


class Compilations(list[str]):
    """The sources that were compiled."""


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Compilations]:
    """Lists compilations, into a cache of this test's own."""
    seen, real = Compilations(), machine.compile_object

    def counted(source: str, *args: Any, **kwargs: Any) -> bytes:
        seen.append(source)
        return real(source, *args, **kwargs)

    monkeypatch.setattr(machine, "compile_object", counted)
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    yield seen


def test_one_kernel_serves_every_length_batch_and_operand_value(compilations: Compilations) -> None:
    variant = at.attention(local)
    for n, window in enumerate([1, 2, 3, 5, 8, 13, 64, 1000, 0, -1]):
        q_len, kv_len = 17 + 37 * n, 1 + 29 * (9 - n)
        q, k, v = arrays(1 + n % 4, 1 + n % 3, q_len, kv_len)
        assert variant.verify(q, k, v, window=window, scale=0.1 * n).ok
    assert len(compilations) == 1
    assert at.attention(local).verify(*arrays()).ok, "another object with the same formula"
    assert len(compilations) == 1 and len(kernels(Cache())) == 1


def test_what_specialises_a_kernel(compilations: Compilations, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the formula, dtypes and feature extents do."""
    monkeypatch.setattr(machine, "compile_object", lambda source, *_: compilations.append(source) or b"")
    monkeypatch.setattr(machine, "load_object", lambda code, symbol: machine.Loaded(0, symbol, None))
    monkeypatch.setattr("attnc.backends.cpu.threads.run", lambda *_: None)
    variant = at.attention(local)
    for count, change in enumerate([{}, {"d": 17}, {"dtype": np.float16}, {"dtype": np.float64}], 1):
        for length in (3, 50):
            variant(*arrays(q_len=length, **change))
            assert len(compilations) == count
    variant(*arrays(), return_lse=True)
    assert len(compilations) == 5 == len(set(compilations))


def test_a_warm_cache_needs_no_numba(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(stored))
    expected = at.attention(local)(*arrays())
    check = f"{PROGRAM}\nassert local(q, k, v).tobytes().hex() == sys.argv[1]\nassert 'numba' not in sys.modules\n"
    done = run_python(check, expected.tobytes().hex())
    assert done.returncode == 0, done.stderr


def run_python(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


DAMAGE = ("code is cut short", "code is no object file", "report is cut short", "source was edited")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_again(damage: str, stored: Path, compilations: Compilations, tmp_path: Path) -> None:
    q, k, v = arrays()
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    expected = at.attention(local)(q, k, v)
    assert not compilations
    (entry,) = kernels(Cache())
    assert entry.path is not None
    code, report = entry.path.with_suffix(".bin"), entry.path.with_suffix(".json")
    match damage:
        case "code is cut short":
            code.write_bytes(entry.code[: len(entry.code) // 2])
        case "code is no object file":  # well kept, but another program's
            Cache().put(entry.key, entry.source, b"#!/bin/sh\n", {})
        case "report is cut short":
            report.write_text(report.read_text()[:-20])
        case "source was edited":
            entry.path.write_text(entry.source.replace("16", "17"))
    found = at.attention(local)(q, k, v)
    np.testing.assert_array_equal(found, expected)
    assert len(compilations) == 1
    (repaired,) = kernels(Cache())
    assert repaired.code == entry.code and repaired.source == entry.source
    assert json.loads(report.read_text())["key"] == entry.key


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Lists the pieces that are compiled, family by family."""
    seen, real = [], machine.compile_pieces

    def counted(family: Any) -> bytes:
        seen.append([x.name for x in family])
        return real(family)

    monkeypatch.setattr(machine, "compile_pieces", counted)
    return seen


def test_what_kernels_share_is_compiled_once(compilations: Compilations, libraries: list[list[str]]) -> None:
    at.attention(local)(*arrays())
    families = list(libraries)
    assert len({name for names in families for name in names}) == sum(map(len, families)) > 0
    assert any(name.startswith("attnc.gemm.float32") for names in families for name in names)

    @at.attention
    def other(q, k, v):
        return at.softmax(at.dot(q, k) * 0.5) @ v

    assert other.verify(*arrays()).ok
    assert len(compilations) == 2 and libraries == families, "the second kernel brings no products of its own"
    other(*arrays(dtype=np.float64))
    assert len(compilations) == 3 and len(libraries) > len(families)


@pytest.mark.parametrize("damage", ["cut short", "no object file", "another's", "removed"])
def test_damaged_pieces_are_built_again(
    damage: str, stored: Path, compilations: Compilations, libraries: list[list[str]], tmp_path: Path
) -> None:
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    expected = at.attention(local)(*arrays())
    assert not compilations
    (kernel,) = kernels(Cache())
    pieces = [x for x in Cache().entries() if "pieces" in x.report]
    for x in pieces:
        assert x.path is not None
        match damage:
            case "cut short":
                x.path.with_suffix(".bin").write_bytes(x.code[:-100])
            case "no object file":
                Cache().put(x.key, x.source, b"#!/bin/sh\n", x.report)
            case "another's":
                Cache().put(x.key, x.source, next(y.code for y in pieces if y.key != x.key), x.report)
            case "removed":
                x.path.unlink()
    np.testing.assert_array_equal(at.attention(local)(*arrays()), expected)
    assert not compilations, "a kernel holds its pieces"
    assert kernel.path is not None
    kernel.path.unlink()
    np.testing.assert_array_equal(at.attention(local)(*arrays()), expected)
    assert len(compilations) == 1 and len(libraries) == len(pieces) > 1
    found = {x.key: x.code for x in Cache().entries() if "note" not in x.report}
    assert found == {x.key: x.code for x in (kernel, *pieces)}


def test_a_directory_that_cannot_be_written_is_no_obstacle(
    compilations: Compilations, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="ATTNC_CACHE_DIR"):
        assert at.attention(local).verify(*arrays()).ok


def test_two_processes_compile_the_same_variant_at_once(tmp_path: Path) -> None:
    """Both find the cache empty, wait for each other, compile, and store; both results and the entry are right."""
    meet = f"""
import pathlib, time
from attnc.backends.cpu import machine
real, folder = machine.compile_object, pathlib.Path({str(tmp_path)!r})
def together(*args, **kwargs):
    code = real(*args, **kwargs)
    (folder / f"ready{{sys.argv[1]}}").touch()
    while not all((folder / f"ready{{n}}").exists() for n in (0, 1)):
        time.sleep(0.01)
    return code
machine.compile_object = together
print(local(q, k, v).tobytes().hex())
"""
    env = {**os.environ, "ATTNC_CACHE_DIR": str(tmp_path / "cache")}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM + meet, str(n)], stdout=-1, stderr=-1, text=True, cwd=ROOT, env=env
        )
        for n in range(2)
    ]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs[0][1] + outputs[1][1]
    first, second = (bytes.fromhex(out) for out, _ in outputs)
    assert first == second
    (entry,) = kernels(Cache(tmp_path / "cache"))
    q, k, v = arrays()
    np.testing.assert_allclose(
        np.frombuffer(first, np.float32).reshape(q.shape), at.attention(local).reference(q, k, v), atol=1e-5
    )
    assert {x.suffix for x in (tmp_path / "cache").iterdir()} == {".py", ".bin", ".json"}
    assert machine.load_object(entry.code, "kernel").address


def test_python_threads_may_call_at_once(compilations: Compilations) -> None:
    """From the first call on: the kernel is compiled while others ask for it, and scratch memory is not shared."""
    variant, (q, k, v) = at.attention(local), arrays(2, 2, 300, 300)
    found: dict[int, list[np.ndarray]] = {window: [] for window in range(1, 7)}
    faults: list[BaseException] = []
    start = threading.Barrier(len(found))

    def job(window: int) -> None:
        try:
            start.wait()
            found[window] += [variant(q, k, v, window=window) for _ in range(12)]
        except BaseException as fault:
            faults.append(fault)

    workers = [threading.Thread(target=job, args=(window,)) for window in found]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults
    for window, results in found.items():
        np.testing.assert_array_equal(np.stack(results), np.stack([variant(q, k, v, window=window)] * 12))
        assert variant.verify(q, k, v, window=window).ok
    assert len(compilations) == 1
