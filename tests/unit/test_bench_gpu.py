"""`attnc bench cuda` on a machine without a GPU: its refusal, and its problems and peers at a small size on the CPU."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attnc import cli
from attnc.bench import gpu
from attnc.errors import DeviceError


class Event:
    """torch.cuda.Event that counts."""

    now = 0.0

    def __init__(self, enable_timing):
        self.at = 0.0

    def record(self):
        Event.now += 1.0
        self.at = Event.now

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return other.at - self.at


@pytest.fixture
def pretend(monkeypatch):
    """The benchmark on the CPU, with flex_attention as it is before it is compiled."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "device", lambda: torch)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(L2_cache_size=1 << 16))
    monkeypatch.setattr(torch, "compile", lambda f, **options: f)
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def test_the_peers_compute_the_same(pretend):
    chosen = gpu.problems([(2, 2, 48)], dim=16, window=7)
    other = {"sm_90": gpu.source(None)}
    rows = list(gpu.bench_gpu(chosen, gpu.source(None), rounds=1, beside=other))
    assert [x.problem.name for x in rows] == ["full", "causal", "soft_cap", "alibi", "sliding_window", "document"]
    for row in rows:
        same, flash, cudnn, flex = row.peers
        assert (same.name, same.failed, same.difference) == ("sm_90", "", 0.0)
        assert not flex.failed and flex.difference < 0.05, (row.problem.name, flex)
        assert bool(flash.failed) == (row.problem.name not in ("full", "causal")) and cudnn.failed
        assert row.seconds == flex.seconds == pytest.approx(1e-3)
    columns, cells = gpu.table(rows)
    assert len(columns) == len(cells[0]) == 11 and cells[1][:2] == ["causal", "2x2x48x16"]
    assert columns[5] == "sm_90 / attnc" and cells[1][5] == "1.00"


def test_what_is_beside_may_fail(pretend):
    def missing(name):
        raise DeviceError("no kernels", cause="none were built", cure="build them")

    (row,) = gpu.bench_gpu(
        gpu.problems([(1, 2, 48)], dim=16)[:1], gpu.source(None), 1, ("flex_attention",), {"sm_90": missing}
    )
    assert row.peers[0].failed.startswith("DeviceError") and not row.peers[1].failed


def test_the_work_is_what_the_mask_needs(pretend):
    shapes = {x.name: x for x in gpu.problems([(1, 2, 48)], dim=16, window=7)}
    i, j = np.indices((48, 48))
    assert shapes["full"].pairs == 48**2 and shapes["causal"].pairs == int((j <= i).sum())
    assert shapes["sliding_window"].pairs == int(((j <= i) & (i - j < 7)).sum())
    assert shapes["full"].work == 4 * 2 * 48**2 * 16
    (doc,) = shapes["document"].operands(torch)["doc"].numpy()
    assert shapes["document"].pairs == int((doc[i] == doc[j]).sum()) and len(set(doc)) == 4
    standard = [(x.name, x.shape) for x in gpu.problems()]
    assert {shape for name, shape in standard if name == "causal"} == {
        (1, 16, 16384, 128), (4, 16, 4096, 128), (1, 64, 16384, 128), (2, 16, 8192, 128),
    }  # fmt: skip
    assert sum(gpu._lengths(16384)) == 16384 and sum(gpu._lengths(5000)) == 5000


def test_sets_of_arrays_are_larger_than_the_cache(pretend):
    sets = gpu._sets(torch, (1, 2, 48, 16))
    assert len(sets) * 3 * sets[0][0].nbytes >= 4 << 16 and not torch.equal(sets[0][0], sets[1][0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would be measured")
def test_without_a_gpu_it_refuses(monkeypatch, capsys):
    with pytest.raises(DeviceError, match="finds no CUDA device"):
        CliRunner().invoke(cli.app, ["bench", "cuda"], catch_exceptions=False)
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DeviceError, match="without CuPy"):
        gpu.device()
