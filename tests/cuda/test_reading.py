"""What needs no compiler: the targets, the assembler's log, and reading instructions."""

from __future__ import annotations

import pytest

from attnc.backends.cuda import sass
from attnc.backends.cuda.report import Report, read, sections
from attnc.backends.cuda.sass import Instruction
from attnc.errors import UnsupportedError
from attnc.schedule.cuda_target import TARGETS, named, of_device

CLEAN = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'kernel' for 'sm_80'
ptxas info    : Function properties for kernel
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 175 registers, used 1 barriers, 652 bytes cmem[0]
"""
SPILLED = """ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to a wait
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to a wait
ptxas warning : Registers are spilled
ptxas info    : Function properties for helper
ptxas         .     8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Function properties for kernel
ptxas         .     24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 32 bytes cumulative stack size, 2048 bytes smem, 652 bytes cmem[0]
"""
EMPTY = b"\x7fELF\x02\x01" + bytes(58)  # no section


def test_targets_are_found_by_name_and_by_device() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    assert named("sm_90a").compute == "compute_90a" and named("sm_90a").capability == (9, 0)
    found = {c: of_device(c).name for c in ((8, 0), (8, 6), (8, 8), (8, 9), (9, 0), (10, 3), (12, 1))}
    assert list(found.values()) == ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_103", "sm_121"]
    for name in ("sm_75", "sm_91a", "compute_80", ""):
        with pytest.raises(UnsupportedError, match="name one of sm_80, sm_86"):
            named(name)
    for capability in ((7, 5), (13, 0)):
        with pytest.raises(UnsupportedError, match=rf"compute capability {capability[0]}\.{capability[1]}"):
            of_device(capability)


def test_machine_code_runs_on_later_minor_versions_only() -> None:
    assert named("sm_80").runs_on((8, 9)) and not named("sm_86").runs_on((8, 0)) and not named("sm_80").runs_on((9, 0))
    assert named("sm_100").runs_on((10, 3)) and not named("sm_90a").runs_on((9, 1)) and named("sm_90a").runs_on((9, 0))


def test_resident_blocks_follow_the_occupancy_rules() -> None:
    a100 = named("sm_80")
    assert a100.shared_of_block == 163 * 1024
    assert a100.resident(registers=32, threads=64, shared=0) == 32, "blocks"
    assert a100.resident(registers=32, threads=512, shared=0) == 4, "threads"
    assert a100.resident(registers=255, threads=128, shared=0) == 2, "registers: 4 warps of 8192"
    assert a100.resident(registers=168, threads=128, shared=0) == 3 and a100.resident(169, 128, 0) == 2
    assert a100.resident(registers=32, threads=128, shared=80 * 1024) == 2, "shared memory, with what is reserved"
    assert a100.resident(registers=32, threads=128, shared=81 * 1024) == 2
    assert a100.resident(registers=32, threads=128, shared=82 * 1024) == 1
    assert a100.resident(32, 128, 164 * 1024) == a100.resident(256, 128, 0) == a100.resident(32, 1025, 0) == 0


def test_the_log_of_a_clean_kernel() -> None:
    report = read(CLEAN, EMPTY, 1.23456, 0.5, {"numba": "1"})
    assert report == Report(175, 0, 0, 0, 0, 0, (), 1.235, 0.5, {"numba": "1"})
    assert not report.spills and str(report) == "175 registers, no spills"


def test_the_log_of_a_kernel_that_spills() -> None:
    report = read(SPILLED, EMPTY, 0, 0, {})
    assert (report.registers, report.spill_stores, report.spill_loads, report.stack) == (255, 24, 24, 32)
    assert report.shared == 2048 and report.spills
    assert [line.split()[2] for line in report.warnings] == [":", ":"] and "(C7510)" in report.warnings[0]
    assert "24 + 24 bytes of spill stores and loads, 32 bytes of stack, 2048 bytes of static" in str(report)
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("log", ["", CLEAN + CLEAN, CLEAN.replace("spill", "lost"), CLEAN.replace("Used", "Had")])
def test_a_log_that_does_not_say_it_is_no_clean_report(log: str) -> None:
    with pytest.raises(AssertionError, match="no report of one kernel"):
        read(log, EMPTY, 0, 0, {})


@pytest.mark.parametrize("data", [None, [], {}, {"registers": 1}, read(CLEAN, EMPTY, 0, 0, {}).to_json() | {"x": 1}])
def test_foreign_json_is_no_report(data: object) -> None:
    with pytest.raises(ValueError, match="not a report"):
        Report.from_json(data)


@pytest.mark.parametrize("code", [b"", b"#!/bin/sh\n" * 20, b"\x7fELF\x02\x01" + b"\xff" * 58])
def test_what_is_no_elf_file_has_no_sections(code: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        sections(code)


def listing(*lines: str) -> tuple[Instruction, ...]:
    return tuple(Instruction(16 * number, line) for number, line in enumerate(lines))


def test_names_of_instructions() -> None:
    branch, product = listing("@!UP0 BRA 0x3d0", "@P1 HMMA.16816.F32.BF16 R4, R8, R2, R4")
    assert (branch.opcode, branch.name, branch.target) == ("BRA", "BRA", 0x3D0)
    assert (product.opcode, product.name, product.target) == ("HMMA", "HMMA.16816.F32.BF16", None)
    assert product.matches("HMMA.16816") and product.matches("HMMA") and not product.matches("HM")


NESTED = listing(
    "MOV R1, R2",
    "LDG.E R1, [R2]",  # 0x10: over work items
    "HMMA R1",  # 0x20: full tiles
    "HMMA R1",
    "@P0 BRA 0x20",
    "FADD R1, R1",
    "@P1 BRA 0x20",  # a second way back
    "HMMA R1",  # 0x70: partial tiles
    "@P0 BRA 0x70",
    "BRA 0xb0",
    "NOP",
    "STG.E [R2], R1",  # 0xb0
    "@P0 BRA 0x10",
    "BRA 0xd0",  # 0xd0: the trap after the end
)


def test_the_main_loop_is_innermost_and_has_the_most_tensor_instructions() -> None:
    loop = sass.main_loop(NESTED)
    assert [x.address for x in loop] == [0x20, 0x30, 0x40, 0x50, 0x60]
    assert sass.main_loop(listing(*(x.text.replace("HMMA", "FADD") for x in NESTED))) == ()


# A wait that is seldom in vain goes on behind all else, and comes back.
WAITING = listing(
    "MOV R1, R2",
    "HGMMA.64x32x16.F32 R8, gdesc[UR4], RZ",
    "SYNCS.PHASECHK P0",  # 0x20: over keys
    "@!P0 BRA 0x80",
    "HGMMA.64x16x16.F32 R8, gdesc[UR4], R8",  # 0x40
    "@P1 BRA 0x20",
    "HGMMA.64x16x16.F32 R8, gdesc[UR4], R8",
    "EXIT",
    "SYNCS.PHASECHK P0",  # 0x80
    "@!P0 BRA 0x80",
    "BRA 0x40",
    "MOV R90, R1",
)


def test_a_branch_back_into_a_loop_is_none_of_its_own() -> None:
    assert sass.main_loop(WAITING) == WAITING[2:6] + WAITING[8:11]


def test_what_is_reached_and_its_registers() -> None:
    assert sass.reached(WAITING, 0) == WAITING[:11] and sass.reached(WAITING, 6) == WAITING[6:8]
    assert sass.registers(WAITING[4:8]) == 16 and sass.registers(WAITING[:8]) == 24 and sass.registers(WAITING) == 91
    assert sass.registers(WAITING[7:8]) == 0


def test_outlines_begin_anywhere_in_a_loop() -> None:
    kinds = {"first": r"RZ$", "matrix": "HGMMA", "wait": "SYNCS"}
    assert sass.outline(WAITING, kinds) == ["first", "wait", "matrix", "wait"]
    assert sass.turned(WAITING[2:6], "HGMMA") == WAITING[4:6] + WAITING[2:4]


def test_counts_and_order() -> None:
    assert sass.histogram(NESTED)["HMMA"] == 3 and sass.positions(NESTED, "HMMA") == [2, 3, 7]
    assert sass.in_order(NESTED, "LDG", "HMMA", "HMMA", "HMMA", "STG.E") and sass.in_order(NESTED)
    assert not sass.in_order(NESTED, "STG", "HMMA") and not sass.in_order(NESTED, *["HMMA"] * 4)


def test_a_missing_disassembler_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sass, "folders", lambda: ["/nowhere"])
    with pytest.raises(UnsupportedError, match=r"cuobjdump is not installed(.|\n)*attnc\[cuda-build\]"):
        sass.disassemble(b"")
