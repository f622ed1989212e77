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
STOPS = re.compile(r"EXIT$|BRA 0x|RET\b")  # without a predicate: what follows is not reached
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
    """The innermost loop with the most tensor-core instructions, in the order of addresses.

    Empty where no loop has any. A loop that only holds loops, such as the one over work items, is not innermost. A branch to an
    earlier address makes a loop only if nothing gets past its start: what is seldom executed lies behind all else and branches back.
    """
    edges, loops = _edges(instructions), dict[int, set[int]]()
    backward = _reversed(edges)
    for n, x in enumerate(instructions):
        head = min(edges[n], default=n + 1) if x.target is not None else n + 1
        if head <= n and n not in _walk(0, edges, head):
            loops.setdefault(head, {head}).update(_walk(n, backward, head))
    work = {head: sum(instructions[n].opcode in TENSOR for n in body) for head, body in loops.items()}
    working = [head for head in work if work[head]]
    inner = [head for head in working if not any(loops[other] < loops[head] for other in working)]
    if not inner:
        return ()
    best = max(inner, key=lambda head: (work[head], -len(loops[head])))
    return tuple(instructions[n] for n in sorted(loops[best]))


def _edges(instructions: Sequence[Instruction]) -> list[list[int]]:
    """Where execution may go on after each instruction; calls return."""
    places = {x.address: n for n, x in enumerate(instructions)}
    edges: list[list[int]] = []
    for n, x in enumerate(instructions):
        after = [n + 1] if n + 1 < len(instructions) and not STOPS.match(x.text) else []
        edges.append(after if x.target is None else [*after, places[x.target]])
    return edges


def _reversed(edges: Sequence[Sequence[int]]) -> list[list[int]]:
    back: list[list[int]] = [[] for _ in edges]
    for n, after in enumerate(edges):
        for m in after:
            back[m].append(n)
    return back


def _walk(start: int, edges: Sequence[Sequence[int]], avoided: int = -1) -> set[int]:
    """What is reached from `start` on, and it, without `avoided`."""
    seen, todo = set[int](), [start]
    while todo:
        n = todo.pop()
        if n not in seen and n != avoided:
            seen.add(n)
            todo += edges[n]
    return seen


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
    return tuple(instructions[n] for n in sorted(_walk(start, _edges(instructions))))


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
