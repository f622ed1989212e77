"""What the assembler says of a kernel: registers, spills, memory, warnings. Kept beside the machine code."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
STACK = re.compile(r"(\d+) bytes cumulative stack size")
SHARED = re.compile(r"(\d+) bytes smem")
# C75xx: advice about code that will be slow, such as wgmma instructions that wait for each other.
WARNING = re.compile(r"warning|\(C\d+\)|Potential Performance Loss", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Report:
    """Of one kernel. registers: per thread. All others are bytes, but for warnings, seconds and versions.

    spill_stores, spill_loads: in the code, per thread. stack: local memory per thread, which holds the spilled
    registers and every array that did not become registers. shared: static. front, link: seconds of Numba and NVVM,
    and of nvJitLink. versions: of the packages that compiled it.
    """

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    constant: int
    warnings: tuple[str, ...]
    front: float
    link: float
    versions: Mapping[str, str]

    @property
    def spills(self) -> bool:
        """Whether registers, or arrays that were meant to be registers, went to memory."""
        return bool(self.spilled or self.stack)

    @property
    def spilled(self) -> int:
        """Bytes of code that save registers in memory and read them back: what a smaller tile makes less."""
        return self.spill_stores + self.spill_loads

    def __str__(self) -> str:
        """One line for a plan."""
        parts = [f"{self.registers} registers"]
        if self.spilled:
            parts.append(f"{self.spill_stores} + {self.spill_loads} bytes of spill stores and loads")
        parts.append(f"{self.stack} bytes of stack" if self.stack else "no spills")
        if self.shared:
            parts.append(f"{self.shared} bytes of static shared memory")
        return ", ".join([*parts, *self.warnings])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"warnings": list(self.warnings), "versions": dict(self.versions)}

    @staticmethod
    def from_json(data: Any) -> Report:
        """What `to_json` gave. ValueError where `data` is something else."""
        names = [field.name for field in fields(Report)]
        if not isinstance(data, dict) or set(data) != set(names):
            raise ValueError("not a report of a CUDA kernel")
        return Report(**(data | {"warnings": tuple(data["warnings"])}))


def read(log: str, code: bytes, front: float, link: float, versions: Mapping[str, str]) -> Report:
    """The report of a cubin with one kernel, from nvJitLink's verbose log and the cubin itself.

    An AssertionError shows a log that does not say what it should: no spill may be overlooked.
    """
    frames, used = FRAME.findall(log), USED.findall(log)
    assert frames and len(used) == 1, f"internal error: nvJitLink's log has no report of one kernel:\n{log}"
    stack = STACK.search(log)
    shared = SHARED.search(log)
    return Report(
        registers=int(used[0]),
        spill_stores=sum(int(stores) for _, stores, _ in frames),
        spill_loads=sum(int(loads) for *_, loads in frames),
        stack=int(stack[1]) if stack else max(int(frame) for frame, *_ in frames),
        shared=int(shared[1]) if shared else 0,
        constant=sum(size for name, size in sections(code).items() if name.startswith(".nv.constant")),
        warnings=tuple(dict.fromkeys(line.strip() for line in log.splitlines() if WARNING.search(line))),
        front=round(front, 3),
        link=round(link, 3),
        versions=versions,
    )


def sections(code: bytes) -> dict[str, int]:
    """The sizes of an ELF file's sections. ValueError where `code` is something else.

    The log leaves out constant memory for sm_90 and later; the machine code always has it.
    """
    if code[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        (table,) = struct.unpack_from("<Q", code, 40)
        size, count, names = struct.unpack_from("<HHH", code, 58)
        # Of each section header: its name's place among the names, file offset, and length.
        headers = [struct.unpack_from("<I20xQQ", code, table + n * size) for n in range(count)]
        starts = [headers[names][1] + name for name, *_ in headers]
        return {
            code[start : code.index(b"\0", start)].decode(): length
            for start, (_, _, length) in zip(starts, headers, strict=True)
        }
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError("a truncated ELF file") from error
