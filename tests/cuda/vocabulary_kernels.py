"""Kernels that between them use every name that emitted kernels may import."""

TENSOR_CORES = """
def kernel(p, q, n):
    at = shared() + (thread() & 31) * 16
    acc = registers((2, 4), "f")
    words = registers(4, "r")
    sums = registers((1, 2), "d")
    counts = registers((2,), "l")
    sums[0, 1], counts[1] = as_double(n), n
    for m in range(2):
        for e in range(4):
            acc[m, e] = 0.0
    copy16(at, p, 16)
    copy16(at + 4096, p + 512, where(n > 3, 16, 0))
    copy_commit()
    copy_wait(1)
    barrier()
    for e in range(4):
        words[e] = 0
    words[0], words[1], words[2], words[3] = ldmatrix(at)
    b0, b1, b2, b3 = ldmatrix_t(at + 64)
    acc[0, 0], acc[0, 1], acc[0, 2], acc[0, 3] = mma_bf16(
        words[0], words[1], words[2], words[3], b0, b1, acc[0, 0], acc[0, 1], acc[0, 2], acc[0, 3]
    )
    acc[1, 0], acc[1, 1], acc[1, 2], acc[1, 3] = mma_f16(
        words[0], words[1], words[2], words[3], b2, b3, acc[1, 0], acc[1, 1], acc[1, 2], acc[1, 3]
    )
    warp_sync()
    store_shared_f(at, acc[0, 0])
    store_shared_r(at + 4, pack_bf16(acc[0, 1], acc[0, 2]))
    store_shared_h(at + 8, pack_f16(acc[0, 3], acc[1, 0]))
    store_shared_4(at + 16, b0, b1, b2, b3)
    some = barrier_or(n > 7)
    x0, x1, x2, x3 = load_shared_4(at + 32)
    x0 = where(some, x0, load_shared_r(at))
    y = load_shared_f(at + 12) + low_bf16(x1) + high_bf16(x1) + low_f16(x2) + high_f16(x2) + sums[0, 1]
    z = load_shared_h(at + 14) + counts[1]
    store_r128_if(z > block(), q + blocks() * 16, x0, x3, pack_bf16(y, acc[1, 1]), pack_f16(acc[1, 2], acc[1, 3]))
"""
MEMORY = """
def kernel(p, q, n):
    x = load_f32(p) + load_bf16(p + 2) + load_f16(p + 4) + scalar(n) + fast_ex2(scalar(n)) + fast_rcp(scalar(n))
    x = x + shuffle_f(x, 1)
    k = load_i64(p) + load_i32(p + 8) + load_i16(p + 12) + load_i8(p + 14) + load_u8(p + 15)
    k = k + shuffle_l(k, 16) + shuffle_r(thread(), 2)
    a, b, c, d = load_r128(p + 64)
    y = load_f64(p + 80)
    chosen = vote_any(k > n)
    store_f32_if(chosen, q, x)
    store_h_if(chosen, q + 4, a)
    store_r_if(chosen, q + 8, b)
    store_l_if(chosen, q + 16, k)
    store_d_if(chosen, q + 24, y)
    store_r128_if(chosen, q + 32, a, b, c, d)
"""
FLOATS = """
def kernel(p, q, n):
    x, y = load_f32(p), load_f32(p + 4)
    a = add(exp(x), exp2(y)) + sub(log(x), log2(y)) + mul(log1p(x), tanh(y)) + div(sigmoid(x), erf(y))
    b = sqrt(x) + rsqrt(y) + sin(x) + cos(y) + floor(x) + weight(y, x, -1e38) + weight_fast(x, y) + neg(y) + abs(x) + sign(y)
    c = pow(x, y) + floordiv(x, y) + mod(x, y) + minimum(x, y) + maximum(x, 2) + maximum_fast(x, 0.5) + fma(x, y, 1)
    m = and_(or_(lt(x, y), le(x, 1)), xor(eq(x, 0.0), not_(ne(x, y))))
    store_f32_if(True, q, where(m, a + b, cast_float(cast_int(c)) + cast_float(m)))
"""
INTEGERS = """
def kernel(p, q, n):
    x, t = load_i32(p), thread()
    a = add(t, 1) + sub(t, x) + mul(x, x) + neg(t) + abs(t) + sign(x) + pow(x, n) + pow(t, 3)
    a = a + floordiv(x, n) + mod(t, t) + minimum(x, t) + maximum(t, 5) + where(lt(x, n), x, t) + cast_int(x)
    a = a + and_(x, 7) + or_(t, 8) + xor(x, t) + not_(x) + shl(x, t) + shr(t, x) + resize(x, 32) + resize(t, 64)
    store_l_if(or_(le(x, n), and_(eq(t, x), ne(x, 5))), q, a)
"""
SEARCHES = """
def kernel(p, q, s, n, low, high):
    table, chosen = (p, 1, n, s), thread() == 0
    summarise_int(load_i16, 2, table, 0, 0, 4)
    summarise_float(load_f16, 2, (p, n, n, s), 0, 0, 4)
    store_l_if(chosen, q, least_int(load_i16, 2, table, 0, 0, low, high))
    store_l_if(chosen, q + 8, greatest_int(load_u8, 1, table, 0, 0, low, high))
    store_f32_if(chosen, q + 16, least_float(load_f32, 4, table, 0, 0, low, high))
    store_f32_if(chosen, q + 24, greatest_float(load_f64, 8, table, 0, 0, low, high))
"""
SEARCHES_OF_ROWS = """
def kernel(p, q, s, n, low, high):
    table, chosen = (p, 1, n, s), thread() == 0
    store_l_if(chosen, q, least_int_rows(load_i64, 8, table, 0, 0, n, 1, 5, 8, low, high, low, high))
    store_l_if(chosen, q + 8, greatest_int_rows(load_i32, 4, table, 0, 0, n, 1, 5, 8, low, high, low, high))
    store_f32_if(chosen, q + 16, least_float_rows(load_bf16, 2, table, 0, 0, n, 1, 5, 8, low, high, low, high))
    store_f32_if(chosen, q + 24, greatest_float_rows(load_f16, 2, table, 0, 0, n, 1, 5, 8, low, high, low, high))
"""
DEVICE = """
@device("rf")
def both(k, x):
    return k + 1, x * x


def kernel(p, q, n):
    k, x = both(thread(), load_f32(p))
    store_r_if(k > n, q, k)
    store_f32_if(k > n, q, x)
"""
BOXES = """
def kernel(q, first, last, shift, unit):
    store_l_if(thread() == 0, q, box_last(first, last, shift, (3, unit), 8))
    store_l_if(thread() == 0, q + 8, box_last(first, last, shift, (unit,), 0))
"""
# A body as long as this one's Numba reaches by a longer jump; an exit in the middle; a division too large for NVVM's taste.
UNROLLED = """
def kernel(p, q, n):
    found = registers((8, 2, 8), "l")
    for x in unrolled(8):
        for e in unrolled(2):
            for y in unrolled(8):
                found[x, e, y] = x
    while n > 0:
        for x in unrolled(8):
            if n == 5 * x:
                continue
            for e in unrolled(2):
                for y in unrolled(8):
                    t = floordiv(n + y, found[x, e, y])
                    u = mod(n - y, found[x, e, y])
                    LONG
                    found[x, e, y] = u + found[y, e, x]
        n = n >> 1
    total = 0
    for x in unrolled(8):
        if n + x > 700:
            break
        for e in unrolled(2):
            for y in unrolled(8):
                total = total ^ found[x, e, y]
    store_l_if(thread() == 0, q, total)
""".replace("LONG", "\n                    ".join(f"u = u + (t >> {k}) * n" for k in range(1, 12)))
NONFINITE = """
def kernel(p, q):
    take_out(load_shared_h, 0x7c00, shared(), shared() + 8192, 64, 64, 7, 128)
    take_out(load_shared_r, 0x7f800000, shared(), shared() + 16384, 64, 64, 7, 128)
    x = unbounded(shared() + 8192, thread() & 63, of_quad(p), p)
    store_f32_if(thread() < 64, q + 4 * thread(), x)
"""
COPIES = """
def kernel(p, in_map, out_map, n):
    start, lane = shared(), thread() & 31
    mbar_init_if(thread() == 0, start, 1)
    mbar_fence()
    barrier()
    registers_less(24)
    item = broadcast(atomic_next(lane == 0, p))
    mbar_expect_if(lane == 0, start, 4096)
    tma_load_if(lane == 0, start + 1024, in_map, start, 64, item, n, 2)
    for x in unrolled(2):
        mbar_wait(start, x)
    while item < n:
        mbar_wait(start, item & 1)
        item = item + 1
    mbar_arrive_if(lane == 0, start)
    named_arrive(1, 128)
    named_barrier(2 + (thread() >> 7), 128)
    async_fence()
    tma_store_if(lane == 0, out_map, start + 1024, 0, item, n, 2)
    tma_commit()
    tma_wait_read(1)
    tma_wait(0)
    registers_more(96)
"""
MATRICES = """
def kernel(p, a, b):
    acc = registers((1, 4, 4), "f")
    words = registers((2, 4), "r")
    for x in unrolled(4):
        for e in unrolled(4):
            acc[0, x, e] = 0.0
    for x in unrolled(2):
        for e in unrolled(4):
            words[x, e] = thread() + 4 * x + e
    hold(words)
    hold(acc)
    wgmma_fence()
    for x in unrolled(2):
        wgmma_ss(acc, a + 2 * x, b + 2 * x, x, "bf16", 0)
        wgmma_rs(acc, words, x, b + 64 * x, 1, "f16", 1)
    wgmma_commit()
    wgmma_wait(0)
    hold(acc)
    for x in unrolled(4):
        for e in unrolled(4):
            store_f32_if(True, p + 512 * (4 * x + e) + 4 * thread(), acc[0, x, e])
"""
KERNELS = {
    "tensor cores": TENSOR_CORES, "memory": MEMORY, "floats": FLOATS, "integers": INTEGERS, "searches": SEARCHES,
    "searches of rows": SEARCHES_OF_ROWS, "device": DEVICE, "boxes": BOXES,
    "unrolled": UNROLLED, "nonfinite": NONFINITE, "copies": COPIES, "matrices": MATRICES,
}  # fmt: skip
OF_HOPPER = ("copies", "matrices")
