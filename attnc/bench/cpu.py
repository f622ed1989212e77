"""The suites `cpu`, `avx2` and `decode`: dense attention, dtypes, score functions, shapes that are unlike, threads, few queries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import attnc as at
from attnc.bench.attention import OURS, AttentionRow
from attnc.bench.case import Case, Modify, Shape, square
from attnc.bench.machine import MachineRow, sgemm
from attnc.bench.process import python
from attnc.bench.row import Row
from attnc.bench.suite import Mean, Spec
from attnc.bench.timing import Settings, alternate, same_threads, set_threads, timed, torch_or_none
from attnc.errors import UnsupportedError

SDPA = ("SDPA",)
DENSE = (*SDPA, "NumPy", "onnxruntime", "jax")  # and flex where it has something to show: its first call takes a minute
FAST = {"SDPA": 1.0}
LIMITS = {"ATTNC_CPU_TARGET": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def cpu(quick: bool) -> list[Spec]:
    """Everything but decoding."""
    length, dim = (96, 16) if quick else (2048, 64)
    plain = square(length, dim, 2 if quick else 8)
    rows: list[Spec] = [MachineRow(), *dense(quick)]
    for dtype in ("bfloat16", "float16"):
        for causal in (False, True):
            case = _case(plain, causal, dtype)
            rows.append(AttentionRow(replace(case, name=f"{dtype} {case.name}"), SDPA, {"SDPA": 1.2}))
    rows += [AttentionRow(x, ("flex",), {"flex": 4.0}, plain=_plain(x.causal)) for x in scores(plain)]
    small = square(8, 16, 4, 4) if quick else square(64, 32, 64, 64)
    rows.append(AttentionRow(Case("small problems", _plain(False), small), DENSE, {"SDPA": 2.0}))
    rows.append(AttentionRow(Case("few keys", _plain(False), replace(plain, q_len=2 * length, kv_len=77)), DENSE, FAST))
    rows.append(
        AttentionRow(
            Case("groups", _plain(False), replace(plain, kv_heads=plain.heads // (2 if quick else 4))), DENSE, FAST
        )
    )
    for other in () if quick else (16, 32, 80, 96, 256):
        rows.append(AttentionRow(replace(_case(replace(plain, dim=other)), name=f"head dim {other}"), SDPA, FAST))
    rows.append(ThreadsRow(_case(plain)))
    return rows


def dense(quick: bool) -> list[Spec]:
    """Dense and causal over lengths and head dims, and their geometric means."""
    lengths, dims, heads = ((96,), (16,), 2) if quick else ((1024, 2048, 4096, 8192), (64, 128), 8)
    rows: list[Spec] = []
    for causal, least, mean in ((False, 1.05, 1.2), (True, 1.15, 1.3)):
        kind = "causal" if causal else "dense"
        for dim in dims:
            for length in lengths:
                case = replace(_case(square(length, dim, heads), causal), name=f"{kind} {length} D {dim}")
                peers = (
                    ("SDPA", "flex", *DENSE[1:])
                    if length == lengths[min(1, len(lengths) - 1)] and dim == dims[0]
                    else SDPA
                )
                rows.append(AttentionRow(case, peers, {"SDPA": least}))
        rows.append(Mean(f"{kind}, geometric mean", f"{kind} ", "SDPA / attnc", mean))
    return rows


def avx2(quick: bool) -> list[Spec]:
    """The dense rows, where neither attnc nor PyTorch may use AVX-512."""
    rows: list[Spec] = []
    for x in dense(quick):
        if isinstance(x, Mean):
            rows.append(Mean(f"avx2 {x.name}", f"avx2 {x.start}", x.figure, 1.2))
        else:
            rows.append(Limited(x))
    return rows


def decode(quick: bool) -> list[Spec]:
    """Few queries and many keys: beside SDPA, and the speed at which the same bytes can be read."""
    keys, dim, heads, group = (200, 16, 4, 4) if quick else (32768, 128, 32, 4)
    shape = Shape(1, heads, heads // group, 1, keys, dim)
    shapes = {
        "decode": shape, "decode, no groups": replace(shape, heads=shape.kv_heads),
        "decode, 4 queries": replace(shape, q_len=4), "decode, 16 queries": replace(shape, q_len=16),
    }  # fmt: skip
    return [
        DecodeRow(Case(name, _plain(False), x), SDPA, {"SDPA": 3.0} if name == "decode" else FAST)
        for name, x in shapes.items()
    ]


def _plain(causal: bool) -> Any:
    from attnc.variants import causal as variant
    from attnc.variants import full

    return variant if causal else full


def _case(shape: Shape, causal: bool = False, dtype: str = "float32") -> Case:
    return Case("causal" if causal else "dense", _plain(causal), shape, dtype, causal=causal)


@at.attention  # type: ignore[untyped-decorator]
def relative_table(  # type: ignore[no-untyped-def]
    q, k, v, h, i, j, *, table: at.Tensor["h", "n"]  # type: ignore[name-defined]  # noqa: F821, UP037
):  # fmt: skip
    """A learned number for each head and each distance: table[h, j - i + q_len - 1]."""
    s = at.dot(q, k) * at.rsqrt(at.size(q))
    return at.softmax(s + table[h, j - i + at.q_len - 1]) @ v


def scores(shape: Shape) -> list[Case]:
    """Soft-cap and ALiBi (causal), T5's buckets and a relative table (not)."""
    from attnc.variants import alibi, soft_cap, t5
    from attnc.variants.alibi import standard_slopes

    rng, cap = np.random.default_rng(1), 50.0
    slopes = np.asarray(standard_slopes(shape.heads), np.float32)
    buckets = rng.standard_normal((shape.heads, 32), dtype=np.float32)
    distances = rng.standard_normal((shape.heads, shape.q_len + shape.kv_len - 1), dtype=np.float32)

    def capped(xp: Any) -> Modify:
        return lambda s, b, h, i, j: cap * xp.tanh(s / cap)

    def falling(xp: Any) -> Modify:
        own = xp.asarray(slopes)
        return lambda s, b, h, i, j: s - own[h] * (i - j)

    def bucketed(xp: Any) -> Modify:
        own = xp.asarray(buckets)
        return lambda s, b, h, i, j: s + own[h, t5_bucket(xp, j - i)]

    def by_distance(xp: Any) -> Modify:
        own = xp.asarray(distances)
        return lambda s, b, h, i, j: s + own[h, j - i + shape.q_len - 1]

    return [
        Case("soft cap", soft_cap, shape, operands={"cap": cap}, causal=True, score=capped),
        Case("ALiBi", alibi, shape, operands={"slopes": slopes}, causal=True, score=falling),
        Case("T5 bias", t5, shape, operands={"table": buckets}, score=bucketed, scale=1.0),
        Case("relative table", relative_table, shape, operands={"table": distances}, score=by_distance),
    ]


