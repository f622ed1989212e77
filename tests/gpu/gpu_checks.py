"""What is checked on a GPU, as plain functions: pytest runs them (`test_gpu.py`), and so does `python tests/gpu/gpu_checks.py [DIR]`.

DIR: kernels that `gpu_build.py` compiled; without it they are compiled where they are needed, which takes Numba.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from gpu_cases import Case, cases

from attnc.aot.files import manifest_file, read_manifest
from attnc.backends.outputs import whole
from attnc.errors import AttncError, DeviceError, ShapeError, UnsupportedError
from attnc.runtime.arrays import numpy_dtype
from attnc.runtime.binding import bind
from attnc.schedule.cuda_target import CudaTarget, named, of_device
from attnc.verification import report


@dataclass(frozen=True, slots=True)
class Machine:
    """The libraries of a machine with a GPU. folder: of the kernels, or None."""

    torch: Any
    cupy: Any
    folder: str | None

    def variant(self, case: Case) -> Callable[..., Any]:
        """What is called."""
        return case.variant if self.folder is None else loaded(self.folder, case.name)

    def tensor(self, x: Any) -> Any:
        """A torch tensor on the GPU with the shape, strides and contents of a NumPy array; anything else as it is."""
        if not isinstance(x, np.ndarray):
            return x
        if any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.strides, strict=True)):
            once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.strides)
            return self.tensor(x[once]).expand(x.shape)
        bits = x.view(np.int16) if x.dtype.name == "bfloat16" else x
        order = np.argsort([-abs(s) for s in bits.strides], kind="stable")
        whole = np.ascontiguousarray(bits.transpose(order))
        room = self.torch.from_numpy(whole).cuda()
        if any(s != c for s, c in zip(bits.transpose(order).strides, whole.strides, strict=True)):
            wide = self.torch.zeros(
                [2 * n + 3 for n in room.shape], dtype=room.dtype, device="cuda"
            )  # a place with gaps
            part = wide[tuple(slice(1, n + 1) for n in room.shape)]
            part.copy_(room)
            room = part
        room = room.permute(*np.argsort(order).tolist())
        return room.view(self.torch.bfloat16) if x.dtype.name == "bfloat16" else room

    def numpy(self, x: Any) -> Any:
        """The contents of a tensor or a CuPy array."""
        if not isinstance(x, self.torch.Tensor):
            return self.cupy.asnumpy(x)
        x = x.cpu()
        return (
            x.view(self.torch.int16).numpy().view(numpy_dtype("bfloat16"))
            if x.dtype == self.torch.bfloat16
            else x.numpy()
        )


@cache
def loaded(folder: str, name: str) -> Any:
    """A variant from the directory."""
    import attnc

    return attnc.load(folder, name)


def missing() -> str:
    """Why nothing can be checked here, or ''."""
    for name in ("torch", "cupy", "ml_dtypes"):
        try:
            import_module(name)
        except ImportError as error:
            return f"{name} cannot be imported: {error}"
    if not import_module("torch").cuda.is_available():
        return "PyTorch finds no CUDA device"
    from attnc.backends.cuda.device import cupy

    try:
        cupy()
    except DeviceError as error:
        return str(error).replace("\n", " ")
    return ""


def machine(folder: str | None) -> Machine:
    """This machine."""
    return Machine(import_module("torch"), import_module("cupy"), folder)


def numbers(case: Case, at: Machine) -> str:
    """A call agrees with the reference within what `verify` allows, and gives the same bits twice."""
    inputs, operands = case.inputs()
    tensors, tables = [at.tensor(x) for x in inputs], {name: at.tensor(x) for name, x in operands.items()}
    options = {"layout": case.layout} | ({"return_lse": True} if case.lse else {})
    f = at.variant(case)
    first, again = ([at.numpy(x) for x in _flat(f(*tensors, **tables, **options))] for _ in range(2))
    for x, y in zip(first, again, strict=True):
        assert x.tobytes() == y.tobytes(), "the second call gives another result"
    bound = bind(case.variant.signature, *inputs, operands, case.layout)
    outputs = [whole(bound, x) for x in first]
    found = report(_graph(case, bound), bound.inputs, outputs, [x.dtype.name for x in outputs])
    assert found.ok, str(found)
    return str(found)


def _flat(x: Any) -> list[Any]:
    return [z for y in x for z in _flat(y)] if isinstance(x, tuple) else [x]


def _graph(case: Case, bound: Any) -> Any:
    from attnc.dsl.trace import trace
    from attnc.lse import with_lse

    variant = case.variant
    kept = {"kinds": bound.kinds, "constants": bound.constants, "absent": bound.absent}
    graph = trace(variant.function, variant.signature, **kept)
    return with_lse(graph) if case.lse else graph


def _call(at: Machine, case: Case, length: int = 1000) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    torch = at.torch
    dtype = getattr(torch, case.dtype)
    arrays = tuple(torch.randn((2, 4, length, case.D), device="cuda").to(dtype) for _ in range(3))
    return at.variant(case), arrays


CAUSAL = Case("causal", D=128)
HALF = Case("causal", "float16")


def cupy_arrays(at: Machine) -> None:
    """CuPy arrays in, a CuPy array out, the same bits as with torch tensors over the same memory."""
    f, arrays = _call(at, HALF)
    out = f(*(at.cupy.from_dlpack(x) for x in arrays))
    assert isinstance(out, at.cupy.ndarray) and out.shape == (2, 4, 1000, 64)
    at.cupy.cuda.get_current_stream().synchronize()
    assert np.array_equal(at.cupy.asnumpy(out), f(*arrays).cpu().numpy())


def out_is_written(at: Machine) -> None:
    """Every element of `out` is written, and it is what comes back."""
    f, arrays = _call(at, CAUSAL)
    out = at.torch.full_like(arrays[0], float("nan"))
    assert f(*arrays, out=out) is out
    assert at.torch.equal(out, f(*arrays))


def rows_without_keys(at: Machine) -> None:
    """They are zero."""
    f, (q, k, v) = _call(at, CAUSAL)
    out = f(q, k[:, :, :100], v[:, :, :100])
    assert not out[:, :, :900].any() and bool(out[:, :, 900:].any(-1).all())


def streams(at: Machine) -> None:
    """On a stream of the caller's the kernel reads what was queued before, and what is queued later reads its output."""
    f, (q, k, v) = _call(at, CAUSAL)
    expected = f(2 * q, k, v) * 3
    torch = at.torch
    stream = torch.cuda.Stream()
    busy = torch.randn((8192, 8192), device="cuda")
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = q.clone()
        for _ in range(8):
            busy = busy @ busy.T / 8192**0.5  # some 10 ms, in which a kernel on another stream would run ahead
        late *= 2
        found = f(late, k, v) * 3
    stream.synchronize()
    assert torch.equal(found, expected)


