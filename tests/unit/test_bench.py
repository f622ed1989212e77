"""The frame of the benchmarks on fake calls: turns, quartiles, aims, JSON, comparison, and peers that are missing."""

import json
import math
import sys
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc.bench import report, timing
from attnc.bench.attention import AttentionRow
from attnc.bench.case import Case, Shape, square
from attnc.bench.cpu import scores
from attnc.bench.peers import PEERS, Ready
from attnc.bench.row import Figure, Row, Times, constant, geometric_mean, quartiles
from attnc.bench.sparse import SparseRow, canvas, documents, window
from attnc.bench.suite import Mean, known_peers, run, select
from attnc.bench.timing import Settings, alternate, timed
from attnc.errors import AttncError
from attnc.variants import causal, full

ONE = Settings(threads=1, rounds=1, peers=tuple(PEERS))


def test_calls_take_turns():
    seen = []

    def measure(name):
        return lambda: seen.append(name) or float(len(seen))

    times = alternate({"a": measure("a"), "b": measure("b")}, replace(ONE, rounds=3), {"c": "gone"}, warm_ups=2)
    assert seen == ["a", "b"] * 5 and times.missing == {"c": "gone"}
    assert times.seconds == {"a": [5.0, 7.0, 9.0], "b": [6.0, 8.0, 10.0]}


@pytest.mark.parametrize(
    ("settings", "seconds", "expected"),
    [(Settings(1), 1.0, 15), (Settings(1), 3.0, 6), (Settings(1), 60.0, 5), (Settings(1, 40), 9.0, 40), (Settings(1, quick=True), 9.0, 2)],
)  # fmt: skip
def test_rounds_end_with_their_number_or_their_time(monkeypatch, settings, seconds, expected):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now, sleep=lambda seconds: None))

    def measure():
        clock.now += seconds
        return seconds

    assert len(alternate({"a": measure}, settings).seconds["a"]) == expected


def test_a_pause_comes_before_each_timed_call(monkeypatch):
    seen = []
    pretended = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda seconds: seen.append(seconds))
    monkeypatch.setattr(timing, "time", pretended)
    measure = timed(lambda: seen.append("call"), before=lambda: seen.append("before"), in_a_row=3)
    assert alternate({"a": measure}, ONE, warm_ups=0).seconds["a"][0] < 1.0
    assert seen == [timing.PAUSE, "before", "call", "call", "call"]
    row = AttentionRow(CASES[0], ("SDPA", "NumPy"))
    for peers, pause in ((("SDPA",), timing.PAUSE), (("SDPA", "NumPy"), timing.BLAS_PAUSE)):
        seen.clear()
        row.measure(replace(ONE, peers=peers))
        assert seen == [pause] * (1 + len(peers))  # OpenBLAS spins for longer


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_quartiles_are_numpys(values):
    np.testing.assert_allclose(quartiles(values), np.quantile(values, [0.25, 0.5, 0.75]), rtol=1e-9)


