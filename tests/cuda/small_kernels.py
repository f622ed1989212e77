"""Small hand-written kernels for the tests of the compiler, with their own PTX: they need no emitter."""

from __future__ import annotations

HEADER = """
from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

i32, i64, f32 = ir.IntType(32), ir.IntType(64), ir.FloatType()


def ptx(builder, text, constraints, result, values):
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), values, attrs=("convergent",))


@intrinsic
def thread(context):
    def generate(context, builder, signature, values):
        return ptx(builder, "mov.u32 $0, %tid.x;", "=r", i32, [])
    return types.int32(), generate


@intrinsic
def load(context, address):
    def generate(context, builder, signature, values):
        return ptx(builder, "ld.global.f32 $0, [$1];", "=f,l,~{memory}", f32, values)
    return types.float32(types.int64), generate


@intrinsic
def load_words(context, address):
    def generate(context, builder, signature, values):
        return ptx(builder, "ld.global.b32 $0, [$1];", "=r,l,~{memory}", i32, values)
    return types.int32(types.int64), generate


@intrinsic
def store(context, address, value):
    def generate(context, builder, signature, values):
        ptx(builder, "st.global.f32 [$0], $1;", "l,f,~{memory}", ir.VoidType(), values)
        return context.get_dummy_value()
    return types.void(types.int64, types.float32), generate


@intrinsic
def mma(context, a, b, c0, c1, c2, c3):
    def generate(context, builder, signature, values):
        a, b, *c = values
        text = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {$0,$1,$2,$3}, {$4,$4,$4,$4}, {$5,$5}, {$6,$7,$8,$9};"
        kind = ir.LiteralStructType([f32] * 4)
        made = ptx(builder, text, "=f,=f,=f,=f,r,r,f,f,f,f", kind, [a, b, *c])
        return context.make_tuple(builder, signature.return_type, [builder.extract_value(made, n) for n in range(4)])
    return types.UniTuple(types.float32, 4)(a, b, c0, c1, c2, c3), generate
"""

# A loop over `steps` with two tensor-core instructions, inside one over `rounds`.
PRODUCT = f'''{HEADER}

def kernel(left, right, out, steps, rounds):
    """out[round, thread] = sums of products of words."""
    lane = 4 * thread()
    for number in range(rounds):
        acc = cuda.local.array(8, types.float32)
        for x in range(8):
            acc[x] = 0.0
        for step in range(steps):
            a, b = load_words(left + 128 * step + lane), load_words(right + 128 * step + lane)
            for x in range(2):
                made = mma(a, b, acc[4 * x], acc[4 * x + 1], acc[4 * x + 2], acc[4 * x + 3])
                for y in range(4):
                    acc[4 * x + y] = made[y]
        total = types.float32(0.0)
        for x in range(8):
            total += acc[x]
        store(out + 512 * number + lane, total)
'''

# 128 numbers live at once: too many for a block of 1024 threads, whose threads have 64 registers.
CROWDED = f"""{HEADER}

def kernel(left, out, steps):
    lane = 4 * thread()
    acc = cuda.local.array(128, types.float32)
    for x in range(128):
        acc[x] = load(left + 4096 * x + lane)
    for step in range(steps):
        scale = load(out + 4 * step)
        for x in range(127):
            acc[x] = acc[x + 1] * scale + acc[x]
    for x in range(128):
        store(out + 4096 * x + lane, acc[x])
"""

# An array indexed by values that are not known lies in local memory: no spill, and as slow as one.
INDEXED = f"""{HEADER}

def kernel(left, out, steps):
    acc = cuda.local.array(64, types.float32)
    for x in range(64):
        acc[x] = load(left + 4 * x)
    for step in range(steps):
        place = load_words(left + 4 * step) & 63
        acc[place] = acc[(place + step) & 63] + load(out + 4 * step)
    for x in range(64):
        store(out + 4 * x, acc[x])
"""

# The math library is linked in, and a static shared array is reported.
MATH = f"""
import math
{HEADER}

def kernel(left, out):
    kept = cuda.shared.array(256, types.float32)
    kept[thread()] = math.exp(load(left + 4 * thread()))
    cuda.syncthreads()
    store(out + 4 * thread(), kept[(thread() + 1) % 256])
"""