def graphs(at: Machine) -> None:
    """A call in a CUDA graph, and in its replay on other contents."""
    f, (q, k, v) = _call(at, CAUSAL)
    torch = at.torch
    f(q, k, v)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = f(q, k, v)
    for _ in range(3):
        q.copy_(torch.randn_like(q))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, f(q, k, v))


def graphs_with_tables(at: Machine) -> None:
    """A call that summarises a table first, in a CUDA graph."""
    case = Case("document", D=128)
    f, (q, k, v) = _call(at, case, 1030)
    torch = at.torch
    doc = torch.arange(1030, device="cuda").div(100, rounding_mode="floor").repeat(2, 1)
    f(q, k, v, doc=doc)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = f(q, k, v, doc=doc)
    for size in (50, 300):
        doc.copy_(torch.arange(1030, device="cuda").div(size, rounding_mode="floor").repeat(2, 1))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, f(q, k, v, doc=doc))


def graphs_with_repair(at: Machine) -> None:
    """Replays of a graph clear what a launch notes of rows: NaN in a masked place, then no more, then elsewhere."""
    f, (q, k, v) = _call(at, CAUSAL)
    torch, finite = at.torch, v.clone()
    f(q, k, v)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = f(q, k, v)
    for key in (700, None, 20):
        v.copy_(finite)
        if key is not None:
            v[:, :, key, 5] = float("nan")
        graph.replay()
        torch.cuda.synchronize()
        seen = 1000 if key is None else key
        assert not out[:, :, :seen].isnan().any() and out[:, :, seen:, 5].isnan().all()
        assert torch.equal(out.nan_to_num(), f(q, k, v).nan_to_num())
        gap = (out[:, :, :seen].float() - f(q, k, finite)[:, :, :seen].float()).abs().max()
        assert float(gap) < 0.03, float(gap)  # of rows that another kernel computed again