def test_ratios_are_taken_round_by_round():
    times = Times({"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 6.0, 4.0]}, {"gone": "not installed: gone"})
    ratio = times.figure("ratio", "theirs", "ours", aim=2.0)
    assert ratio.spread == (1.5, 2.0, 2.5) and ratio.met is True and not ratio.less_is_better
    assert times.figure("time", "ours", unit="s", aim=1.9, at_most=True).met is False
    assert times.figure("rate", "", "ours", factor=8.0).spread == (3.0, 4.0, 6.0)
    lost = times.figure("lost", "gone", "ours", aim=1.0)
    assert lost.spread is None and lost.met is None and lost.missing == "not installed: gone"
    assert constant("n", 3.0).met is None


def test_means_are_geometric_and_need_all_rows():
    rows = [Row(f"x {n}", "", (Figure("r", (n / 2, float(n), 2.0 * n)),)) for n in (1, 2, 4)]
    (mean,) = geometric_mean("mean", rows, "r", 2.0).figures
    np.testing.assert_allclose(mean.spread, (1.0, 2.0, 4.0))
    assert mean.aim == 2.0
    (none,) = geometric_mean("mean", [*rows, Row("x 3", "", (Figure("r", None, missing="gone"),))], "r", 2.0).figures
    assert none.spread is None and none.missing == "not in all rows"


@dataclass
class Fake:
    """A row with one ratio."""

    name: str
    ratio: float

    def measure(self, settings):
        times = Times({"a": [1.0, 1.0], "b": [self.ratio, self.ratio * 1.1]}, {"c": "not installed: c"})
        figures = (
            times.figure("b / a", "b", "a", aim=2.0),
            times.figure("c / a", "c", "a", aim=2.0),
            constant("B", 2.0**20, "B"),
        )
        return Row(self.name, "8x8", figures, times.seconds)


SPECS = [Fake("x 1", 2.0), Fake("x 2", 8.0), Mean("mean", "x ", "b / a", 1.2), Fake("y", 1.0)]


def test_rows_run_in_order_and_the_mean_knows_those_before_it():
    rows = list(run(SPECS, ONE))
    assert [x.name for x in rows] == ["x 1", "x 2", "mean", "y"]
    assert rows[2].figure("b / a").spread[1] == pytest.approx(4.2) and rows[2].figure("b / a").met
    assert [x.name for x in select(SPECS, ["x*"])] == ["x 1", "x 2"] and select(SPECS, []) == SPECS
    assert [x.name for x in run(select(SPECS, ["mean"]), ONE)] == []
    with pytest.raises(AttncError, match="x 1, x 2, mean, y"):
        select(SPECS, ["y", "z*"])
    quick = list(run(SPECS, replace(ONE, quick=True)))
    assert all(x.aim is None for row in quick for x in row.figures)  # small sizes have none


def test_peers_by_name():
    assert known_peers(None, False) == tuple(PEERS) and "flex" not in known_peers(None, True)
    assert known_peers("SDPA, jax", False) == ("SDPA", "jax")
    with pytest.raises(AttncError, match="some of SDPA, flex"):
        known_peers("sdpa", False)


def test_a_report_survives_its_file(tmp_path):
    found = report.report("cpu", run(SPECS, ONE), ONE)
    found.save(tmp_path / "a.json")
    again = report.Report.load(tmp_path / "a.json")
    assert again.rows == found.rows and again.machine == found.machine and again.date == found.date
    assert again.settings["pauses"] == [timing.PAUSE, timing.BLAS_PAUSE] and again.versions["numpy"] == np.__version__
    assert "instructions" in again.machine and again.rows[0].seconds["b"] == [2.0, 2.2]
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["format"] == report.FORMAT
    for text in ("{}", "[]", "no", json.dumps({**data, "format": 99}), json.dumps({**data, "rows": [{}]})):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(AttncError, match="no result of a benchmark"):
            report.Report.load(tmp_path / "b.json")
    with pytest.raises(AttncError, match="--json"):
        found.save(tmp_path / "absent" / "c.json")


def test_tables_name_a_row_once_and_say_what_is_missing():
    found = report.report("cpu", run(SPECS, ONE), ONE)
    lines = report.table(found.rows)
    assert lines[0] == ["x 1: 8x8", "b / a", "2.1", "2.05 to 2.15", "≥ 2", "yes"]
    assert lines[1] == ["", "c / a", "not installed: c", "", "≥ 2", ""]
    assert lines[2] == ["", "B", "1 MiB", "", "", ""]
    assert all(len(x) == len(report.COLUMNS) for x in lines)
    text = report.markdown([found, found])
    assert text.count("cpu: 2") == 1 and text.count("| x 1: 8x8 | b / a |") == 2
    assert "| B |" in text and "| B |" not in report.markdown([found], aims=True)
    assert text.startswith("- cpu: 2") and "1 threads" in text and "medians of 2 rounds" in text
    assert "| x 1: 8x8 | b / a | 2.1 | 2.05 to 2.15 | ≥ 2 | yes |" in text


def test_a_comparison_names_what_changed_beyond_the_spread():
    old = report.report("cpu", run(SPECS, ONE), ONE)
    new = report.report("cpu", run([Fake("x 1", 3.0), Fake("x 2", 8.1), Fake("new", 1.0), Fake("y", 0.5)], ONE), ONE)
    lines = {(x[0], x[1]): x for x in report.compare(old, new)}
    assert lines["x 1: 8x8", "b / a"][2:] == ["2.1", "3.15", "better, x 1.50"]
    assert lines["x 2: 8x8", "b / a"][4] == "" and lines["y: 8x8", "b / a"][4] == "worse, x 0.50"
    assert not any(x.startswith("new") for x, _ in lines) and ("", "c / a") not in lines
    slower = Figure("t", (2.0, 2.0, 2.0), "s")
    assert report.changed(Figure("t", (1.0, 1.0, 1.0), "s"), slower) == "worse, x 2.00"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0021, "s", "2.1 ms"), (3e-9, "s", "3 ns"), (12e-6, "s", "12 µs"), (1.0, "s", "1 s"), (2**21, "B", "2 MiB"), (1234.0, "", "1234"), (1.236, "", "1.24"), (9.5, "GB/s", "9.5 GB/s")],
)  # fmt: skip
def test_numbers_have_their_unit(value, unit, text):
    assert report.show(value, unit) == text


