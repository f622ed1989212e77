"""From a tile program to CUDA source: what this backend can do, and the schedule that fits the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attnc.backends.block import Layout
from attnc.backends.cuda.context import SHORT, Types
from attnc.backends.cuda.emit import emit
from attnc.backends.cuda.hopper.shape import shape
from attnc.backends.cuda.hopper.skeleton import PATTERN
from attnc.backends.cuda.source import Source
from attnc.errors import UnsupportedError
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule import short
from attnc.schedule.cuda_target import CudaTarget
from attnc.schedule.mma import CHUNK, Mma, candidates, swizzled
from attnc.schedule.short import PLAIN, Form
from attnc.schedule.wgmma import Wgmma
from attnc.schedule.wgmma import candidates as wgmma_candidates
from attnc.tile.program import Load, Program

HOPPER = (9, 0)  # compute capability
DTYPES = ("bfloat16", "float16", "float32")
LARGEST = 256  # features of q, k and v


def sources(
    program: Program,
    block: Layout,
    types: Types,
    features: Mapping[str, int],
    target: CudaTarget,
    *,
    aligned: bool = True,
    title: str,
    form: Form = PLAIN,
) -> Iterator[tuple[Mma | Wgmma, Source]]:
    """The kernel in each schedule that fits, the fastest first. UnsupportedError names what this backend cannot do.

    aligned: whether rows of q, k and v begin at multiples of 16 bytes and are contiguous. form: what a block takes.
    """
    check(program, types, features)
    found = False
    if not obstacle(program, types.roles, features, target, aligned, form):
        limit = target.shared_of_block
        for wgmma in wgmma_candidates(shape(program, types.roles, features), limit - 2 * PATTERN):
            source = emit(program, block, wgmma, types, features, True, title, form, limit)
            assert source.shared <= limit, f"internal error: {wgmma} takes {source.shared} bytes of shared memory"
            found = True
            yield wgmma, source
    aligned = aligned and all(features[f] * ITEMSIZE[types.roles] % CHUNK == 0 for f in ("d", "e"))
    wide = max(features[f] for f in vectors(program))
    for schedule in short.candidates(form.warps) if form.warps else candidates(wide):
        if not all(_shared_evenly(schedule, features[f], types, aligned) for f in ("d", "e")):
            continue
        source = emit(program, block, schedule, types, features, aligned, title, form)
        if source.shared <= target.shared_of_block:
            found = True
            yield schedule, source
    if not found:
        raise UnsupportedError(
            f"{program.name} on {target.name}",
            cause=f"its tiles do not fit in the {target.shared_of_block} bytes of shared memory of a block",
            cure="use a smaller head dim, fewer attentions in one function, or the CPU",
        )


def obstacle(
    program: Program, roles: str, features: Mapping[str, int], target: CudaTarget, aligned: bool, form: Form
) -> str:
    """Why matrix instructions of four warps and the copy engine do not serve, "" where they do."""
    if target.feature != "a":
        return f"{target.name} has none of Hopper's instructions of its own: sm_90a does"
    if roles not in SHORT:
        return f"they multiply numbers of 16 bits, and q, k and v are {roles}"
    if not aligned or any(features[f] * ITEMSIZE[roles] % CHUNK for f in ("d", "e")):
        return "the copy engine needs rows of whole chunks of 16 bytes, at multiples of 16 bytes"
    if form != PLAIN:
        return "few queries do not fill their tiles of 64 rows"
    if not program.sweeps:
        return "there is no sweep over the keys"
    return ""


def reason(
    program: Program, roles: str, features: Mapping[str, int], target: CudaTarget, aligned: bool, form: Form
) -> str:
    """Why a kernel for Hopper is not one of those that are made for it alone."""
    if target.capability != HOPPER:
        return ""
    found = obstacle(program, roles, features, target, aligned, form)
    return found or "its tiles do not fit in shared memory, or its fragments in registers"


def vectors(program: Program) -> tuple[str, ...]:
    """The feature axes of q, k and v and of what a kernel computes from them."""
    loaded = [s.feature for s in program.statements() if isinstance(s, Load)]
    kept = [s.feature for keys in program.sweeps for s in keys.states if s.feature is not None]
    return tuple(dict.fromkeys(("d", "e", *loaded, *kept)))


def _shared_evenly(schedule: Mma, features: int, types: Types, aligned: bool) -> bool:
    """Whether the threads of a block copy tiles of these feature vectors in whole passes."""
    row = swizzled(1, features, ITEMSIZE[types.roles])
    parts = row.bytes // CHUNK if aligned else row.length // 2
    return all(rows * parts % schedule.threads == 0 for rows in (schedule.rows, schedule.keys))


def check(program: Program, types: Types, features: Mapping[str, int]) -> None:
    """UnsupportedError where the backend has no rule for a program."""
    if types.roles not in DTYPES:
        raise UnsupportedError(
            f"{program.name} in {types.roles} on CUDA",
            cause=f"its kernels compute in float32 on {', '.join(DTYPES)}",
            cure="convert q, k and v, or use the CPU",
        )
    for name in vectors(program):
        if features[name] > LARGEST:
            raise UnsupportedError(
                f"{'a head dim' if name in 'de' else 'feature vectors'} of {features[name]} on CUDA",
                cause=f"the accumulators of more than {LARGEST} features do not fit in registers",
                cure="use the CPU",
            )
