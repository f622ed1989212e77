"""A fresh virtual environment with attnc (--no-deps), NumPy and the stand-in of CuPy runs a directory of kernels."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attnc.variants as library
from attnc.aot.build import Request, build
from attnc.aot.files import read_manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CUPY = """import sys
from standin_cupy import Machine, install

machine = Machine()
sys.modules[__name__] = install(machine)
sys.modules[__name__].machine = machine
"""


def run(*command):
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of the environment. NumPy is that of this environment, copied by links instead of from the index."""
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", "--symlinks", folder)
    found = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", found, "install", "--quiet", "--no-deps", ROOT)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in ("numpy", "numpy.libs"):
        source = Path(np.__file__).parents[1] / name
        if source.exists():
            (packages / name).symlink_to(source, target_is_directory=True)
    (packages / "cupy.py").write_text(CUPY)
    for name in ("standin_cupy.py", "standin_driver.py"):
        shutil.copy(HERE / name, packages)
    shutil.copy(HERE / "fresh_machine.py", folder)
    return found


@pytest.fixture
def found(python, site, tmp_path):
    """What the script says, and the kernels."""
    folder = tmp_path / "kernels"
    for name, dtype in (("sliding_window", "float16"), ("document", "float16"), ("causal", "bfloat16")):
        build(getattr(library, name), Request("sm_80", (dtype,), ((32, 32),)), folder)
    text = run(python, "-I", python.parents[1] / "fresh_machine.py", folder)
    (window,) = read_manifest(folder / "sliding_window.json").specialised
    return json.loads(text), next(x for x in window.kernels if x.aligned)


def test_a_bare_machine_runs_up_to_the_launch(found):
    said, kernels = found
    assert said["traced"] == [] and str(ROOT) not in said["attnc"]
    ((launch,), places) = said["window"]["launches"], said["window"]["places"]
    words, stage = launch["words"], kernels.stages[0]
    assert tuple(words) == stage.parameters
    assert (launch["threads"], launch["shared"], launch["stream"]) == (stage.threads, stage.shared_bytes, 0)
    assert launch["grid"] == 2 * 4 * -(-20 // kernels.rows)
    assert {name: words[name] for name in ("batch", "heads", "q_len", "kv_len", "group", "s_window")} == {
        "batch": 2, "heads": 4, "q_len": 20, "kv_len": 37, "group": 2, "s_window": 5,
    }  # fmt: skip
    item = 2 * 32  # bytes of a row; in memory (B, L, H, D)
    for name, length, heads in (("q", 20, 4), ("k", 37, 2), ("v", 37, 2), ("out0", 20, 4)):
        strides = (words[f"{name}_p"], words[f"{name}_b"], words[f"{name}_h"], words[f"{name}_l"])
        assert strides == (places[name], length * heads * item, item, heads * item)

    summary, main = said["documents"]["launches"]
    places, words = said["documents"]["places"], main["words"]
    assert summary["grid"] == 3 and summary["words"]["t_doc_sum1"] == words["t_doc_sum1"] not in (0, *places.values())
    assert [words[f"t_doc_{x}"] for x in ("p", "s0", "s1", "n0", "n1")] == [places["t_doc"], 70, 1, 3, 70]

    assert said["bfloat16"]["stream"] == 77 and said["bfloat16"]["error"] < 0.02
