"""A first call whose kernel is in the cache: nothing is lowered or emitted, and what is noted leads to the right kernel."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import attnc as at
from attnc import variants, warm
from attnc.backends.arguments import layout
from attnc.compile import lower
from attnc.runtime.cache import Cache

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import numpy as np
import attnc as at
from attnc.variants import document

x = np.random.default_rng(0).standard_normal((1, 2, 40, 16)).astype(np.float32)
found = document(x, x, x, doc=np.repeat([0, 1], 20)[None])
print(found.tobytes().hex() if "show" in sys.argv else "", *sorted(sys.modules))
"""
PASSES = (
    "attnc.compile",
    "attnc.tile.lower",
    "attnc.passes.bound",
    "attnc.passes.plan_sweeps",
    "attnc.backends.cpu.emit",
    "numba",
)


@at.attention
def biased(
    q, k, v, h, i, j, *, bias: at.Tensor["h", "n"], project: at.Tensor["d", "d"], window: int = 2**40, cap: float = 3.0
):
    """Scalars, a table that is indexed, a matrix."""
    s = cap * at.tanh(at.dot(q @ project, k) / cap) + bias[h, at.abs(i - j) % 9]
    return at.softmax(s, where=(j <= i) & (i + at.kv_len - at.q_len - j < window)) @ v


def call(
    variant: at.Attention,
    *,
    dtype: str = "float32",
    table: str = "float32",
    d: int = 16,
    q_len: int = 40,
    **more: object,
):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, h, n, d)).astype(dtype) for h, n in ((4, q_len), (2, 70), (2, 70)))
    operands = {"bias": rng.integers(-3, 3, (4, 9)).astype(table), "project": rng.standard_normal((d, d))}
    out = variant(q, k, v, **operands, **more)
    return [x.tobytes() for x in (out if isinstance(out, tuple) else (out,))]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    return tmp_path


class Lowered(Exception):
    """What a call that finds its kernel does not need was asked for."""


def _refuse(*_: object, **__: object) -> None:
    raise Lowered


CALLS: list[dict[str, object]] = [
    {}, {"dtype": "float64"}, {"dtype": "float16"}, {"table": "int8"}, {"d": 17}, {"window": 5}, {"return_lse": True}, {"q_len": 3},
]  # fmt: skip


def test_each_call_finds_its_own_kernel(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [call(biased, **x) for x in CALLS]  # type: ignore[arg-type]
    monkeypatch.setattr("attnc.compile.lower", _refuse)
    monkeypatch.setattr("attnc.compile.compile", _refuse)
    again = at.attention(biased.function)
    assert [call(again, **x) for x in CALLS] == expected  # type: ignore[arg-type]
    kernels = {x.kernel.path for x in again._compiled.values()}
    assert len(kernels) == len(CALLS)
    with pytest.raises(Lowered):
        call(again, d=18)


@pytest.mark.parametrize("damage", ["note", "kernel", "version"])
def test_what_is_noted_is_not_trusted_blindly(damage: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = call(at.attention(biased.function))
    for entry in list(Cache().entries()):
        assert entry.path is not None
        if damage == "note" and "note" in entry.report:
            entry.path.write_text(entry.source[:-3])
        if damage == "kernel" and "scratch" in entry.report:
            entry.path.with_suffix(".bin").unlink()
    if damage == "version":
        monkeypatch.setattr(warm, "version", lambda: "another")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnc.compile.compile", _refuse)
        with pytest.raises(Lowered):
            call(at.attention(biased.function))
    assert call(at.attention(biased.function)) == expected


def test_a_new_process_imports_no_pass(own_cache: Path) -> None:
    def run(*args: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, cwd=ROOT, check=True
        )
        return done.stdout.split()

    cold, second = run("show"), run("show")
    assert cold[0] == second[0]
    assert set(PASSES) <= set(cold) and not set(PASSES) & set(second)


@pytest.mark.parametrize("name", variants.__all__)
def test_argument_blocks_are_noted_whole(name: str) -> None:
    block = layout(lower(getattr(variants, name).graph))
    assert warm._layout(json.loads(json.dumps(asdict(block)))) == block


def test_the_version_is_that_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "__file__", str(tmp_path / "warm.py"))
    found = []
    for name, text in (("warm.py", "a"), ("part/one.py", "b"), ("part/one.py", "bc"), ("notes.txt", "d")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        found.append(warm.version.__wrapped__())
    assert len(set(found)) == 3 and found[2] == found[3]
    edited = tmp_path / "part/one.py"
    before = edited.stat()
    edited.write_text("cd")
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert warm.version.__wrapped__() not in found  # same size, and a time that a tool has put back
