"""What attnc finds on this machine, and whether it can compile here."""

from __future__ import annotations

import ctypes
import os
import platform
import tempfile
from importlib import metadata, util

import numpy as np

from attnc.errors import AttncError

PACKAGES = ("numpy", "numba", "llvmlite", "networkx", "ml_dtypes", "torch", "cupy", "numba-cuda")
MODULES = {"numba-cuda": "numba_cuda"}
DRIVER = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"


def facts() -> list[tuple[str, str]]:
    """(what, found) for versions, the processor, threads, the cache, and CUDA. Imports neither torch nor cupy."""
    from attnc.backends.cpu.threads import get_num_threads
    from attnc.runtime.cache import Cache
    from attnc.schedule.target import VARIABLE, host

    cache, target = Cache(), host()
    count = sum(1 for _ in cache.entries())
    return [
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((name, version(name)) for name in PACKAGES),
        ("processor", processor()),
        (
            "SIMD",
            f"{target.vector_bytes * 8} bits: {target.vector_bytes // 4} float32, {target.registers} registers{_limit(VARIABLE)}",
        ),
        ("threads", f"{get_num_threads()} of {os.cpu_count()} processors"),
        ("cache", f"{cache.path}: {count} entries, {cache.size / 2**20:.1f} MiB"),
        ("CUDA", _cuda()),
    ]


def trial() -> tuple[bool, str]:
    """Compile a tiny variant in an empty cache and verify it: (whether it is right, what to print)."""
    from attnc.variants import causal

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 19, 8), dtype=np.float32) for _ in range(3))
    before = os.environ.get("ATTNC_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="attnc-doctor-") as folder:
        os.environ["ATTNC_CACHE_DIR"] = folder
        try:
            found = causal.verify(q, k, v)
        except AttncError as error:
            return False, f"the trial failed: {error}"
        finally:
            if before is None:
                del os.environ["ATTNC_CACHE_DIR"]
            else:
                os.environ["ATTNC_CACHE_DIR"] = before
    return found.ok, f"compiled and verified: {found}"


def _limit(variable: str) -> str:
    return f" ({variable}={os.environ[variable]})" if os.environ.get(variable) else ""


def version(package: str) -> str:
    """Of an installed package, found without importing it."""
    if util.find_spec(MODULES.get(package, package)) is None:
        return "not installed"
    for name in (package, f"{package}-cuda13x", f"{package}-cuda12x"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "installed, version unknown"


def processor() -> str:
    """Its name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _cuda() -> str:
    """The driver's version and devices, asked of the driver itself."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return "no driver"
    version, count = ctypes.c_int(), ctypes.c_int()
    if (
        driver.cuInit(0)
        or driver.cuDriverGetVersion(ctypes.byref(version))
        or driver.cuDeviceGetCount(ctypes.byref(count))
    ):
        return "a driver that does not start"
    return f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}, {count.value} devices"
