"""Emitted source to a cubin: Numba makes LLVM IR, NVVM makes LTO-IR of it, nvJitLink makes machine code. No GPU needed.

PTX is never made: nvJitLink optimises LTO-IR as nvcc does, and its own compiler of PTX text drops directives that fast
kernels need.
"""

from __future__ import annotations

import inspect
import time
import warnings
from dataclasses import dataclass
from typing import Any

from attnc.backends.cuda.ptx import MAP
from attnc.backends.cuda.report import Report, read
from attnc.backends.cuda.toolchain import CURE, Toolchain, toolchain, versions
from attnc.backends.module import execute
from attnc.errors import UnsupportedError
from attnc.schedule.cuda_target import THREADS_OF_BLOCK, CudaTarget

ENTRY = "kernel"
OPTIMISE = 3


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code for one architecture: an ELF file whose kernel is the symbol `entry`."""

    code: bytes
    entry: str
    report: Report


def compile_cubin(source: str, path: str, threads: int, target: CudaTarget) -> Cubin:
    """The machine code of function `kernel` of the module `source`, launched with blocks of `threads`.

    path: where `source` is or will be found, for tracebacks. Every argument of `kernel` is an int64 word by value, but one
    whose name ends in `MAP` is the address of 128 bytes by value, aligned to 64.
    UnsupportedError where a package is missing or too old for the target. An AssertionError is a bug of attnc's.
    """
    assert 0 < threads <= THREADS_OF_BLOCK, f"internal error: blocks of {threads} threads"
    tools = toolchain()
    function = execute(source, path)[ENTRY]
    with tools.lock:
        start = time.perf_counter()
        ltoir, notes = _ltoir(tools, _modules(tools, function, threads, target), target)
    linked = time.perf_counter()
    code, log = _link(tools, ltoir, target)  # without the lock: Numba may have the next kernel
    report = read(f"{notes}\n{log}", code, linked - start, time.perf_counter() - linked, versions())
    return Cubin(code, ENTRY, report)


def _modules(tools: Toolchain, function: Any, threads: int, target: CudaTarget) -> list[str]:
    """LLVM IR of the kernel and of all it calls."""
    from attnc.backends.cuda.constants import by_value  # these import Numba
    from attnc.backends.cuda.front import compile_kernel
    from attnc.backends.cuda.unroll import unroll

    names = list(inspect.signature(function).parameters)
    arguments = (tools.types.int64,) * len(names)
    # Features such as the "a" of sm_90a are named to NVVM below; Numba needs the capability alone.
    compiled = compile_kernel(function, arguments, target.capability)
    library = compiled.library
    assert not library._linking_files, f"internal error: the kernel needs {library._linking_files}"
    kernel = library.get_function(compiled.fndesc.llvm_func_name)
    kernel.name = ENTRY  # Numba's name counts the functions compiled so far; equal sources shall give equal bytes
    by_value(kernel, [n for n, name in enumerate(names) if name.endswith(MAP)])
    tools.compiler.kernel_fixup(kernel, False)
    tools.nvvm.set_launch_bounds(kernel, (threads, 1))
    for module in library.modules:
        for each in module.functions:
            unroll(each)
    return list(library.llvm_strs)


def _ltoir(tools: Toolchain, modules: list[str], target: CudaTarget) -> tuple[bytes, str]:
    """LTO-IR of the modules with what they use of libdevice, and NVVM's log."""
    unit = tools.nvvm.CompilationUnit({"opt": OPTIMISE, "arch": target.compute, "gen-lto": None})
    try:
        for text in modules:
            unit.add_module(tools.nvvm.llvm_replace(text).encode())
        unit.verify()
        unit.lazy_add_module(tools.libdevice)  # not verified: libdevice breaks NVVM's own rules
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tools.nvvm.NvvmWarning)  # its text is in the log
            code: bytes = unit.compile()
    except tools.nvvm.nvvmError as error:
        if "INVALID_OPTION" in str(error):
            raise _unknown(target, "NVVM", "nvidia-nvvm") from error
        raise AssertionError(f"internal error: NVVM refuses the kernel: {error}\n{unit.get_log()}") from error
    return code, unit.log


def _link(tools: Toolchain, ltoir: bytes, target: CudaTarget) -> tuple[bytes, str]:
    """Machine code of LTO-IR, and nvJitLink's log with the resources of the kernel."""
    linker = tools.nvjitlink
    options = [f"-arch={target.name}", "-lto", f"-O{OPTIMISE}", "-verbose"]
    try:
        handle = linker.create(len(options), options)
    except linker.nvJitLinkError as error:
        raise _unknown(target, "nvJitLink", "nvidia-nvjitlink") from error
    try:
        linker.add_data(handle, linker.InputType.LTOIR, ltoir, len(ltoir), ENTRY)
        linker.complete(handle)
        code = bytearray(linker.get_linked_cubin_size(handle))
        linker.get_linked_cubin(handle, code)
        return bytes(code), _text(linker.get_info_log_size, linker.get_info_log, handle)
    except linker.nvJitLinkError as error:
        log = _text(linker.get_error_log_size, linker.get_error_log, handle)
        raise AssertionError(f"internal error: nvJitLink refuses the kernel: {error}\n{log}") from error
    finally:
        linker.destroy(handle)


def _text(size: Any, get: Any, handle: Any) -> str:
    """One of nvJitLink's logs."""
    buffer = bytearray(size(handle))
    if buffer:
        get(handle, buffer)
    return buffer.rstrip(b"\0").decode(errors="replace")


def _unknown(target: CudaTarget, tool: str, package: str) -> UnsupportedError:
    return UnsupportedError(
        f"the installed {tool} does not compile for {target.name}",
        cause=f"it is {package} {versions()[package] or 'of a CUDA toolkit on this system'}",
        cure=CURE,
    )
