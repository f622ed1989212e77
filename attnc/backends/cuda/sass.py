"""Reads machine code: the instructions of a cubin, how often each occurs, the main loop, and what comes before what.

For tests and for looking at a kernel. The disassemblers are NVIDIA's, of the packages nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm or of a CUDA toolkit on PATH.
"""

from __future__ import annotations

import collections
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnc.errors import UnsupportedError

LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
PREDICATE = re.compile(r"@!?U?P\w+\s+")
BRANCHES = ("BRA", "BSSY")
STOPS = re.compile(r"(EXIT|BRA)\b(?!\.)")  # without a predicate: what follows is not reached
WIDE = re.compile(r"HGMMA\.64x(\d+)x\S+ R(\d+)")  # its result is the first of half as many registers as columns
TENSOR = ("HMMA", "HGMMA")  # of mma.sync and of wgmma


@dataclass(frozen=True, slots=True)
class Instruction:
    """`text`: as disassembled, with its predicate. `address`: bytes from the kernel's start."""

    address: int
    text: str

    @property
    def name(self) -> str:
        """With its modifiers, without the predicate: HMMA.16816.F32.BF16."""
        return PREDICATE.sub("", self.text).split()[0]

    @property
    def opcode(self) -> str:
        """The name's first part: HMMA."""
        return self.name.split(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch goes, or where threads that part now meet again; None for other instructions."""
        found = re.search(r"\b0x([0-9a-f]+)$", self.text) if self.opcode in BRANCHES else None
        return int(found[1], 16) if found else None

    def matches(self, pattern: str) -> bool:
        """Whether the name begins with `pattern` and a dot, or is `pattern`: "LDGDEPBAR", "BAR.SYNC"."""
        return f"{self.name}.".startswith(f"{pattern}.")


def disassemble(code: bytes) -> tuple[Instruction, ...]:
    """The instructions of a cubin with one kernel. UnsupportedError where a disassembler is missing."""
    lines = _cuobjdump(code, "-sass").splitlines()
    found = [match for line in lines if (match := LINE.match(line))]
    assert found, "internal error: the cubin has no instructions"
    return tuple(Instruction(int(match[1], 16), match[2]) for match in found)


def resources(code: bytes) -> dict[str, int]:
    """What the cubin's own headers say: REG, STACK, SHARED, LOCAL, CONSTANT[0] ..., in registers and bytes."""
    text = _cuobjdump(code, "-res-usage")
    return {name: int(number) for name, number in re.findall(r"([A-Z]+(?:\[\d\])?):(\d+)", text.split("Function")[-1])}


def histogram(instructions: Iterable[Instruction]) -> collections.Counter[str]:
    """How often each opcode occurs."""
    return collections.Counter(instruction.opcode for instruction in instructions)


def main_loop(instructions: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """The innermost loop with the most tensor-core instructions, from its first instruction to its last branch back.

    Empty where no loop has any. A loop that only holds loops, such as the one over work items, is not innermost.
    """
    ends: dict[int, int] = {}  # of a loop by its start; a loop may branch back at several places
    for x in instructions:
        if x.target is not None and x.target <= x.address:
            ends[x.target] = max(x.address, ends.get(x.target, 0))
    bodies = {(start, end): tuple(x for x in instructions if start <= x.address <= end) for start, end in ends.items()}
    work = {span: sum(x.opcode in TENSOR for x in body) for span, body in bodies.items()}
    working = [span for span in work if work[span]]
    inner = [s for s in working if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in working)]
    if not inner:
        return ()
    return bodies[max(inner, key=lambda span: (work[span], span[0] - span[1]))]


def positions(instructions: Sequence[Instruction], pattern: str) -> list[int]:
    """Where in the sequence instructions match `pattern` (`Instruction.matches`)."""
    return [number for number, x in enumerate(instructions) if x.matches(pattern)]


def outline(instructions: Iterable[Instruction], kinds: Mapping[str, str]) -> list[str]:
    """What occurs, in order, neighbours of one kind once. kinds: regular expressions by name; the first that is found counts."""
    found = [next((k for k, pattern in kinds.items() if re.search(pattern, x.text)), None) for x in instructions]
    return [kind for kind, _ in itertools.groupby(kind for kind in found if kind is not None)]


def turned(loop: Sequence[Instruction], pattern: str) -> tuple[Instruction, ...]:
    """A loop's instructions from the first one on in whose text the regular expression is found, once round."""
    start = next(n for n, x in enumerate(loop) if re.search(pattern, x.text))
    return (*loop[start:], *loop[:start])


def reached(instructions: Sequence[Instruction], start: int) -> tuple[Instruction, ...]:
    """The instructions that are executed after the one at this position, in the order of their addresses."""
    places = {x.address: n for n, x in enumerate(instructions)}
    seen, todo = set[int](), [start]
    while todo:
        n = todo.pop()
        if n in seen or n >= len(instructions):
            continue
        seen.add(n)
        x = instructions[n]
        if x.target is not None:
            todo.append(places[x.target])
        if not STOPS.match(x.text):
            todo.append(n + 1)
    return tuple(instructions[n] for n in sorted(seen))


def registers(instructions: Sequence[Instruction]) -> int:
    """One more than the highest register that is named; a 64-bit or wider operand names its first one only, but for wgmma."""
    last = [int(n) for x in instructions for n in re.findall(r"\bR(\d+)\b", x.text)]
    last += [int(m[2]) + int(m[1]) // 2 - 1 for x in instructions if (m := WIDE.search(x.text))]
    return max(last, default=-1) + 1


def in_order(instructions: Sequence[Instruction], *patterns: str) -> bool:
    """Whether instructions matching `patterns` occur one after the other, with anything in between."""
    rest = iter(instructions)
    return all(any(x.matches(pattern) for x in rest) for pattern in patterns)


def folders() -> list[str]:
    """Where to look for the disassemblers: in the installed packages, then in PATH."""
    spec = importlib.util.find_spec("nvidia")  # a namespace that NVIDIA's packages share
    packages = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [str(path) for package in packages for path in sorted(Path(package).glob("cu*/bin"), reverse=True)]
    return [*found, *os.environ.get("PATH", "").split(os.pathsep)]


def _cuobjdump(code: bytes, option: str) -> str:
    path = os.pathsep.join(folders())
    for tool in ("cuobjdump", "nvdisasm"):  # the first calls the second
        if shutil.which(tool, path=path) is None:
            raise UnsupportedError(
                "machine code cannot be read",
                cause=f"{tool} is not installed",
                cure="pip install 'attnc[cuda-build]', or put a CUDA toolkit's bin folder into PATH",
            )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(code)
        command = [shutil.which("cuobjdump", path=path) or "", option, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False)
    assert done.returncode == 0, f"internal error: cuobjdump refuses the cubin: {done.stdout}{done.stderr}"
    return done.stdout