def reference(case):
    """The case in float64, from its mask and score functions."""
    q, k, v = (x.astype(np.float64) for x in case.inputs())
    group = case.shape.heads // case.shape.kv_heads
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    b, h, i, j = np.ogrid[tuple(slice(n) for n in (*case.shape.q[:3], case.shape.kv_len))]
    s = q @ k.swapaxes(2, 3) * case.factor
    s = s if case.score is None else case.score(np)(s, b, h, i, j)
    mod = case.mask_mod(np)
    s = s if mod is None else np.where(mod(b, h, i, j), s, -np.inf)
    w = np.exp(s - s.max(axis=3, keepdims=True))
    return w @ v / w.sum(axis=3, keepdims=True)


SMALL = square(24, 16, 4)
CASES = [
    Case("dense", full, SMALL), Case("causal", causal, SMALL, causal=True), Case("groups", full, replace(SMALL, kv_heads=2)),
    Case("few", full, Shape(1, 4, 2, 3, 24, 16)), Case("half", full, SMALL, "float16"), Case("brain", full, SMALL, "bfloat16"),
    *scores(SMALL), window(24, 2, 8, 5), documents(3, 8, 2, 8), canvas(5, 3, 2, 8),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda x: x.name)
@pytest.mark.parametrize("peer", ["SDPA", "NumPy"])
def test_peers_compute_the_case(case, peer):
    if peer == "SDPA" and case.score is not None:
        with pytest.raises(NotImplementedError, match="matrix of biases"):
            PEERS[peer](case, case.inputs(), 1)
        return
    ready = PEERS[peer](case, case.inputs(), 1)
    allowed = 0.05 if case.dtype != "float32" else 1e-5
    for call in (ready.call, ready.with_mask):
        if call is not None:
            found = ready.read(call()).astype(np.float64)
            np.testing.assert_allclose(found, reference(case), atol=allowed)


@pytest.mark.parametrize("case", [CASES[1], CASES[2], *scores(SMALL), window(24, 2, 8, 5), documents(3, 8, 2, 8), canvas(5, 3, 2, 8)], ids=lambda x: x.name)  # fmt: skip
def test_flex_is_told_the_case(case, monkeypatch):
    import importlib

    import torch

    monkeypatch.setattr(torch, "compile", lambda f, **options: f)  # compiling takes a minute
    module = importlib.import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    ready = PEERS["flex"](case, case.inputs(), 1)
    np.testing.assert_allclose(ready.read(ready.call()), reference(case), atol=1e-5)
    assert (ready.mask is None) == (case.mask_mod(torch) is None)
    if ready.with_mask is not None:
        np.testing.assert_allclose(ready.read(ready.with_mask()), reference(case), atol=1e-5)


@pytest.mark.parametrize("case", scores(square(200, 4, 1)), ids=lambda x: x.name)
def test_score_functions_say_what_the_variant_does(case):
    found = case.variant.reference(*case.inputs(), **case.operands)
    np.testing.assert_allclose(found, reference(case), atol=1e-6)


