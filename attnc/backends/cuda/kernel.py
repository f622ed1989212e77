"""A compiled CUDA kernel: a cubin from the cache or from the compiler, and what a launch must know of it."""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from attnc.backends.block import Layout
from attnc.backends.cuda.compile import ENTRY, Cubin, compile_cubin
from attnc.backends.cuda.report import Report
from attnc.backends.cuda.toolchain import versions
from attnc.runtime.cache import Cache, Entry
from attnc.schedule.cuda_target import CudaTarget

EM_CUDA = 190  # machine of an ELF file
AT_ONCE = 2  # kernels: one in Numba, one in nvJitLink


@dataclass(frozen=True, slots=True)
class Kernel:
    """layout: of its argument words. threads: per block. shared_bytes: dynamic, per block.

    seconds: of compilation, 0 from the cache.
    """

    source: str
    path: Path | None
    layout: Layout
    threads: int
    shared_bytes: int
    target: CudaTarget
    cubin: Cubin
    seconds: float


@functools.cache
def intrinsics() -> str:
    """The contents of everything that emitted code imports and that compiles it: part of every cache key."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for file in sorted(package.rglob("*.py")):  # all of this package, so that none is forgotten
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def build(source: str, layout: Layout, threads: int, shared_bytes: int, target: CudaTarget, cache: Cache) -> Kernel:
    """The kernel of an emitted module: machine code from the cache, or compiled now and stored there.

    UnsupportedError where it must be compiled and cannot be. A kernel from the cache imports no Numba.
    """
    assert shared_bytes <= target.shared_of_block, f"internal error: {shared_bytes} bytes of shared memory"
    key = cache.key([source, intrinsics(), repr(versions()), target.name, str(threads)])
    entry, seconds = cache.get(key), 0.0
    cubin = _load(entry) if entry is not None else None
    if entry is None or cubin is None:
        cubin = compile_cubin(source, str(cache.path / f"{key}.py"), threads, target)
        seconds = cubin.report.front + cubin.report.link  # not the time that another kernel was waited for
        record = {
            "backend": "cuda",
            "target": target.name,
            "threads": threads,
            "shared_bytes": shared_bytes,
            "seconds": round(seconds, 3),
            "resources": cubin.report.to_json(),
        }
        entry = cache.put(key, source, cubin.code, record)
    return Kernel(source, entry.path, layout, threads, shared_bytes, target, cubin, seconds)


def build_all(
    modules: Sequence[tuple[str, int, int]], layout: Layout, target: CudaTarget, cache: Cache
) -> tuple[Kernel, ...]:
    """`build` of several modules: source, threads, bytes of shared memory.

    Numba works on one at a time, and nvJitLink on another meanwhile.
    """

    def made(module: tuple[str, int, int]) -> Kernel:
        source, threads, shared = module
        return build(source, layout, threads, shared, target, cache)

    if len(modules) == 1:
        return (made(modules[0]),)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(made, modules))


def _load(entry: Entry) -> Cubin | None:
    """A cached cubin, or None where it is not one."""
    try:
        (machine,) = struct.unpack_from("<H", entry.code, 18)
        report = Report.from_json(entry.report.get("resources"))
    except (struct.error, ValueError, TypeError):
        return None
    is_cubin = entry.code[:5] == b"\x7fELF\x02" and machine == EM_CUDA
    return Cubin(entry.code, ENTRY, report) if is_cubin else None
