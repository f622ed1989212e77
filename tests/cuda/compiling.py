"""Compiles the source of a kernel for tests, without a GPU: PTX after link-time optimisation, and SASS where installed."""

from __future__ import annotations

import functools
import importlib.metadata
import linecache
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMPORT = "from attnc.backends.cuda.{} import {}\n"


def with_imports(body: str) -> str:
    """A kernel's source with imports of the names that it uses, by module."""
    from attnc.backends.cuda import ptx

    used = set(re.findall(r"\b[a-z]\w*", body))
    imports = {module: [n for n in names if n in used] for module, names in ptx.names().items()}
    return "".join(IMPORT.format(module, ", ".join(names)) for module, names in imports.items() if names) + body


@functools.cache
def compiled(source: str, capability: tuple[int, int] = (8, 0)) -> tuple[str, bytes]:
    """PTX and cubin of `kernel`, all of whose arguments are int64."""
    from numba.cuda import types
    from numba.cuda.compiler import compile_cuda, kernel_fixup

    filename = f"<kernel {abs(hash(source))}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    space: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), space)
    kernel = space["kernel"]
    words = (types.int64,) * kernel.__code__.co_argcount
    result = compile_cuda(kernel, types.void, words, nvvm_options={"opt": 3}, cc=capability, lto=True)
    library = result.library
    library._entry_name = result.fndesc.llvm_func_name
    kernel_fixup(library.get_function(library._entry_name), False)
    return library.get_lto_ptx(cc=capability), library.get_cubin(cc=capability).code


def disassembler() -> Path | None:
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.name == "nvdisasm"), None)


def sass(cubin: bytes, folder: Path) -> list[str]:
    """The instructions, without the padding after the last exit."""
    program = disassembler()
    assert program is not None
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    text = subprocess.run([program, "-c", path], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", text, re.MULTILINE)
    last = max(n for n, line in enumerate(lines) if "EXIT" in line)
    return lines[: last + 1]


def opcodes(text: str) -> list[str]:
    """The opcodes of a row's PTX, declarations of registers aside."""
    steps = [step.strip(" {}") for step in re.sub(r"\{[^;{}]*\}", "", text).split(";")]
    return [step.split()[0] for step in steps if step and not step.startswith(".reg")]


def stored(text: str) -> Sequence[int | None]:
    """What the `st.global.b64` of PTX store, in order; None where it is not known while compiling."""
    known = {name: int(value) for name, value in re.findall(r"mov\.u64\s+(%rd\d+), (-?\d+);", text)}
    return [known.get(name) for name in re.findall(r"st\.global\.b64 \[%rd\d+\], (%rd\d+);", text)]