def test_work_is_what_the_mask_needs():
    for case in (window(24, 2, 8, 5), documents(3, 8, 2, 8), canvas(5, 3, 2, 8), CASES[0], CASES[1]):
        i, j = np.ogrid[: case.shape.q_len, : case.shape.kv_len]
        mod = case.mask_mod(np)
        pairs = (
            case.shape.q_len * case.shape.kv_len
            if mod is None
            else int(np.broadcast_to(mod(0, 0, i, j), (len(i), j.size)).sum())
        )
        assert case.needed == pairs and case.work == 4 * case.shape.heads * pairs * case.shape.dim


class Jax:
    """jax, as far as its documentation is followed: arrays (B, L, H, D), a device, a call that is waited for."""

    def __init__(self):
        self.asked = []
        self.nn = SimpleNamespace(dot_product_attention=self.attend)
        self.numpy = np

    def devices(self, kind):
        assert kind == "cpu"
        return ["the processor"]

    def device_put(self, x, device):
        assert device == "the processor"
        return x

    def jit(self, f):
        return f

    def attend(self, q, k, v, *, scale, is_causal, implementation):
        self.asked.append((q.shape, k.shape, is_causal, implementation))
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        out = PEERS["NumPy"](Case("", full, Shape(*q.shape[:2], k.shape[1], q.shape[2], *k.shape[2:]), scale=scale, causal=is_causal), (q, k, v), 1).call()  # fmt: skip
        waiting = SimpleNamespace(block_until_ready=lambda: out.swapaxes(1, 2))
        return waiting


def stand_in_onnx(asked):
    """onnx and onnxruntime, as far as their documentation is followed: the model is a picture of itself."""

    def make_node(op, inputs, outputs, **attributes):
        assert (op, inputs, outputs) == ("Attention", ["Q", "K", "V"], ["Y"])
        return attributes

    class Model(dict):
        def SerializeToString(self):
            return dict(self)

    helper = SimpleNamespace(
        make_node=make_node,
        make_tensor_value_info=lambda name, kind, shape: (name, kind, tuple(shape)),
        make_graph=lambda nodes, name, inputs, outputs: {"node": nodes[0], "inputs": inputs, "outputs": outputs},
        make_opsetid=lambda domain, version: (domain, version),
        make_model=lambda graph, opset_imports, ir_version: Model(graph, opset=opset_imports),
    )

    class Session:
        def __init__(self, model, options, providers):
            asked.append((model["opset"], options.intra_op_num_threads, providers, model["inputs"]))
            self.node = model["node"]

        def run(self, outputs, given):
            assert outputs == ["Y"] and list(given) == ["Q", "K", "V"]
            q, k, v = given.values()
            shape = Shape(*q.shape[:2], k.shape[1], q.shape[2], *k.shape[2:])
            case = Case("", full, shape, scale=self.node["scale"], causal=bool(self.node["is_causal"]))
            return [PEERS["NumPy"](case, (q, k, v), 1).call()]

    onnx = SimpleNamespace(helper=helper, TensorProto=SimpleNamespace(FLOAT=1, FLOAT16=10))
    return onnx, SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=Session)


