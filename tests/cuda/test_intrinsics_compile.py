"""Every name that emitted kernels import compiles without a GPU, to the instruction that it stands for: for sm_80, or sm_90a."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import compiled, disassembler, opcodes, sass, stored, with_imports
from vocabulary_kernels import KERNELS, OF_HOPPER, TENSOR_CORES, UNROLLED

from attnc.backends.cuda import ptx

ROOT = Path(__file__).resolve().parents[2]
numba_cuda = pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
nvdisasm = pytest.mark.skipif(disassembler() is None, reason="nvidia-cuda-nvdisasm is not installed")
ALL = [name for names in ptx.names().values() for name in names]

# What each of these becomes on its target; the others are loads, stores and arithmetic of the same name.
SASS = {
    "tensor cores": (
        "HMMA.16816.F32.BF16", "HMMA.16816.F32 ", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128", "LDGDEPBAR",
        "DEPBAR.LE SB0, 0x1", "BAR.SYNC", "BAR.RED.OR", "LDS.128", "STS.128", "STS.U16", "STG.E.128", "F2FP.BF16",
    ),
    "memory": ("SHFL.BFLY", "VOTE.ANY", "MUFU.EX2", "MUFU.RCP", "LDG.E.128", "LDG.E.S8", "LDG.E.U8", "LDG.E.S16", "STG.E.U16"),
    "floats": ("MUFU.EX2", "MUFU.RSQ", "FMNMX.NAN", "FRND.FLOOR"),
    "copies": (
        "SYNCS.EXCH.64", "SYNCS.ARRIVE.TRANS64 RZ", "SYNCS.ARRIVE.TRANS64.A1T0", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "UTMALDG.4D",
        "UTMASTG.4D", "UTMACMDFLUSH", "ATOMG.E.ADD", "SHFL.IDX", "USETMAXREG.DEALLOC.CTAPOOL 0x18", "USETMAXREG.TRY_ALLOC",
        "BAR.ARV", "BAR.SYNC", "FENCE.VIEW.ASYNC",
    ),
    "matrices": (
        "HGMMA.64x32x16.F32.BF16", "HGMMA.64x32x16.F32 ", "tnspB", "WARPGROUP.ARRIVE", "WARPGROUP.DEPBAR.LE gsb0, 0x0",
    ),
}  # fmt: skip


def target(name: str) -> str:
    return "sm_90a" if name in OF_HOPPER else "sm_80"


def test_the_table_needs_no_compiler() -> None:
    probe = "import sys, attnc.backends.cuda.ptx; print(*[m for m in ('numba', 'llvmlite') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("row", ptx.TABLE, ids=lambda row: row.name)
def test_a_row_uses_each_operand(row: ptx.Instruction) -> None:
    used = {int(n) for n in re.findall(r"\$(\d+)", row.text)}
    assert used | ({0} if row.predicated else set()) == set(range(len(row.results + row.operands)))
    assert set(row.results + row.operands) <= set("rlfdhpn")
    assert row.predicated == row.name.endswith("_if") == (row.operands[:1] == "p" and not row.results)


def test_only_kernels_of_hopper_use_its_rows() -> None:
    rows = {row.name for row in ptx.HOPPER} | {"wgmma_ss", "wgmma_rs"}
    assert {n for n, body in KERNELS.items() if rows & set(re.findall(r"\b[a-z]\w*", body))} == set(OF_HOPPER)


def test_names_are_unique_and_each_is_compiled_below() -> None:
    assert len(set(ALL)) == len(ALL)
    used = {name for body in KERNELS.values() for name in re.findall(r"\b[a-z]\w*", body)}
    assert set(ALL) <= used, f"no kernel uses {sorted(set(ALL) - used)}"


@numba_cuda
def test_names_are_what_the_modules_have() -> None:
    for module, names in ptx.names().items():
        loaded = importlib.import_module(f"attnc.backends.cuda.{module}")
        assert all(callable(getattr(loaded, name)) for name in names)
        with pytest.raises(AttributeError):
            _ = loaded.no_such_name
    elementwise = importlib.import_module("attnc.backends.cuda.elementwise")
    intrinsic = type(elementwise.add)
    assert {name for name, x in vars(elementwise).items() if isinstance(x, intrinsic)} == set(ptx.ELEMENTWISE)
    summary = importlib.import_module("attnc.backends.cuda.summary")
    imported = {*ptx.ELEMENTWISE, *ptx.names()["intrinsics"]}
    assert {n for n, x in vars(summary).items() if isinstance(x, intrinsic)} - imported == set(ptx.SUMMARY)


@numba_cuda
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile(name: str) -> None:
    text, cubin = compiled(with_imports(KERNELS[name]), target(name))
    assert cubin[:4] == b"\x7fELF"
    assert ".local" not in text or name == "floats", "registers lie in memory"  # sin and cos reduce large angles there
    for row in ptx.TABLE:
        if re.search(rf"\b{row.name}\(", KERNELS[name]):
            missing = [op for op in opcodes(row.text) if not re.search(rf"\b{re.escape(op)}\b", text)]
            assert not missing, f"{row.name}: no {missing}"
    assert not re.search(r"\bcall\b", text), "a device function is not inlined"


@numba_cuda
def test_loops_that_nvvm_would_keep_are_unrolled() -> None:
    text, _ = compiled(with_imports(UNROLLED))
    kept, _ = compiled(with_imports(UNROLLED.replace(" unrolled(", " range(")))
    assert ".local" in kept and ".local" not in text


COUNTED = """
def kernel(p):
    total = 0
    for x in unrolled(5):
        for y in unrolled(3):
            if y == 1:
                continue
            total = 10 * total + x + y
        if x == 2:
            break
    for x in unrolled(0):
        total = 0
    store_l_if(True, p, total)
