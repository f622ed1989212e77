"""The command: what it prints and what it refuses. `bench` has tests of its own."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import attnc.fuzz.check
from attnc import cli
from attnc.fuzz.samples import Setting
from attnc.fuzz.targets import TargetError, is_script, split, variants
from attnc.runtime.cache import Cache

TWO = '''
import numpy as np

import attnc as at


@at.attention
def near(q, k, v, i, j, *, reach: int = 2):
    """Keys at most `reach` away."""
    return at.softmax(at.dot(q, k) * at.rsqrt(at.size(q)), where=at.abs(i - j) <= reach) @ v


@at.attention
def biased(q, k, v, h, j, *, bias: at.Tensor["h", "j"]):
    return at.softmax(at.dot(q, k) + bias[h, j]) @ v


if __name__ == "__main__":
    import sys

    print("ran with", sys.argv[1:], near.reference(*np.ones((3, 4, 2)))[0, 0])
'''


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A file with two variants, and an empty cache."""
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "two.py"
    file.write_text(TWO, encoding="utf-8")
    return str(file)


def call(*arguments):
    """The output of a command that succeeds."""
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(monkeypatch, capsys, *arguments):
    """What the console script says on stderr when it exits with 1."""
    monkeypatch.setattr(sys, "argv", ["attnc", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_targets(two):
    assert (
        split("a.py:f") == ("a.py", "f") and split("a.py") == ("a.py", "") and split(r"C:\x\a.py") == (r"C:\x\a.py", "")
    )
    assert is_script(two) and not is_script(f"{two}:near") and not is_script("causal")
    assert [x.__name__ for x in variants(two)] == ["near", "biased"]
    assert [x.__name__ for x in variants(f"{two}:biased")] == ["biased"]
    assert [x.__name__ for x in variants("causal")] == ["causal"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nonesuch", "one of .*causal"),
        ("absent.py", "it does not exist"),
        ("{two}:far", "near, biased"),
        ("{empty}", "decorate a function"),
    ],
)
def test_a_target_that_is_none(two, tmp_path, target, says):
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(TargetError, match=says):
        variants(target.format(two=two, empty=empty))


def test_run_a_file_with_arguments(two):
    done = subprocess.run(
        [sys.executable, "-m", "attnc.cli", "run", two, "a", "--b"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "ran with ['a', '--b'] 1.0\n", done.stderr


def test_run_a_variant(two):
    text = call("run", f"{two}:near")
    assert "near: float32 (1, 8, 512, 64)" in text and "ok, error" in text


def test_show_every_stage(two):
    assert "softmax(%" in call("show", f"{two}:near")
    assert "sweep 0:" in call("show", f"{two}:near", "--stage", "fused")
    assert "for each tile of keys" in call(
        "show", f"{two}:near", "--stage", "tile", "--length", "40", "--kv-length", "50"
    )
    source = call("show", f"{two}:near", "--stage", "source", "--dim", "16", "--dtype", "float64")
    compile(source, "shown", "exec")
    text = call("show", two)
    assert "graph near:" in text and "graph biased:" in text


def test_explain(two):
    text = call("explain", "causal", "--length", "300", "--heads", "4", "--kv-heads", "2", "--dim", "8")
    assert "q (1, 4, 300, 8)" in text and "group 2" in text and "empty" in text


def test_check_prints_what_it_verified(two, monkeypatch):
    few = [
        Setting(D=8, Dv=8, lengths=(5, 9), heads=(2, 1)),
        Setting(D=8, Dv=8, lengths=(20, 9), heads=(2, 1), strided=True),
    ]
    monkeypatch.setattr(attnc.fuzz.check, "settings", lambda cover: few)
    text = call("check", two)
    assert "near: 2 of 2 ok, 0 wrong" in text and "biased: 2 of 2 ok, 0 wrong" in text


def test_check_fails_where_a_variant_is_wrong(two, monkeypatch):
    from attnc.fuzz.check import Outcome

    found = [Outcome(Setting(D=7), False, 3.5, "near float32: WRONG"), Outcome(Setting(), None, 0.0, "no such leaf")]
    monkeypatch.setattr(attnc.fuzz.check, "check", lambda *args: iter(found))
    result = CliRunner().invoke(cli.app, ["check", f"{two}:near", "--quick"])
    assert result.exit_code == 1
    for part in ("float32 D 7", "3.50", "WRONG", "refused", "no such leaf", "0 of 2 ok, 1 wrong, 1 refused"):
        assert part in result.output


def test_errors_have_no_traceback(tmp_path, monkeypatch, capsys):
    bad = tmp_path / "bad.py"
    bad.write_text("import attnc as at\n\n\n@at.attention\ndef f(query, k, v):\n    return v\n", encoding="utf-8")
    text = refused(monkeypatch, capsys, "run", str(bad))
    assert text.startswith("RoleError: unknown role 'query'") and "bad.py:" in text and "cure:" in text
    assert "cure:" in refused(monkeypatch, capsys, "explain", "causal", "--heads", "6", "--kv-heads", "4")
    assert "bfloat16" in refused(monkeypatch, capsys, "show", "causal", "--dtype", "int8")
    assert "one of" in refused(monkeypatch, capsys, "check", "nonesuch")


def test_fuzz(monkeypatch):
    text = call("fuzz", "--seed", "7", "--programs", "3", "--kernels", "0")
    assert "programs per op" in text and "seed 7: 3 programs, 0 kernels, 0 disagreements" in text


def test_cache(two):
    assert call("cache", "path").strip() == str(Cache().path)
    assert "0 entries" in call("cache", "list")
    call("run", f"{two}:near")
    listed, count = call("cache", "list"), len(list(Cache().entries()))
    assert "near" in listed and "attnc.gemm" in listed and f"{count} entries" in listed
    assert f"removed {count} entries" in call("cache", "clear")
    assert "0 entries" in call("cache", "list")


def test_doctor(two):
    text = call("doctor")
    for word in ("numba", "SIMD", "threads", "cache", "CUDA", "compiled and verified: causal float32: ok"):
        assert word in text
    assert "0 entries" in text and not list(Cache().entries())  # the trial leaves nothing behind
