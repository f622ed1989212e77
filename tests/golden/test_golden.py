"""What the stages print for a few small variants, as files beside this one; and that the printed kernels are right.

`pytest --update-golden` writes the files anew: read the difference before you commit it.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_variants import above_average, additive, decayed, few_queries, soft_capped_window, statistics, two_outputs

from attnc.compile import Problem, compile
from attnc.explain import plan_text
from attnc.schedule.cpu_form import PLAIN, CpuForm
from attnc.schedule.schedule import Schedule
from attnc.schedule.target import Target

FOLDER = Path(__file__).parent
AVX512 = Target(vector_bytes=64, registers=32)
SCHEDULE = Schedule(rows=64, keys=128, width=16, tile=(6, 4))  # fixed: the files are the same on every machine
FORMS = {"few_queries": CpuForm(share=True, split=True, few=True, long=True), "decayed": CpuForm(linear=True)}
D, E = 20, 12


def operands(name: str, q_len: int, kv_len: int) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    match name:
        case "soft_capped_window":
            return {"cap": 2.0, "window": 70}
        case "additive":
            return {x: rng.standard_normal(n).astype(np.float32) for x, n in (("u", 5), ("wq", (D, 5)), ("wk", (D, 5)))}
        case "above_average":
            return {"doc": rng.integers(0, 3, (2, kv_len)), "slopes": np.array([0.5, 0.25, 0, 1], np.float32)}
        case "few_queries" | "decayed":
            return {"slopes": rng.uniform(0, 0.1, 4).astype(np.float32)}
        case _:
            return {}


VARIANTS = {
    f.__name__: f for f in (soft_capped_window, additive, above_average, two_outputs, few_queries, decayed, statistics)
}
DTYPES = {"two_outputs": "float16"}


def stages(name: str) -> dict[str, str]:
    """File name -> text, for a target that does not depend on the machine."""
    graph = VARIANTS[name].graph
    tables = {"doc": "int64"} | dict.fromkeys(("u", "wq", "wk", "slopes"), "float32")
    features = {"d": D, "e": E} | ({"r": 5} if name == "additive" else {})
    form = FORMS.get(name, PLAIN)
    schedule = Schedule(8, 1024, 8, SCHEDULE.tile, wide=16) if form.long else SCHEDULE
    dtype = DTYPES.get(name, "float32")
    problem = Problem(dtype, features, tables, target=AVX512, schedule=schedule, small=True, form=form)
    done = compile(graph, problem, stop_after="source")
    assert done.plan is not None and done.source is not None
    texts = {
        "graph.txt": str(graph),
        "fused.txt": plan_text(done.plan),
        "tile.txt": str(done.program),
        "kernel.txt": done.source,
    }
    return {file: text.replace(f"{FOLDER}{os.sep}", "").rstrip("\n") + "\n" for file, text in texts.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_stages_are_printed_as_before(name: str, update_golden: bool) -> None:
    for file, text in stages(name).items():
        path = FOLDER / name / file
        if update_golden:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no {path}: run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"{path} differs"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_kernel_of_this_machine_is_right(name: str) -> None:
    """A golden file proves only sameness: the source for this machine's schedule runs against the interpreter."""
    variant, rng = VARIANTS[name], np.random.default_rng(3)
    for q_len, kv_len in (
        (1, 1),
        (70, 70),
        (65, 200),
        (130, 95),
        (2, 600),
        *([(400, 400)] if name == "decayed" else []),
    ):
        shapes = (2, 4, q_len, D), (2, 2, kv_len, D), (2, 2, kv_len, E)
        # small whole numbers: float32 sums them exactly, so that comparisons come out as in the reference
        draw = partial(rng.integers, -2, 3) if name == "above_average" else rng.standard_normal
        q, k, v = (np.asarray(draw(size=s), DTYPES.get(name, "float32")) for s in shapes)
        report = variant.verify(q, k, v, **operands(name, q_len, kv_len))
        assert report.ok, f"{q_len} x {kv_len}: {report}"


def test_the_golden_kernel_is_what_this_machine_compiles() -> None:
    """Where this machine has the golden target, the file is the very source that was run."""
    from attnc.schedule.target import host

    if (host().vector_bytes, host().registers) != (64, 32):
        pytest.skip("another vector width")
    for name, heads, kv_len in (
        ("soft_capped_window", 4, 3),
        ("additive", 4, 3),
        ("few_queries", 2, 600),
        ("decayed", 2, 400),
    ):
        q = np.zeros((1, 4, kv_len if name == "decayed" else 3, D), np.float32)
        k, v = (np.zeros((1, heads, kv_len, n), np.float32) for n in (D, E))
        golden = (FOLDER / name / "kernel.txt").read_text(encoding="utf-8")
        assert VARIANTS[name].source(q, k, v, **operands(name, 3, kv_len)).rstrip("\n") + "\n" == golden
