"""Compiles the source of a kernel for tests, without a GPU: PTX after link-time optimisation, and SASS where installed."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attnc.backends.cuda.compile import _link, _ltoir, _modules
from attnc.backends.cuda.toolchain import toolchain
from attnc.backends.module import execute
from attnc.schedule.cuda_target import named

THREADS = 128
IMPORT = "from attnc.backends.cuda.{} import {}\n"


def with_imports(body: str) -> str:
    """A kernel's source with imports of the names that it uses, by module."""
    from attnc.backends.cuda import ptx

    used = set(re.findall(r"\b[a-z]\w*", body))
    imports = {module: [n for n in names if n in used] for module, names in ptx.names().items()}
    return "".join(IMPORT.format(module, ", ".join(names)) for module, names in imports.items() if names) + body


@functools.cache
def compiled(source: str, target: str = "sm_80") -> tuple[str, bytes]:
    """PTX and cubin of `kernel`, all of whose arguments are int64."""
    chosen, tools = named(target), toolchain()
    function = execute(source, f"<kernel {abs(hash(source))}>")["kernel"]
    code, _ = _ltoir(tools, _modules(tools, function, THREADS, chosen), chosen)
    linker = tools.nvjitlink
    options = [f"-arch={target}", "-lto", "-O3", "-ptx"]
    handle = linker.create(len(options), options)
    try:
        linker.add_data(handle, linker.InputType.LTOIR, code, len(code), "kernel")
        linker.complete(handle)
        text = bytearray(linker.get_linked_ptx_size(handle))
        linker.get_linked_ptx(handle, text)
    finally:
        linker.destroy(handle)
    return text.rstrip(b"\0").decode(), _link(tools, code, chosen)[0]


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
    """The opcodes of a row's PTX, without declarations of registers, labels and predicates."""
    text = re.sub(r"\{[^;{}]*\}", "", re.sub(r"\S+:(?= )", "", text.replace("${:uid}", "")))
    steps = [re.sub(r"^@!?\w+ ", "", step.strip(" {}")) for step in text.split(";")]
    return [step.split()[0] for step in steps if step and not step.startswith(".reg")]


def stored(text: str) -> Sequence[int | None]:
    """What the `st.global.b64` of PTX store, in order; None where it is not known while compiling."""
    known = {name: int(value) for name, value in re.findall(r"mov\.u64\s+(%rd\d+), (-?\d+);", text)}
    return [known.get(name) for name in re.findall(r"st\.global\.b64 \[%rd\d+\], (%rd\d+);", text)]
