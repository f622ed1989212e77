"""Every suite of `attnc bench` at a small size, through the command; and limits of the instruction set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attnc import cli
from attnc.bench import scores as additive
from attnc.bench.machine import Peak
from attnc.bench.suite import SUITES, Mean, specs
from attnc.schedule.target import choose_set, host, instruction_set, limited

ROOT = Path(__file__).parents[2]
QUICK = ("--quick", "--peers", "SDPA,NumPy,jax", "--rounds", "1", "--threads", "2")


def bench(*arguments):
    """The output of the command."""
    result = CliRunner().invoke(cli.app, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def saved(path):
    """Rows by name, of a file."""
    return {x["name"]: x for x in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def medians(row):
    """By figure; what is missing in words."""
    return {x["name"]: x["spread"][1] if x["spread"] else x["missing"] for x in row["figures"]}


def test_cpu(tmp_path):
    # The other score functions and dtypes would each compile a kernel of their own; `test_bench` has their cases.
    left_out = {"bfloat16 causal", "float16 dense", "float16 causal", "ALiBi", "T5 bias", "relative table"}
    names = [x.name for x in specs("cpu", True) if x.name not in left_out]
    only = [x for name in names for x in ("--only", name)]
    text = bench("cpu", *QUICK, *only, "--json", str(tmp_path / "a.json"))
    rows = saved(tmp_path / "a.json")
    assert list(rows) == names and all(name in text for name in rows)
    machine = medians(rows["machine"])
    assert machine["FMA peak"] > 0 and machine["sgemm of 256"] > 0 and machine["sum of 1 MiB"] > 0
    for name in ("dense 96 D 16", "causal 96 D 16", "small problems", "few keys", "groups"):
        assert medians(rows[name])["difference of outputs"] < 1e-5 and medians(rows[name])["SDPA / attnc"] > 0
    assert medians(rows["bfloat16 dense"])["difference of outputs"] < 0.05
    assert medians(rows["soft cap"])["attnc / plain"] > 0 and medians(rows["soft cap"])["flex / attnc"] == "left out"
    assert set(rows["threads"]["seconds"]) == {"attnc, one", "attnc, all", "sgemm, one", "sgemm, all"}
    text = bench("cpu", *QUICK, "--only", "machine", "--only", "dense*", "--compare", str(tmp_path / "a.json"))
    assert "beyond the spread" in text and "FMA peak" in text and "few keys" not in text
    tables = CliRunner().invoke(cli.app, ["bench-table", str(tmp_path / "a.json")], catch_exceptions=False).output
    assert "| machine: 2 threads, float32, PyTorch | FMA peak |" in tables


def test_decode(tmp_path):
    bench("decode", *QUICK, "--json", str(tmp_path / "a.json"))
    rows = saved(tmp_path / "a.json")
    assert list(rows) == ["decode", "decode, no groups", "decode, 4 queries", "decode, 16 queries"]
    for row in rows.values():
        found = medians(row)
        assert (
            found["difference of outputs"] < 1e-5
            and found["sum over as many bytes / attnc"] > 0
            and found["bandwidth"] > 0
        )


def test_linear(tmp_path):
    bench("linear", *QUICK, "--json", str(tmp_path / "a.json"))
    rows = saved(tmp_path / "a.json")
    assert list(rows) == ["linear 1024", "retention 1024", "growth"]
    assert (
        medians(rows["linear 1024"])["difference of outputs"] < 1e-5 and medians(rows["retention 1024"])["queries"] > 0
    )
    assert {"long", "short"} == set(rows["growth"]["seconds"])


def test_sparse(tmp_path):
    bench("sparse", *QUICK, "--json", str(tmp_path / "a.json"))
    rows = saved(tmp_path / "a.json")
    assert list(rows) == ["window", "documents", "natten", "long"]
    for name in ("window", "documents", "natten"):
        found = medians(rows[name])
        assert found["difference of outputs"] < 1e-5 and found["analysis"] > 0 and found["flex / attnc"] == "left out"
        assert {"SDPA", "SDPA + mask", "SDPA: mask", "analysis", "no full tiles"} < set(rows[name]["seconds"])
    found = medians(rows["long"])
    assert found["difference of outputs"] < 1e-5 and 0 <= found["memory above inputs and output"] < 32 * 2**20
    assert found["full tiles"] + found["partial tiles"] >= 3000 * 100 / (64 * 128)


def test_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(additive, "ROOM", 4 * 100 * 8 * 33)  # PyTorch takes 33 of 100 rows at once
    bench("scores", *QUICK, "--json", str(tmp_path / "a.json"))
    found = medians(saved(tmp_path / "a.json")["additive"])
    assert found["difference of outputs"] < 1e-5 and found["PyTorch / attnc"] > 0
    assert found["compiled PyTorch / attnc"] == "left out"


def test_overhead(tmp_path):
    from attnc.backends.cpu import threads

    before = threads.run
    bench("overhead", *QUICK, "--json", str(tmp_path / "a.json"))
    assert threads.run is before
    for row in saved(tmp_path / "a.json").values():
        found = medians(row)
        assert found["of it in Python"] > 0 and found["attnc"] > 0 and found["SDPA"] > 0


def test_compile(tmp_path):
    only = ("--only", "cached", "--only", "cold beside flex")  # "cold" is the one's process in the other's row
    bench("compile", *QUICK, *only, "--json", str(tmp_path / "a.json"))  # raises where a warm start imports Numba
    rows = {name: medians(x) for name, x in saved(tmp_path / "a.json").items()}
    assert (
        rows["cached"]["first call, after the import"] > 0
        and rows["cached"]["import attnc, beyond NumPy, and a variant"] > 0
    )
    assert rows["cold beside flex"]["attnc"] > 0 and rows["cold beside flex"]["flex"] == "left out"


@pytest.mark.skipif(instruction_set() == "generic", reason="this processor has no AVX2")
def test_avx2(tmp_path):
    bench("avx2", *QUICK, "--only", "avx2 dense*", "--json", str(tmp_path / "a.json"))
    rows = saved(tmp_path / "a.json")
    assert list(rows) == ["avx2 dense 96 D 16", "avx2 dense, geometric mean"]
    assert medians(rows["avx2 dense 96 D 16"])["difference of outputs"] < 1e-5


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    only = [x for name in ("machine", "dense 96*", "threads") for x in ("--only", name)]
    bench("cpu", *QUICK, *only, "--json", str(tmp_path / "a.json"))
    rows = {name: medians(x) for name, x in saved(tmp_path / "a.json").items()}
    assert (
        rows["dense 96 D 16"]["SDPA / attnc"] == "not installed: torch" and rows["dense 96 D 16"]["NumPy / attnc"] > 0
    )
    assert "not installed: torch" in rows["threads"]["sgemm: 1 thread / 2"] and rows["machine"]["sgemm of 256"] > 0
    bench("decode", *QUICK, "--only", "decode", "--json", str(tmp_path / "a.json"))
    assert medians(saved(tmp_path / "a.json")["decode"])["sum over as many bytes / attnc"] == "not installed: torch"


def test_what_no_suite_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["attnc", "bench", "cpu", "--only", "nonesuch"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "a name or pattern (*) of: machine, dense 1024 D 64" in capsys.readouterr().err
    for suite in SUITES:
        for quick in (False, True):
            rows = specs(suite, quick)
            names = [x.name for x in rows]
            assert len(set(names)) == len(names) and names
            for mean in [x for x in rows if isinstance(x, Mean)]:
                assert any(x.startswith(mean.start) for x in names)


def test_the_peak_does_what_it_counts():
    peak = Peak(2, 3)
    peak()
    lanes, chains = host().vector_bytes // 4, host().tile[0] * host().tile[1]
    assert peak.work == 2 * 2 * lanes * chains * 3
    last = float(chains - 1)  # the last chain is stored last
    for _ in range(3):
        last = last * 0.5 + 0.5
    for worker in range(2):
        np.testing.assert_allclose(peak.results[64 * worker : 64 * worker + lanes], last)
        assert not peak.results[64 * worker + lanes : 64 * worker + 64].any()


ALL = {"avx512f": True, "avx512dq": True, "avx512vl": True, "avx2": True, "fma": True, "avx": True, "sse2": True}


def test_instruction_sets():
    old = {**ALL, "avx512f": False}
    assert (
        choose_set("", ALL) == "avx512"
        and choose_set("", old) == "avx2"
        and choose_set("", {"neon": True}) == "generic"
    )
    assert choose_set("avx2", ALL) == "avx2" and choose_set("generic", ALL) == "generic"
    with pytest.raises(
        NotImplementedError, match=r"(?s)ATTNC_CPU_TARGET=avx512.*does not have it.*one of avx2, generic"
    ):
        choose_set("avx512", old)
    with pytest.raises(
        NotImplementedError, match=r"(?s)ATTNC_CPU_TARGET=AVX.*no such instruction set.*avx512, avx2, generic"
    ):
        choose_set("AVX", ALL)
    assert limited(ALL, "avx512") == "+avx,+avx2,+avx512dq,+avx512f,+avx512vl,+fma,+sse2"
    assert limited(ALL, "avx2") == "+avx,+avx2,-avx512dq,-avx512f,-avx512vl,+fma,+sse2"
    assert limited(ALL, "generic") == "-avx,-avx2,-avx512dq,-avx512f,-avx512vl,-fma,+sse2"


PROGRAM = """
import numpy as np
from attnc.backends.cpu.machine import host
from attnc.schedule import target
from attnc.variants import causal
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 70, 16)).astype("float32")
assert causal.verify(q, k, v).ok
print(target.instruction_set(), target.host().vector_bytes, "+avx512f" in host(), "+avx2" in host())
"""


@pytest.mark.parametrize("name", ["avx2", "generic"])
def test_kernels_of_a_narrower_machine(name, tmp_path):
    if name == "avx2" and instruction_set() == "generic":
        pytest.skip("this processor has no AVX2")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "ATTNC_CPU_TARGET": name}, cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (
        done.stdout.split()
        == {"avx2": ["avx2", "32", "False", "True"], "generic": ["generic", "16", "False", "False"]}[name]
    ), done.stderr
