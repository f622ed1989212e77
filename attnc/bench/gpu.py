"""attnc's CUDA kernels beside PyTorch's SDPA (flash and cuDNN) and its compiled flex_attention, on one GPU, in turn.

Kernels for another target may stand beside as well: on a Hopper GPU those for sm_90, without wgmma, beside those for sm_90a. Times are medians of CUDA events around single calls. Data is random; every round takes the next of several sets of arrays,
which together are larger than the L2 cache; the masks of flex_attention are made before.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from attnc.errors import AttncError, DeviceError, UnsupportedError

DEVICE = "cuda"
ALIBI_BASE = 8.0
WARM_UPS = 2
CALLS = 1000  # of the smallest problem, for what a launch costs
PEERS = ("SDPA flash", "SDPA cuDNN", "flex_attention")
SIZES = ((1, 16, 16384), (4, 16, 4096), (1, 64, 16384), (2, 16, 8192))  # batch, heads, queries and keys
PERIOD = 4096  # keys after which the lengths of documents repeat
DOCUMENTS = (1, 2, 5, 8)  # their lengths, in sixteenths of that
Call = Callable[..., Any]
Source = Callable[[str], Call]


@dataclass(frozen=True, slots=True)
class Problem:
    """A variant at a size. shape: of Q, K and V. pairs: of a query and a key that one head needs.

    operands: made from torch. modify(torch, operands): flex_attention's score_mod and mask_mod, each may be None. batched: whether
    its mask reads the batch. sdpa: the is_causal of PyTorch's SDPA, None where it has no such attention without a matrix of biases.
    tflops, flex: aims for an H200, in TFLOP/s and in flex_attention's times.
    """

    name: str
    shape: tuple[int, int, int, int]
    pairs: int
    modify: Callable[[Any, Mapping[str, Any]], tuple[Call | None, Call | None]]
    operands: Callable[[Any], dict[str, Any]] = lambda torch: {}
    batched: bool = False
    sdpa: bool | None = None
    tflops: float | None = None
    flex: float = 1.2

    @property
    def work(self) -> float:
        """Floating-point operations of a call: two products for each needed pair."""
        batch, heads, _, dim = self.shape
        return 4.0 * batch * heads * self.pairs * dim


@dataclass(frozen=True, slots=True)
class Peer:
    """Median seconds of a call, and the greatest difference of its output from attnc's. failed: why there are none, else ""."""

    name: str
    seconds: float = 0.0
    difference: float = 0.0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class GpuRow:
    """Median seconds of attnc's call, and the peers."""

    problem: Problem
    seconds: float
    peers: tuple[Peer, ...]

    @property
    def tflops(self) -> float:
        """attnc's rate, counting what the mask needs."""
        return self.problem.work / self.seconds / 1e12


def device() -> Any:
    """The module torch, with a GPU. UnsupportedError: no PyTorch. DeviceError: none that reaches a GPU, or no CuPy."""
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            "bench cuda compares with PyTorch",
            cause=f"it cannot be imported ({error})",
            cure="pip install 'attnc[torch]'",
        ) from error
    if not torch.cuda.is_available():
        raise DeviceError(
            "bench cuda without a GPU",
            cause=f"PyTorch {torch.__version__} finds no CUDA device",
            cure="run it where there is one; `attnc build` makes kernels that need no compiler there",
        )
    try:
        import cupy  # noqa: F401
    except ImportError as error:
        raise DeviceError(
            "bench cuda without CuPy", cause=f"attnc launches with it, and {error}", cure="pip install cupy-cuda13x"
        ) from error
    return torch


def problems(sizes: Sequence[tuple[int, int, int]] = SIZES, dim: int = 128, window: int = 1024) -> list[Problem]:
    """Full, causal, soft-capped, ALiBi, a window and documents, in bfloat16; all but the first and the last causal.

    sizes: batch, heads, and as many queries as keys.
    """
    found = []
    for batch, heads, length in sizes:
        half = length * (length + 1) // 2
        near = sum(min(i + 1, window) for i in range(length))
        inside = sum(n * n for n in _lengths(length))
        made = partial(Problem, shape=(batch, heads, length, dim))
        found += [
            made("full", pairs=length**2, modify=_plain, sdpa=False, tflops=550.0),
            made("causal", pairs=half, modify=_causal, sdpa=True, tflops=500.0),
            made("soft_cap", pairs=half, modify=_soft_cap, operands=lambda torch: {"cap": 30.0}),
            made("alibi", pairs=half, modify=_alibi, operands=partial(_slopes, heads)),
            made("sliding_window", pairs=near, modify=partial(_window, window), operands=lambda torch: {"window": window}),
            made("document", pairs=inside, modify=_document, operands=partial(_documents, batch, length), batched=True),
        ]  # fmt: skip
    return found


