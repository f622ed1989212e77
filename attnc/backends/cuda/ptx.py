"""The vocabulary of emitted kernels as plain data: the table of PTX instructions, and every name that a kernel may import.

Nothing here needs a compiler. `intrinsics` makes a Numba function of each row, the emulator has a rule for each name.

Letters say how operands and results are typed: r int32, l int64, f float32, d float64, p boolean, h the low 16 bits of
an int32, n a constant that is written into the instruction. Addresses of shared memory are r, of global memory l.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """A row. In `text`, $0.. are the results and then the operands, in the order of the call.

    memory: reads or writes what others write, so it keeps its place among such. convergent: all threads of a warp execute it
    together. predicated: the first operand, a boolean, decides whether it happens, without a branch.
    """

    name: str
    text: str
    results: str = ""
    operands: str = ""
    memory: bool = False
    convergent: bool = False
    predicated: bool = False


def _mma(dtype: str) -> str:
    return (
        f"mma.sync.aligned.m16n8k16.row.col.f32.{dtype}.{dtype}.f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
    )


def _ldmatrix(name: str, trans: str) -> Instruction:
    text = f"ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{$0, $1, $2, $3}}, [$4];"
    return Instruction(name, text, "rrrr", "r", memory=True, convergent=True)


def _shuffle(name: str, letter: str) -> Instruction:
    return Instruction(name, "shfl.sync.bfly.b32 $0, $1, $2, 0x1f, 0xffffffff;", letter, letter + "r", convergent=True)


def _store(name: str, text: str, values: str) -> Instruction:
    return Instruction(name, text, "", "pl" + values, memory=True, predicated=True)


def _with(registers: str, *steps: str) -> str:
    """Several instructions over registers of their own."""
    return "{ " + " ".join((registers, *steps)) + " }"


_VOTE = _with(
    ".reg .pred a, b;", "setp.ne.b32 a, $1, 0;", "vote.sync.any.pred b, a, 0xffffffff;", "selp.b32 $0, 1, 0, b;"
)
_ANY_OF_BLOCK = _with(".reg .pred a, b;", "setp.ne.b32 a, $1, 0;", "bar.red.or.pred b, 0, a;", "selp.b32 $0, 1, 0, b;")
_SHUFFLE_64 = _with(
    ".reg .b32 a, b;", "mov.b64 {a, b}, $1;", "shfl.sync.bfly.b32 a, a, $2, 0x1f, 0xffffffff;",
    "shfl.sync.bfly.b32 b, b, $2, 0x1f, 0xffffffff;", "mov.b64 $0, {a, b};",
)  # fmt: skip

# try_wait suspends for a while at most, so it is asked again; the labels are the instruction's own.
_MBAR_WAIT = _with(
    ".reg .pred done;", "AGAIN_${:uid}:", "mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;",
    "@!done bra AGAIN_${:uid};",
)  # fmt: skip
_ATOMIC_NEXT = _with(
    ".reg .pred go;", "setp.ne.b32 go, $1, 0;", "mov.b32 $0, 0;", "@go atom.global.add.u32 $0, [$2], 1;"
)
_TMA_LOAD = (
    "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
    "[$1], [$2, {$4, $5, $6, $7}], [$3];"
)
_TMA_STORE = "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [$1, {$3, $4, $5, $6}], [$2];"


def _mbar(name: str, text: str, operands: str) -> Instruction:
    return Instruction(name, text, "", "pr" + operands, memory=True, predicated=True)


def _group(name: str, text: str, operands: str = "") -> Instruction:
    """Executed by all threads of one or more warps together."""
    return Instruction(name, text, "", operands, memory=True, convergent=True)


COMMON: tuple[Instruction, ...] = (
    Instruction("barrier", "bar.sync 0;", memory=True, convergent=True),
    Instruction("barrier_or", _ANY_OF_BLOCK, "p", "p", memory=True, convergent=True),
    Instruction("warp_sync", "bar.warp.sync 0xffffffff;", memory=True, convergent=True),
    # -- tensor cores: 16 x 8 += 16 x 16 @ 16 x 8, and their operands from rows of 8 numbers of 16 bits
    Instruction("mma_bf16", _mma("bf16"), "ffff", "rrrrrrffff", convergent=True),
    Instruction("mma_f16", _mma("f16"), "ffff", "rrrrrrffff", convergent=True),
    _ldmatrix("ldmatrix", ""),
    _ldmatrix("ldmatrix_t", ".trans"),
    # -- asynchronous copies of 16 bytes to shared memory, zeros where the operand `bytes` is 0
    Instruction("copy16", "cp.async.cg.shared.global [$0], [$1], 16, $2;", "", "rlr", memory=True),
    Instruction("copy_commit", "cp.async.commit_group;", memory=True),
    Instruction("copy_wait", "cp.async.wait_group $0;", "", "n", memory=True),  # all but the last n groups have arrived
    # -- between the threads of a warp: x of the thread whose number differs in the bits of the mask
    _shuffle("shuffle_f", "f"),
    _shuffle("shuffle_r", "r"),
    Instruction("shuffle_l", _SHUFFLE_64, "l", "lr", convergent=True),
    Instruction("vote_any", _VOTE, "p", "p", convergent=True),
    # -- shared memory
    Instruction("load_shared_f", "ld.shared.f32 $0, [$1];", "f", "r", memory=True),
    Instruction("load_shared_r", "ld.shared.b32 $0, [$1];", "r", "r", memory=True),
    Instruction("load_shared_h", "ld.shared.u16 $0, [$1];", "r", "r", memory=True),
    Instruction("load_shared_4", "ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];", "rrrr", "r", memory=True),
    Instruction("store_shared_f", "st.shared.f32 [$0], $1;", "", "rf", memory=True),
    Instruction("store_shared_r", "st.shared.b32 [$0], $1;", "", "rr", memory=True),
    Instruction("store_shared_h", "st.shared.b16 [$0], $1;", "", "rh", memory=True),
    Instruction("store_shared_4", "st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "", "rrrrr", memory=True),
    # -- global memory: what no kernel writes while it is read, so the compiler may merge and move these
    Instruction("load_f32", "ld.global.f32 $0, [$1];", "f", "l"),
    Instruction("load_bf16", _with(".reg .b16 z, t;", "mov.b16 z, 0;", "ld.global.b16 t, [$1];", "mov.b32 $0, {z, t};"),
                "f", "l"),
    Instruction("load_f16", _with(".reg .b16 t;", "ld.global.b16 t, [$1];", "cvt.f32.f16 $0, t;"), "f", "l"),
    Instruction("load_i32", "ld.global.s32 $0, [$1];", "l", "l"),
    Instruction("load_i16", "ld.global.s16 $0, [$1];", "l", "l"),
    Instruction("load_i8", "ld.global.s8 $0, [$1];", "l", "l"),
    Instruction("load_u8", "ld.global.u8 $0, [$1];", "l", "l"),
    Instruction("load_r128", "ld.global.v4.b32 {$0, $1, $2, $3}, [$4];", "rrrr", "l"),
    # -- and what one launch may write and read again: the numbers of a summary
    Instruction("load_i64", "ld.global.s64 $0, [$1];", "l", "l", memory=True),
    Instruction("load_f64", "ld.global.f64 $0, [$1];", "d", "l", memory=True),
    _store("store_f32_if", "st.global.f32 [$1], $2;", "f"),
    _store("store_h_if", "st.global.b16 [$1], $2;", "h"),
    _store("store_r_if", "st.global.b32 [$1], $2;", "r"),
    _store("store_r128_if", "st.global.v4.b32 [$1], {$2, $3, $4, $5};", "rrrr"),
    _store("store_l_if", "st.global.b64 [$1], $2;", "l"),
    _store("store_d_if", "st.global.f64 [$1], $2;", "d"),
    # -- two numbers of 16 bits in a register, rounded to nearest, ties to even
    Instruction("pack_bf16", "cvt.rn.bf16x2.f32 $0, $2, $1;", "r", "ff"),
    Instruction("pack_f16", "cvt.rn.f16x2.f32 $0, $2, $1;", "r", "ff"),
    Instruction("low_bf16", "shl.b32 $0, $1, 16;", "f", "r"),
    Instruction("high_bf16", "and.b32 $0, $1, 0xffff0000;", "f", "r"),
    Instruction("low_f16", _with(".reg .b16 a, b;", "mov.b32 {a, b}, $1;", "cvt.f32.f16 $0, a;"), "f", "r"),
    Instruction("high_f16", _with(".reg .b16 a, b;", "mov.b32 {a, b}, $1;", "cvt.f32.f16 $0, b;"), "f", "r"),
    # -- a scalar argument: float64 bits in an int64 word
    Instruction("as_double", "mov.b64 $0, $1;", "d", "l"),
    Instruction("scalar", _with(".reg .f64 t;", "mov.b64 t, $1;", "cvt.rn.f32.f64 $0, t;"), "f", "l"),
    # -- the special function unit, numbers below 2**-126 count as 0: by the PTX ISA 2**x is within 2**-22, 1 / x within 2**-23
    Instruction("fast_ex2", "ex2.approx.ftz.f32 $0, $1;", "f", "f"),
    Instruction("fast_rcp", "rcp.approx.ftz.f32 $0, $1;", "f", "f"),
)  # fmt: skip

HOPPER: tuple[Instruction, ...] = (  # of sm_90a alone
    # -- barriers of 8 bytes in shared memory: a phase ends when so many arrived and all bytes expected have come
    _mbar("mbar_init_if", "mbarrier.init.shared::cta.b64 [$1], $2;", "r"),
    _mbar("mbar_expect_if", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$1], $2;", "r"),  # arrives, and expects bytes
    _mbar("mbar_arrive_if", "mbarrier.arrive.shared::cta.b64 _, [$1];", ""),
    _group("mbar_wait", _MBAR_WAIT, "rr"),  # until the phase of this parity, 0 or 1, has ended
    Instruction("mbar_fence", "fence.mbarrier_init.release.cluster;", memory=True),
    # what threads wrote to shared memory is seen by wgmma and by the copy engine
    Instruction("async_fence", "fence.proxy.async.shared::cta;", memory=True),
    # -- the copy engine: boxes of arrays of rank 4 that a map describes; coordinates (feature, row, head, batch)
    Instruction("tma_load_if", _TMA_LOAD, "", "prlrrrrr", memory=True, predicated=True),  # to, map, barrier, coordinates
    Instruction("tma_store_if", _TMA_STORE, "", "plrrrrr", memory=True, predicated=True),  # map, from, coordinates
    Instruction("tma_commit", "cp.async.bulk.commit_group;", memory=True),
    Instruction("tma_wait_read", "cp.async.bulk.wait_group.read $0;", "", "n", memory=True),  # their shared memory is free
    Instruction("tma_wait", "cp.async.bulk.wait_group $0;", "", "n", memory=True),
    # -- four warps as one: registers are theirs in turn, barriers with numbers 1..15, matrix instructions in groups
    _group("registers_more", "setmaxnreg.inc.sync.aligned.u32 $0;", "n"),
    _group("registers_less", "setmaxnreg.dec.sync.aligned.u32 $0;", "n"),
    _group("named_barrier", "bar.sync $0, $1;", "rr"),  # number, threads
    _group("named_arrive", "bar.arrive $0, $1;", "rr"),
    _group("wgmma_fence", "wgmma.fence.sync.aligned;"),
    _group("wgmma_commit", "wgmma.commit_group.sync.aligned;"),
    _group("wgmma_wait", "wgmma.wait_group.sync.aligned $0;", "n"),  # all but the last n groups are done
    # -- a queue of work: the number at an address, which then grows by one (0 where the predicate is false); and lane 0's number
    Instruction("atomic_next", _ATOMIC_NEXT, "r", "pl", memory=True),
    Instruction("broadcast", "shfl.sync.idx.b32 $0, $1, 0, 0x1f, 0xffffffff;", "r", "r", convergent=True),
)  # fmt: skip

TABLE = COMMON + HOPPER
BY_NAME = {row.name: row for row in TABLE}

# What `intrinsics` adds to the table: the place in the grid, storage, matrix instructions of four warps, and Python functions
# that kernels call.
BUILT = (
    "thread", "block", "blocks", "registers", "shared", "unrolled", "device", "wgmma_ss", "wgmma_rs", "hold",
)  # fmt: skip
MAP = "_map"  # the end of the names of parameters that are no words: descriptions of arrays for the copy engine, of 128 bytes

ELEMENTWISE = (
    "neg", "abs", "sign", "exp", "exp2", "log", "log2", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "sin", "cos",
    "floor", "weight", "weight_fast", "add", "sub", "mul", "div", "pow", "floordiv", "mod", "minimum", "maximum",
    "maximum_fast", "fma", "lt", "le", "eq", "ne", "and_", "or_", "xor", "not_", "shl", "shr", "where", "cast_float",
    "cast_int", "resize",
)  # fmt: skip

SUMMARY = (
    "summarise_int", "least_int", "least_int_rows", "greatest_int", "greatest_int_rows",
    "summarise_float", "least_float", "least_float_rows", "greatest_float", "greatest_float_rows",
)  # fmt: skip


def names() -> dict[str, tuple[str, ...]]:
    """All that emitted code may import, by module of this package."""
    return {
        "boxes": ("box_last",),
        "elementwise": ELEMENTWISE,
        "intrinsics": (*BY_NAME, *BUILT),
        "nonfinite": ("of_quad", "take_out", "unbounded"),
        "summary": SUMMARY,
    }
