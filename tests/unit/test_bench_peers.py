"""Peers of the benchmarks compute the same as attnc, say why they are missing, and rows of attention count what they visit."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from attnc.bench import timing
from attnc.bench.attention import AttentionRow
from attnc.bench.case import Case, Shape, square
from attnc.bench.cpu import scores
from attnc.bench.peers import PEERS, Ready
from attnc.bench.sparse import SparseRow, canvas, documents, window
from attnc.bench.timing import Settings
from attnc.variants import causal, full

ONE = Settings(threads=1, rounds=1, peers=tuple(PEERS))


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


def test_the_pause_is_longer_where_openblas_spins(monkeypatch):
    seen = []
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: 0.001, sleep=seen.append))
    monkeypatch.setattr(timing, "_seconds", lambda call: 0.1)
    row = AttentionRow(CASES[0], ("SDPA", "NumPy"))
    for peers, pause in ((("SDPA",), timing.PAUSE), (("SDPA", "NumPy"), timing.BLAS_PAUSE)):
        seen.clear()
        row.measure(replace(ONE, peers=peers))
        assert seen == [pause] * (1 + len(peers))  # OpenBLAS spins for longer