def many_items(at: Machine) -> None:
    """More tiles than a GPU works on at once: each head of a large batch has the bits that it has alone."""
    torch = at.torch
    f = at.variant(CAUSAL)
    q, k, v = (torch.randn((5, h, 700, 128), device="cuda").to(torch.bfloat16) for h in (32, 8, 8))
    out = f(q, k, v)
    for b, h in ((0, 0), (0, 31), (2, 13), (4, 4), (4, 31)):
        one = slice(b, b + 1), slice(h // 4, h // 4 + 1)
        assert torch.equal(out[b : b + 1, h : h + 1], f(q[b : b + 1, h : h + 1], k[one], v[one])), (b, h)


def heads_of_stride_0(at: Machine) -> None:
    """K and V of one head for all, and of one batch, without a copy: the bits of the copy."""
    f, (q, k, v) = _call(at, CAUSAL)
    one, batch = k[:, :1].expand_as(k), v[:1].expand_as(v)
    assert at.torch.equal(f(q, one, batch), f(q, one.contiguous(), batch.contiguous()))


def schedule(at: Machine) -> str:
    """The kernels are those of the best target that there is; on a GPU of 9.0 with kernels for it, those of wgmma."""
    f, (q, k, v) = _call(at, CAUSAL)
    f(q, k, v)
    calls = f._on_device if at.folder is None else f._calls
    loaded = [x.executable for key, x in calls._loaded.items() if "bfloat16" in key]
    found = [x for x in loaded if x.features["d"] == 128]
    capability = at.torch.cuda.get_device_capability()
    best = of_device(capability) if at.folder is None else _built(at.folder, capability)
    assert found and all(x.target == best for x in found), (found[0].target.name, best.name)
    for x in found:
        roles = [stage.role for stage in x.stages]
        assert ("repair" in roles) == bool(x.stages[roles.index("main")].maps) == (best.feature == "a"), roles
    return f"{best.name}, {'wgmma' if best.feature else 'mma'}"


def _built(folder: str, capability: tuple[int, int]) -> CudaTarget:
    manifest = read_manifest(manifest_file(Path(folder), "causal"))
    names = {x.target for y in manifest.specialised for x in y.kernels}
    targets = [x for x in map(named, names) if x.runs_on(capability)]
    return max(targets, key=lambda x: (x.capability, x.feature))


def long_rows(at: Machine) -> None:
    """16411 queries and keys against float64 on rows of the first, a middle and the last tile."""
    torch = at.torch
    f, (q, k, v) = _call(at, CAUSAL, 16411)
    out = f(q, k, v)
    rows = torch.tensor([0, 1, 63, 64, 127, 128, 8200, 8201, 16383, 16384, 16409, 16410], device="cuda")
    scores = q[:, :, rows].double() @ k.double().transpose(-1, -2) / 128**0.5
    live = torch.arange(16411, device="cuda")[None, :] <= rows[:, None]
    expected = torch.softmax(scores.masked_fill(~live, float("-inf")), -1) @ v.double()
    error = float((out[:, :, rows].double() - expected).norm() / expected.norm())
    assert error < 1e-2, error


def threads(at: Machine) -> None:
    """Several host threads call at once, each on its own stream."""
    from concurrent.futures import ThreadPoolExecutor

    torch = at.torch
    f, (q, k, v) = _call(at, CAUSAL)
    inputs = [q * (n + 1) for n in range(8)]
    expected = [f(x, k, v) for x in inputs]
    torch.cuda.synchronize()

    def call(x: Any) -> Any:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            out = [f(x, k, v) for _ in range(20)][-1]
        stream.synchronize()
        return out

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(x, y) for x, y in zip(pool.map(call, inputs), expected, strict=True))


def bad_input(at: Machine) -> None:
    """What a call refuses, with the cure."""
    f, (q, k, v) = _call(at, CAUSAL, 64)
    refused = [(DeviceError, (q, k.cpu(), v)), (ShapeError, (q, k[:, :3], v[:, :3]))]
    if at.folder is not None:
        refused.append((UnsupportedError, tuple(x[..., :96].contiguous() for x in (q, k, v))))
    for kind, arrays in refused:
        try:
            f(*arrays)
        except kind as error:
            assert error.cause and error.cure, error
        else:
            raise AssertionError(f"no {kind.__name__}")


OTHERS = (
    schedule, cupy_arrays, out_is_written, rows_without_keys, streams, graphs, graphs_with_tables, graphs_with_repair, long_rows,
    many_items, heads_of_stride_0, threads, bad_input,
)  # fmt: skip


def checks() -> Iterator[tuple[str, Callable[[Machine], Any]]]:
    """Every check with its name."""
    for case in cases():
        yield str(case), partial(numbers, case)
    for check in OTHERS:
        yield check.__name__, check


def main(folder: str | None = None) -> int:
    """Run all; returns how many failed."""
    reason = missing()
    if reason:
        print(f"nothing was checked: {reason}")
        return 1
    here, failed, start = machine(folder), 0, time.perf_counter()
    for name, check in checks():
        try:
            print("ok  ", name, check(here) or "", flush=True)
        except (AssertionError, AttncError, RuntimeError, TypeError, ValueError) as error:
            failed += 1
            print("FAIL", name, f"{type(error).__name__}: {error}", flush=True)
            traceback.print_exc(limit=-4, file=sys.stdout)
    print(f"{failed} of {len(list(checks()))} checks failed, {time.perf_counter() - start:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:]) else 0)