def test_jax_and_onnxruntime_where_they_are(monkeypatch):
    jax, asked = Jax(), []
    onnx, runtime = stand_in_onnx(asked)
    for name, module in (("jax", jax), ("onnx", onnx), ("onnxruntime", runtime)):
        monkeypatch.setitem(sys.modules, name, module)
    import attnc.bench.peers as peers

    monkeypatch.setattr(peers.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    for case in (CASES[0], CASES[1], CASES[2], CASES[4]):
        for name in ("jax", "onnxruntime"):
            ready = PEERS[name](case, case.inputs(), 3)
            allowed = 0.01 if case.dtype == "float16" else 1e-5
            np.testing.assert_allclose(ready.read(ready.call()), reference(case), atol=allowed)
    assert jax.asked[2] == ((1, 24, 4, 16), (1, 24, 2, 16), False, "xla") and jax.asked[1][2] is True
    assert asked[0] == ([("", 23)], 3, ["CPUExecutionProvider"], [(x, 1, (1, 4, 24, 16)) for x in "QKV"])
    assert asked[3][3][0][1] == 10
    for name in ("jax", "onnxruntime"):
        with pytest.raises(NotImplementedError, match="matrix of biases"):
            PEERS[name](window(24, 2, 8, 5), window(24, 2, 8, 5).inputs(), 3)
        with pytest.raises(NotImplementedError, match="first key"):
            PEERS[name](replace(CASES[3], causal=True), CASES[3].inputs(), 3)
    with pytest.raises(NotImplementedError, match="cannot be limited"):
        PEERS["jax"](CASES[0], CASES[0].inputs(), 1)
    with pytest.raises(NotImplementedError, match="not in bfloat16"):
        PEERS["onnxruntime"](CASES[5], CASES[5].inputs(), 3)


def test_a_row_says_why_a_peer_has_no_numbers(monkeypatch):
    import attnc.bench.peers as peers

    def broken(case, inputs, threads):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setitem(peers.PEERS, "flex", broken)
    for name in ("torch", "jax", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    row = AttentionRow(CASES[0], tuple(PEERS), {"SDPA": 1.0, "flex": 1.0}).measure(
        replace(ONE, peers=("SDPA", "flex", "jax", "onnxruntime"))
    )
    found = {x.name: x.missing for x in row.figures}
    assert found["SDPA / attnc"] == "not installed: torch" and found["jax / attnc"] == "not installed: jax"
    assert found["flex / attnc"] == "RuntimeError: no C++ compiler" and found["NumPy / attnc"] == "left out"
    assert found["onnxruntime / attnc"] == "not installed: onnx" and list(row.seconds) == ["attnc"]
    assert row.figure("attnc").spread[1] > 0 and row.figure("SDPA / attnc").met is None


def test_outputs_are_compared(monkeypatch):
    import attnc.bench.peers as peers

    monkeypatch.setitem(peers.PEERS, "SDPA", lambda case, inputs, threads: Ready(lambda: reference(case) + 0.5))
    row = AttentionRow(CASES[0], ("SDPA",), plain=full).measure(ONE)
    assert row.figure("difference of outputs").spread[1] == pytest.approx(0.5, abs=1e-5)
    plain = row.figure("attnc / plain")
    assert plain.at_most and plain.aim == 1.25 and set(row.seconds) == {"attnc", "plain", "SDPA"}


def test_sparse_rows_count_tiles():
    first_last = {"window": (True, True), "documents": (False, True), "natten": (False, False)}
    for case in (window(300, 2, 16, size=40), documents(3, 50, 2, 16), canvas(8, 3, 2, 16)):
        row = SparseRow(case, ("SDPA",), 100.0).measure(ONE)
        i, j = np.ogrid[: case.shape.q_len, : case.shape.kv_len]
        mask = np.broadcast_to(case.mask_mod(np)(0, 0, i, j), (case.shape.q_len, case.shape.kv_len))
        count = {name: row.figure(f"{name} tiles").spread[1] for name in ("full", "partial")}
        shape = tile_shape(case)
        tiles = list(kernel_tiles(mask, shape, *first_last[case.name]))
        full_tiles, visited = (2 * sum(map(found, tiles)) for found in (np.all, np.any))  # of two heads
        assert (count["full"], count["full"] + count["partial"]) == (full_tiles, visited)
        waste = visited * shape[0] * shape[1] / (2 * mask.sum())
        assert math.isclose(row.figure("pairs visited / needed").spread[1], waste)
        assert row.figure("SDPA + mask / attnc").spread is not None and row.figure("flex: mask / analysis") is None


def tile_shape(case):
    """Queries and keys of the kernel's tiles."""
    from attnc.bench.analysis import changed, count, counting

    return count(changed(case.variant, case.inputs(), dict(case.operands), counting)).shape


def kernel_tiles(mask, shape, first, last):
    """The tiles of a mask; those of a row begin at its first live key, and end with its last one, where the kernel knows it."""
    for i in range(0, len(mask), shape[0]):
        rows = mask[i : i + shape[0]]
        live = np.flatnonzero(rows.any(axis=0))
        rows = rows[:, live[0] if first else 0 : live[-1] + 1 if last else None]
        yield from (rows[:, j : j + shape[1]] for j in range(0, rows.shape[1], shape[1]))
