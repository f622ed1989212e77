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
    chosen = gpu.problems(length=48, heads=(2,), dim=16, window=7)
    rows = list(gpu.bench_gpu(chosen, gpu.source(None), rounds=1))
    assert [x.problem.name for x in rows] == ["full", "causal", "soft_cap", "alibi", "sliding_window"]
    for row in rows:
        flash, cudnn, flex = row.peers
        assert not flex.failed and flex.difference < 0.05, (row.problem.name, flex)
        assert bool(flash.failed) == (row.problem.name not in ("full", "causal")) and cudnn.failed
        assert row.seconds == flex.seconds == pytest.approx(1e-3)
    columns, cells = gpu.table(rows)
    assert len(columns) == len(cells[0]) == 10 and cells[1][:2] == ["causal", "1x2x48x16"]


def test_the_work_is_what_the_mask_needs():
    shapes = {x.name: x for x in gpu.problems(length=48, heads=(2,), dim=16, window=7)}
    i, j = np.indices((48, 48))
    assert shapes["full"].pairs == 48**2 and shapes["causal"].pairs == int((j <= i).sum())
    assert shapes["sliding_window"].pairs == int(((j <= i) & (i - j < 7)).sum())
    assert shapes["full"].work == 4 * 2 * 48**2 * 16
    standard = [(x.name, x.shape) for x in gpu.problems()]
    assert ("causal", (1, 16, 16384, 128)) in standard and ("causal", (1, 64, 16384, 128)) in standard


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
