"""Emitted source to machine code, and machine code to a callable address; the latter with llvmlite alone.

A kernel is `def entry(args, worker)` on int64, a C function `void entry(int64_t, int64_t)` in the object file. Loading an
object imports no Numba: a warm start costs milliseconds.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import llvmlite
import llvmlite.binding as llvm

from attnc.backends.cpu import objects
from attnc.backends.module import execute
from attnc.schedule.target import features

if TYPE_CHECKING:
    from attnc.backends.cpu.pieces import Piece

    Library = Callable[[Sequence[Piece]], bytes]

READABLE = sys.platform not in ("darwin", "win32")  # object files: they are ELF
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
    versions = f"{_numba()} llvmlite {llvmlite.__version__} LLVM {llvm.llvm_version_info}"
    return f"{versions} {llvm.get_process_triple()} {llvm.get_host_cpu_name()} {features()}"


def _numba() -> str:
    """Numba's version, without importing Numba, nor `importlib.metadata`, which takes 10 ms."""
    spec = importlib.util.find_spec("numba")
    assert spec is not None and spec.origin is not None, "internal error: attnc is installed without Numba"
    return Path(spec.origin).with_name("_version.py").read_text()


def compile_object(source: str, filename: str, entry: str, library: Library | None = None) -> bytes:
    """The object code of function `entry(args: int64, worker: int64) -> None` of the module `source`.

    filename: where `source` is or will be found, for errors. library: compiles the pieces that it calls, or finds them
    compiled. The result holds everything: an object with the C function `entry`, then one for each family of pieces.
    An AssertionError names the line that is no emitted code, or what the objects refer to and cannot find.
    """
    pieces: Any = importlib.import_module("attnc.backends.cpu.pieces")
    translate: Any = importlib.import_module("attnc.backends.cpu.translate")

    module = pieces.Module(entry)
    translate.kernel(module, source, filename, execute(source, filename), entry)
    own, found = _object(module), [(library or compile_pieces)(x) for x in pieces.families(module.pieces)]
    code = objects.join([own, *found])
    check(code, entry)
    return code


def compile_pieces(family: Sequence[Piece]) -> bytes:
    """One object with the functions of these pieces."""
    pieces: Any = importlib.import_module("attnc.backends.cpu.pieces")
    return _object(pieces.library(family))


def provides(code: bytes, names: Collection[str]) -> bool:
    """Whether `code` is an object with these functions."""
    if not READABLE:
        return True
    try:
        return objects.symbols(code)[0].issuperset(names)
    except ValueError:
        return False


def _object(module: Any) -> bytes:
    """A module built with llvmlite, optimised for this processor, as an object file."""
    fastmath: Any = importlib.import_module("numba.core.fastmathpass")
    fastmath.rewrite_module(module, SimpleNamespace(flags=FASTMATH))
    return _emit(str(module))


def _emit(text: str) -> bytes:
    """An LLVM module, optimised for this processor, as an object file."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = target_machine()
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    # Emitted loops go over whole vectors: with -O3 and unrolled once more, kernels take a third longer to compile and are 1% faster
    # (medians of 15 kernels between 0.97 and 1.04, noise included).
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization, options.slp_vectorization, options.loop_unrolling = True, False, False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


def target_machine() -> Any:
    """This processor, as far as ATTNC_CPU_TARGET lets it be used, for code that is loaded at any address of this process."""
    target = llvm.Target.from_default_triple()
    reloc = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features(), opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )


def load_object(code: bytes, symbol: str) -> Loaded:
    """Loads object code and finds its function `symbol`. Imports no Numba; the caller keeps the result alive."""
    parts = check(code, symbol)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for part in parts:
        engine.add_object_file(llvm.ObjectFileRef.from_data(part))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    assert address, f"internal error: the object code has no function {symbol}"
    return Loaded(address, symbol, engine)


def check(code: bytes, symbol: str) -> list[bytes]:
    """The objects in `code`. AssertionError where they refer to a function that neither they nor this process have.

    LLVM's loader would end the process on such a name. Only ELF is read; on macOS and Windows LLVM has the last word.
    """
    parts = objects.split(code)
    if not READABLE:
        return parts
    process, symbols = ctypes.CDLL(None), [objects.symbols(part) for part in parts]
    known = {"_GLOBAL_OFFSET_TABLE_"}.union(*(defined for defined, _ in symbols))  # the loader makes that one
    missing = sorted({name for _, needed in symbols for name in needed - known if not hasattr(process, name)})
    assert not missing, f"internal error: the kernel {symbol} needs {', '.join(missing)}, which is nowhere"
    return parts