"""


@numba_cuda
def test_unrolled_loops_count() -> None:
    assert stored(compiled(with_imports(COUNTED))[0]) == [21324]


HELD = """
@device("l")
def first(x):
    hold(x)
    return cast_int(x[0])


def kernel(p, n):
    for_ints, words, floats = registers(1, "r"), registers(3, "l"), registers((1, 2), "d")
    more = registers(2, "l")
    for_ints[0], words[0], floats[0, 1], more[0] = 5, n, as_double(n), 7
    words[1], words[2], more[1] = n + 1, n + 2, n
    hold(for_ints)
    hold(floats)
    store_l_if(True, p, cast_int(for_ints[0]))
    store_l_if(True, p + 8, first(words) + words[2])
    store_l_if(True, p + 16, first(more))
    store_d_if(True, p + 24, floats[0, 1])
"""


@numba_cuda
def test_arrays_of_any_letter_and_size_are_held_and_passed() -> None:
    text, _ = compiled(with_imports(HELD))
    assert ".local" not in text and "call" not in text
    assert len(re.findall(r"// begin inline asm\s+// end inline asm", text)) == 4, (
        "no instruction, and no register moves"
    )


@numba_cuda
@nvdisasm
@pytest.mark.parametrize("name", SASS)
def test_machine_instructions(name: str, tmp_path: Path) -> None:
    code = "\n".join(sass(compiled(with_imports(KERNELS[name]), target(name))[1], tmp_path))
    missing = [op for op in SASS[name] if op not in code]
    assert not missing, code


@numba_cuda
@nvdisasm
def test_predicated_forms_do_not_branch(tmp_path: Path) -> None:
    stores = [row for row in ptx.COMMON if row.predicated]
    values = {"f": "scalar(n)", "d": "as_double(n)", "l": "n", "r": "thread()", "h": "thread()"}
    calls = [
        f"    {row.name}(thread() < n + {k}, p + {16 * k}, {', '.join(values[c] for c in row.operands[2:])})\n"
        for k, row in enumerate(stores)
    ]
    text, cubin = compiled(with_imports("def kernel(p, n):\n" + "".join(calls)))
    assert "bra" not in text
    code = sass(cubin, tmp_path)
    assert not [line for line in code if re.search(r"\bBRA\b|\bBSSY\b|\bCALL\b", line)]
    assert len([line for line in code if re.match(r"(@!?U?P\d+ )?STG", line)]) == len(stores)


@numba_cuda
@nvdisasm
def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    code = "\n".join(sass(compiled(with_imports(TENSOR_CORES), "sm_90")[1], tmp_path))
    assert "HMMA" in code
    assert "LDSM" in code


@numba_cuda
def test_division_by_a_constant_divides_nothing() -> None:
    body = "def kernel(p, n):\n    t = thread()\n    store_l_if(True, p, {} + {} + {} + {})\n"
    constant = body.format("floordiv(n, 7)", "mod(n, 24)", "floordiv(t, 10)", "mod(t, 64)")
    assert not re.search(r"\b(div|rem)\.", compiled(with_imports(constant))[0])
    assert re.search(r"\b(div|rem)\.", compiled(with_imports(body.format("floordiv(n, p)", "0", "0", "0")))[0])


# Expressions of constants, which the compiler must evaluate: what it thinks that they mean. I hides a constant from Numba.
MEANINGS = {
    "add(resize(2147483647, 32), 1)": -(2**31),  # a constant is weak: 32 bits wrap
    "add(resize(2147483647, 32), I(1))": 2**31,
    "add(resize(1, 32), 2147483648)": 2**31 + 1,
    "mul(resize(65536, 32), resize(65536, 32))": 0,
    "add(I(5), lt(1, 2))": 6,
    "floordiv(I(-7), 2)": -4, "mod(I(-7), 2)": 1, "floordiv(I(7), -2)": -4, "mod(I(7), -2)": -1,
    "floordiv(I(-7), I(3))": -3, "mod(I(-7), I(3))": 2, "floordiv(I(-7), 3)": -3, "mod(I(-7), 3)": 2,
    "floordiv(I(5), 0)": 0, "mod(I(5), I(0))": 0, "floordiv(I(-9223372036854775808), I(-1))": -(2**63),
    "mod(I(-9223372036854775808), -1)": 0, "floordiv(resize(I(-9), 32), 4)": -3, "mod(resize(I(-9), 32), 4)": 3,
    "shl(I(3), 2)": 12, "shl(I(3), 64)": 0, "shr(I(-8), 1)": -4, "shr(I(-8), 99)": -1, "shl(I(3), I(-1))": 0,
    "minimum(I(-3), 2)": -3, "maximum(I(-3), resize(2, 32))": 2, "sign(I(-9))": -1, "abs(I(-9))": 9, "neg(I(4))": -4,
    "not_(I(0))": -1, "xor(I(6), 3)": 5, "where(le(I(2), 2), I(4), 5)": 4, "where(True, 8, I(5))": 8,
    "cast_int(-2.5)": -2, "cast_int(cast_float(I(3)))": 3, "cast_int(1e30)": -(2**63), "cast_int(NAN)": -(2**63),
    "cast_int(add(0.5, I(2)))": 2, "cast_int(mul(sub(cast_float(7), 2), 0.5))": 2, "cast_int(sign(neg(4.0)))": -1,
    "where(ne(NAN, 1.0), 1, 2)": 1, "where(eq(NAN, NAN), 1, 2)": 2, "where(lt(NAN, 1.0), 1, 2)": 2,
    "where(ne(sign(NAN), sign(NAN)), 1, 2)": 1, "cast_int(add(-INF, 0.0))": -(2**63),
    "where(xor(lt(False, True), not_(eq(True, False))), 1, 2)": 2, "cast_int(lt(1, 2))": 1, "resize(lt(1, 2), 64)": 1,
    "pow(I(3), 4)": 81, "pow(I(2), -1)": 0, "pow(I(-1), -3)": -1,
}  # fmt: skip


@numba_cuda
def test_meaning_of_constants() -> None:
    expressions = [text.replace("I(", "cast_int(") for text in MEANINGS]
    stores = "".join(f"    store_l_if(True, p + {8 * n}, {text})\n" for n, text in enumerate(expressions))
    found = stored(compiled(with_imports("NAN, INF = float('nan'), float('inf')\n\n\ndef kernel(p):\n" + stores))[0])
    assert dict(zip(MEANINGS, found, strict=True)) == MEANINGS


@numba_cuda
@pytest.mark.parametrize(
    "call",
    [
        "load_f32(scalar(n))", "copy_wait(n)", "for _ in unrolled(n): pass", 'registers((2, n), "f")', 'registers(2, "h")', "resize(n, 16)",
        "resize(scalar(n), 32)", "where(n, 1, 2)", "and_(scalar(n), 1)", "exp(n)", "add(p, q, n)", "vote_any(n)", "thread(n)", "load_f32()",
        "hold(n)", *(f"wgmma_{x}" for x in (
            'ss(n, p, q, 0, "bf16", 0)', 'ss(registers(8, "r"), p, q, 0, "bf16", 0)', 'ss(registers(6, "f"), p, q, 0, "bf16", 0)',
            'ss(registers((2, 66), "f"), p, q, 0, "bf16", 0)', 'ss(registers(8, "f"), p, q, 0, "f32", 0)',
            'ss(registers(8, "f"), p, q, 0, "f16", n)', 'ss(registers(8, "f"), p, 2.0, 0, "f16", 0)',
            'rs(registers(8, "f"), p, 0, q, 0, "f16", 0)', 'rs(registers(8, "f"), registers(6, "r"), 0, q, 0, "f16", 0)',
            'rs(registers(8, "f"), registers(8, "f"), 0, q, 0, "f16", 0)', 'rs(registers(8, "f"), registers(8, "r"), 0.5, q, 0, "f16", 0)',
        )),
    ],
)  # fmt: skip
def test_misuse_does_not_compile(call: str) -> None:
    from numba.core.errors import NumbaError  # of Numba and of numba-cuda

    with pytest.raises(NumbaError):
        compiled(with_imports(f"def kernel(p, q, n):\n    {call}\n"))