def t5_bucket(xp: Any, relative: Any, buckets: int = 32, max_distance: int = 128) -> Any:
    """T5's bucket of key minus query, in both directions, in the operations of NumPy or PyTorch."""
    from attnc.variants.t5 import logarithmic_starts

    half = buckets // 2
    exact = half // 2
    distance = xp.abs(relative)
    found = (relative > 0) * half + xp.clip(distance, 0, exact)
    for start in logarithmic_starts(exact, half - exact, max_distance):
        found = found + (distance >= start) * 1
    return found


@dataclass(frozen=True, slots=True)
class ThreadsRow:
    """All threads against one, beside how PyTorch's sgemm scales on the same machine."""

    case: Case

    @property
    def name(self) -> str:
        """What `--only` selects."""
        return "threads"

    def measure(self, settings: Settings) -> Row:
        """Both with one thread and with all."""
        inputs, torch, count = self.case.inputs(), torch_or_none(), settings.threads
        calls: dict[str, Callable[[], Any]] = {OURS: partial(self.case.variant, *inputs)}
        missing = {}
        if torch:
            calls["sgemm"] = sgemm(settings.quick)
        else:
            missing = {f"sgemm, {n}": "not installed: torch, and NumPy's threads cannot be set" for n in ("one", "all")}
        measures = {
            f"{name}, {label}": timed(call, before=set_threads(n))
            for name, call in calls.items() for label, n in (("one", 1), ("all", count))
        }  # fmt: skip
        with same_threads(count):
            times = alternate(measures, settings, missing)
        # The aim is stated for two whole cores; sgemm beside it says whether the machine gives them.
        figures = [
            times.figure(
                f"{OURS}: 1 thread / {count}", f"{OURS}, one", f"{OURS}, all", aim=1.8 if count == 2 else None
            ),
            times.figure(f"sgemm: 1 thread / {count}", "sgemm, one", "sgemm, all"),
        ]
        return Row(self.name, f"{self.case.shape} {self.case.dtype}", tuple(figures), times.seconds)


@dataclass(frozen=True, slots=True)
class DecodeRow(AttentionRow):
    """A case bound by memory, beside PyTorch's sum over an array as large as K and V."""

    def measure(self, settings: Settings) -> Row:
        """The comparison, and the share of the memory's bandwidth."""
        found = AttentionRow.prepare(self, settings)
        size, torch = sum(x.nbytes for x in found.inputs[1:]), torch_or_none()
        if torch:
            numbers = torch.ones(size // 4)
            found.measures["sum"] = timed(numbers.sum)
        else:
            found.missing["sum"] = "not installed: torch"
        times = found.times(settings)
        bandwidth = [
            times.figure("bandwidth", "", OURS, factor=size / 1e9, unit="GB/s"),
            times.figure("sum over as many bytes / attnc", "sum", OURS, aim=0.85 if self.name == "decode" else None),
        ]
        return AttentionRow.row(self, found, times, [*AttentionRow.figures(self, times), *bandwidth])


@dataclass(frozen=True, slots=True)
class Limited:
    """A row of the suite `cpu` in a process of its own that is limited to AVX2: attnc, PyTorch and MKL."""

    row: Spec

    @property
    def name(self) -> str:
        """The row's."""
        return f"avx2 {self.row.name}"

    def measure(self, settings: Settings) -> Row:
        """The row as that process measured it. UnsupportedError where this machine has no AVX2."""
        from attnc.schedule.target import NEEDED, instruction_set

        if instruction_set() not in tuple(NEEDED)[:2]:
            raise UnsupportedError("bench avx2", cause="this processor has no AVX2", cure="bench cpu")
        wanted = replace(settings, peers=tuple(x for x in settings.peers if x != "flex"))
        found = python(["-m", "attnc.bench.one", "cpu", self.row.name, *_arguments(wanted)], LIMITS)
        return replace(Row.from_json(found), name=self.name)


def _arguments(settings: Settings) -> Sequence[str]:
    return (json.dumps(asdict(settings)),)