def _plain(torch: Any, operands: Mapping[str, Any]) -> tuple[Call | None, Call | None]:
    return None, None


def _causal(torch: Any, operands: Mapping[str, Any]) -> tuple[Call | None, Call | None]:
    return None, lambda b, h, i, j: j <= i


def _soft_cap(torch: Any, operands: Mapping[str, Any]) -> tuple[Call | None, Call | None]:
    cap = operands["cap"]
    return lambda s, b, h, i, j: cap * torch.tanh(s / cap), lambda b, h, i, j: j <= i


def _alibi(torch: Any, operands: Mapping[str, Any]) -> tuple[Call | None, Call | None]:
    slopes = operands["slopes"]
    return lambda s, b, h, i, j: s - slopes[h] * (i - j), lambda b, h, i, j: j <= i


def _slopes(heads: int, torch: Any) -> dict[str, Any]:
    exponents = torch.arange(1, heads + 1, device=DEVICE, dtype=torch.float32) / heads
    return {"slopes": torch.pow(2.0, -ALIBI_BASE * exponents).to(torch.bfloat16)}


def _window(window: int, torch: Any, operands: Mapping[str, Any]) -> tuple[Call | None, Call | None]:
    return None, lambda b, h, i, j: (j <= i) & (i - j < window)


def _lengths(length: int) -> list[int]:
    """Of the documents of a sequence."""
    period = min(length, PERIOD)
    found = [period * n // 16 for n in DOCUMENTS] * (length // period)
    return [*found, length - sum(found)] if sum(found) < length else found


def _documents(batch: int, length: int, torch: Any) -> dict[str, Any]:
    lengths = torch.tensor(_lengths(length), device=DEVICE)
    numbers = torch.repeat_interleave(torch.arange(len(lengths), device=DEVICE), lengths)
    return {"doc": numbers.repeat(batch, 1)}


def _document(torch: Any, operands: Mapping[str, Any]) -> tuple[Call | None, Call | None]:
    doc = operands["doc"]
    return None, lambda b, h, i, j: doc[b, i] == doc[b, j]


def source(folder: str | None) -> Source:
    """Where variants come from by name: a directory of kernels, else the library, which compiles what it needs."""
    if folder is not None:
        from attnc.aot.load import load

        return partial(load, folder)
    from attnc import variants

    return partial(getattr, variants)


def others(folders: Sequence[str]) -> dict[str, Source]:
    """Directories of kernels to measure beside, by their last names."""
    return {Path(x).name: source(x) for x in folders}


def bench_gpu(
    chosen: Sequence[Problem],
    variant: Source,
    rounds: int = 20,
    peers: Sequence[str] = PEERS,
    beside: Mapping[str, Source] | None = None,
) -> Iterator[GpuRow]:
    """Measure one problem after the other. variant(name): what is called (`source`). beside: other kernels of attnc, by a name.

    A peer that is missing or fails is in the row, with the reason. Raises as `device`.
    """
    torch = device()
    with torch.inference_mode():
        for problem in chosen:
            operands = problem.operands(torch)
            made = {name: partial(_ours, of, problem, operands) for name, of in (beside or {}).items()}
            made |= {name: partial(_peer, torch, name, problem, operands) for name in peers}
            yield _measure(torch, problem, _ours(variant, problem, operands), rounds, made)


def launch_seconds(variant: Call) -> float:
    """Seconds of the host for one call of a variant without operands, from its second call on: 1 query, 1 key, head dim 128."""
    torch = device()
    q, k, v = (torch.randn((1, 1, 1, 128), device=DEVICE).to(torch.bfloat16) for _ in range(3))
    with torch.inference_mode():
        times = []
        for number in range(WARM_UPS + 5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                variant(q, k, v)
            if number >= WARM_UPS:
                times.append((time.perf_counter() - start) / CALLS)
        torch.cuda.synchronize()
    return statistics.median(times)


def _ours(variant: Source, problem: Problem, operands: Mapping[str, Any]) -> Call:
    return partial(variant(problem.name), **operands)


def _measure(torch: Any, problem: Problem, ours: Call, rounds: int, peers: Mapping[str, Callable[[], Call]]) -> GpuRow:
    """peers: what makes their calls, by name."""
    sets = _sets(torch, problem.shape)
    calls, expected = [ours], ours(*sets[0]).float()
    found = []
    for name, make in peers.items():
        try:
            call = make()
            theirs = call(*sets[0])
            difference = float((theirs.float() - expected).abs().max())
        except Exception as error:  # whatever another project's compiler raises
            text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            found.append(Peer(name, failed=text))
            continue
        found.append(Peer(name, difference=difference))
        calls.append(call)
    del expected
    times = _medians(torch, calls, sets, rounds)
    rest = iter(times[1:])
    return GpuRow(problem, times[0], tuple(x if x.failed else replace(x, seconds=next(rest)) for x in found))


def _sets(torch: Any, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Sets of random q, k, v: at least two, together four times the L2 cache."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    size = 3 * 2 * shape[0] * shape[1] * shape[2] * shape[3]
    count = max(2, -(-4 * cache // size))
    generator = torch.Generator(device=DEVICE).manual_seed(0)

    def random() -> Any:
        return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, generator=generator)

    return [(random(), random(), random()) for _ in range(count)]


def _peer(torch: Any, name: str, problem: Problem, operands: Mapping[str, Any]) -> Call:
    """A call of q, k, v. Raises where the peer has no such attention."""
    if name == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        score_mod, mask_mod = problem.modify(torch, operands)
        length = problem.shape[2]
        batch = problem.shape[0] if problem.batched else None
        mask = None if mask_mod is None else create_block_mask(mask_mod, batch, None, length, length, device=DEVICE)
        torch.compiler.reset()  # after eight shapes it would give up compiling
        compiled = torch.compile(flex_attention, dynamic=False)
        return partial(compiled, score_mod=score_mod, block_mask=mask)
    if problem.sdpa is None:
        raise NotImplementedError("it needs a matrix of biases")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = {"SDPA flash": SDPBackend.FLASH_ATTENTION, "SDPA cuDNN": SDPBackend.CUDNN_ATTENTION}[name]

    def attend(q: Any, k: Any, v: Any) -> Any:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=problem.sdpa)

    return attend


def _medians(torch: Any, calls: Sequence[Call], sets: Sequence[tuple[Any, ...]], rounds: int) -> list[float]:
    """Median seconds on the device of each call, which take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(-WARM_UPS, rounds):
        arrays = sets[number % len(sets)]
        for call, kept in zip(calls, times, strict=True):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call(*arrays)
            end.record()
            end.synchronize()
            if number >= 0:
                kept.append(begin.elapsed_time(end) / 1e3)
    return [statistics.median(x) for x in times]


def conditions(rounds: int, kernels: str | None) -> str:
    """What a table of times has to say. kernels: a directory, None where they are compiled here."""
    torch = device()
    name, versions = torch.cuda.get_device_name(0), f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
    ours = f"attnc's kernels of {kernels}" if kernels else "attnc's kernels compiled here"
    return f"{name}, {versions}, {ours}, bfloat16, medians of {rounds}, alternating; others' times over attnc's"


def table(rows: Sequence[GpuRow]) -> tuple[list[str], list[list[str]]]:
    """What `attnc bench cuda` prints: TFLOP/s, and how many times attnc's time each peer takes, aims beside."""
    names = [x.name for x in rows[0].peers] if rows else []
    columns = [
        "attnc",
        "Q, K, V",
        "ms",
        "TFLOP/s",
        "aim",
        *[f"{x} / attnc" for x in names],
        "aim for flex",
        "difference",
    ]
    return columns, [_cells(x) for x in rows]


def _cells(r: GpuRow) -> list[str]:
    p = r.problem
    ratios = [x.failed[:60] or f"{x.seconds / r.seconds:.2f}" for x in r.peers]
    difference = max((x.difference for x in r.peers if not x.failed), default=float("nan"))
    aim = f"{p.tflops:g}" if p.tflops is not None else ""
    return [
        p.name, "x".join(map(str, p.shape)), f"{r.seconds * 1e3:.3f}", f"{r.tflops:.0f}", aim, *ratios, f"{p.flex:g}",
        f"{difference:.0e}",
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """`python -m attnc.bench.gpu [DIR [BESIDE...]]`: the benchmark where the packages of the command `attnc` are missing."""
    kernels, rounds = arguments[0] if arguments else None, 20
    variant, beside = source(kernels), others(arguments[1:])
    print(conditions(rounds, kernels), flush=True)
    for name, of in {"": variant, **beside}.items():
        seconds = launch_seconds(of("full"))
        print(f"a call {name and f'of {name} '}takes the host {seconds * 1e6:.1f} µs (aim: 15 at most)", flush=True)
    for number, row in enumerate(bench_gpu(problems(), variant, rounds, beside=beside)):
        columns, cells = table([row])
        for line in ([columns] if number == 0 else []) + cells:
            print(" | ".join(line), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AttncError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
