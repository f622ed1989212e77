"""Emitted source to machine code with Numba, and machine code to a callable address with llvmlite alone.

A kernel is `def entry(args: int64, worker: int64)`, a C function `void entry(int64_t, int64_t)` in the object file. The
object is made without touching Numba's execution engine, so that the code is generated once, and loading it imports
no Numba: a warm start costs milliseconds.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import platform
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from attnc.backends.cpu import elf
from attnc.backends.module import execute
from attnc.schedule import target

# What belongs to Python or to Numba's runtime: code that needs it is not a plain C function.
FOREIGN = ("Py", "_Py", "NRT_", "numba_", "_numba", ".numba", "nrt_")
# A kernel allocates nothing, so that all reference counts it touches are those of `carray`'s missing owner. Numba's
# optimiser does not remove them all; these definitions do. A kernel that allocates is caught by NRT's allocators.
UNCOUNTED = "".join(
    f"define void @{name}(ptr %owner) {{ ret void }}\n"
    for name in ("NRT_incref", "NRT_decref", "NRT_MemInfo_call_dtor")
)
OPTIMISE = 3  # Numba's own level, of machine code
FASTMATH = ("contract", "reassoc")  # never nnan or ninf: NaN and infinities are part of attnc's semantics


@dataclass(frozen=True, slots=True)
class Loaded:
    """Machine code in memory: `address` of its C function, valid as long as this object lives (`keep`)."""

    address: int
    symbol: str
    keep: object


@functools.cache
def host() -> str:
    """What besides its source decides a kernel's machine code, for cache keys: compiler versions and this processor.

    Imports no Numba.
    """
    versions = f"numba {metadata.version('numba')} llvmlite {llvmlite.__version__} LLVM {llvm.llvm_version_info}"
    return f"{versions} {llvm.get_process_triple()} {llvm.get_host_cpu_name()} {target.features()}"


def compile_object(source: str, filename: str, entry: str, fastmath: Collection[str] = FASTMATH) -> bytes:
    """The relocatable object code of function `entry(args: int64, worker: int64) -> None` of the module `source`.

    filename: where `source` is or will be found, for tracebacks. The function's symbol in the object is `entry`.
    An AssertionError names what an object refers to and cannot find: attnc emitted code that may raise or allocate.
    """
    numba: Any = importlib.import_module("numba")
    ccallback: Any = importlib.import_module("numba.core.ccallback")

    function = execute(source, filename)[entry]
    signature = numba.void(numba.int64, numba.int64)
    options = {"nopython": True, "boundscheck": False, "error_model": "numpy", "fastmath": set(fastmath)}
    compiler = ccallback._CFuncCompiler(
        function, ccallback.registry.cpu_target, options, {}, pipeline_class=ccallback.compiler.Compiler
    )
    with ccallback.global_compiler_lock:
        compiled = compiler.compile(signature.args, signature.return_type)
        library = compiled.library
        wrapper = compiled.fndesc.llvm_cfunc_wrapper_name
        optimise = library._optimize_final_module

        def isolate_and_optimise() -> None:
            _keep_only(library._final_module, wrapper, entry)
            optimise()

        # `finalize` links, optimises, and then hands the module to Numba's engine: this stops before the last step,
        # and tells the optimiser that nothing but `entry` is called from outside (the function then exists once).
        library._optimize_final_module = isolate_and_optimise
        library._finalize_final_module = lambda: None
        with _limited(library.codegen):
            library.finalize()
            code: bytes = library.codegen._tm.emit_object(library._final_module)
    check(code, entry)
    return code


@contextmanager
def _limited(codegen: Any) -> Iterator[None]:
    """Numba's code generator with no more instructions than ATTNC_CPU_TARGET allows; its own again afterwards."""
    if target.features() == llvm.get_host_cpu_features().flatten():
        yield
        return
    before = codegen._tm
    codegen._tm = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=target.features(), opt=OPTIMISE,
        reloc="static" if platform.machine() in ("x86_64", "AMD64") else "default", codemodel="jitdefault", jit=True,
    )  # fmt: skip
    try:
        yield
    finally:
        codegen._tm = before


def load_object(code: bytes, symbol: str) -> Loaded:
    """Loads object code and finds its function `symbol`. Imports no Numba; the caller keeps the result alive."""
    check(code, symbol)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    assert address, f"internal error: the object code has no function {symbol}"
    return Loaded(address, symbol, engine)


def check(code: bytes, symbol: str) -> None:
    """AssertionError where the object refers to a function of Python, of Numba, or to one that this process lacks.

    LLVM's loader would end the process on such a name. Only ELF is read; on macOS and Windows LLVM has the last word.
    """
    if sys.platform in ("darwin", "win32"):
        return
    process = ctypes.CDLL(None)
    missing = [name for name in elf.undefined(code) if name.startswith(FOREIGN) or not hasattr(process, name)]
    missing = [name for name in missing if name != "_GLOBAL_OFFSET_TABLE_"]  # made by the loader
    assert not missing, f"internal error: the kernel {symbol} is not a plain C function; it needs {', '.join(missing)}"


def _keep_only(module: Any, wrapper: str, entry: str) -> None:
    """Renames the C function, and makes everything else private to the object, so that dead copies vanish.

    Numba's own names count the functions compiled so far; without them, equal sources give equal bytes.
    """
    module.link_in(llvm.parse_assembly(UNCOUNTED))
    for number, function in enumerate(module.functions):
        if function.name == wrapper:
            function.name = entry
        elif not function.is_declaration:
            function.linkage = "internal"
            function.name = f"{entry}.{number}"
    for number, variable in enumerate(module.global_variables):
        if not variable.is_declaration:
            variable.linkage = "internal"
            variable.name = f"{entry}.data.{number}"
