"""Matrix products for few queries: lanes over features, so that no lane idles and each number of K and V is read once.

With lanes over queries (`microkernel.py`) one query leaves all lanes but one idle. Here a vector holds consecutive features of a
key: scores are sums over lanes, and weights are broadcast. Such calls are bound by memory, and what a processor fetches ahead
it guesses from the order of addresses: so keys are read one after the other, each as a whole. Reading four at a time, the same
arithmetic took twice as long. Where keys lie side by side, those some way on are asked for. Numbers stored as float16 or bfloat16
are widened in registers.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.extending import intrinsic

from attnc.backends.cpu.lanes import I32, Lanes, convert, token
from attnc.backends.cpu.memory import (
    decode,
    first_lanes,
    masked_load,
    memory_type_of,
    prefetch,
    storage_format,
    typed_pointer,
)
from attnc.backends.cpu.pieces import function
from attnc.backends.cpu.room import LINE
from attnc.backends.cpu.vector import LLVM_TYPES, Vec
from attnc.schedule.cpu_form import most
from attnc.schedule.target import host

I64 = ir.IntType(64)
CHUNK = 32  # terms of a score that a lane sums one by one (see `microkernel.CHUNK`)
BLOCK = 8  # keys whose values all queries add before the next: so few that the processor looks beyond them into memory
AHEAD = 4096  # bytes: keys that lie about so far behind the present one are asked for
SPARE = 6  # registers that do not hold queries, nor scores
PAIR = 2  # queries that add values at once: as many as let a whole key's features stay in registers

DOT = ("keys", "k", "k_row", "q", "q_row", "c")
ACC = ("queries", "keys", "v", "v_row", "w", "acc", "acc_row", "alpha")


def _int(value: int) -> Any:
    return ir.Constant(I64, value)


class Few:
    """A product for `queries` queries and vectors of `n` features, which the storage token `stored` says how to read."""

    def __init__(self, kind: Vec, stored: Any, queries: int, n: int) -> None:
        self.kind, self.queries, self.n = kind, queries, n
        self.form, self.stored = storage_format(stored), token(stored).dtype_name
        self.width, self.size = kind.width, kind.dtype.bitwidth // 8
        self.row = most(self.width) * self.size  # bytes of the scores, or weights, of a key

    @property
    def vectors(self) -> int:
        """Vectors of features; the last one may be filled in part."""
        return -(-self.n // self.width)

    def call(
        self, b: Any, name: str, operands: Sequence[str], emit: Callable[..., None], values: Sequence[Any]
    ) -> None:
        """A call of the function with this body."""
        b.call(function(b.module, Body(self, name, operands, emit)), values)

    def stored_vector(self, g: Lanes, row: Any, number: int) -> Any:
        """Vector `number` of the features at `row`; what is behind the last feature is 0, and its memory not touched."""
        memory = memory_type_of(self.form[0], self.width)
        place = typed_pointer(g.b, g.b.add(row, _int(number * self.width * self.form[1])), memory)
        rest = self.n - number * self.width
        if rest < self.width:
            raw = masked_load(g.b, place, first_lanes(g.b, _int(rest), self.width), memory, self.form[1])
        else:
            raw = g.b.load(place, align=self.form[1])
        return decode(g.b, raw, self.form, self.kind.dtype, self.width)

    def ask(self, b: Any, row: Any, step: Any, vectors: range) -> None:
        """Asks for these vectors of features of a key about AHEAD behind the one at `row`, where keys lie side by side."""
        size, whole = self.width * self.form[1], self.n * self.form[1]
        with b.if_then(b.icmp_signed("==", step, _int(whole))):
            for offset in range(vectors.start * size, min(vectors.stop * size, whole), LINE):
                prefetch(b, b.add(row, _int(-(-AHEAD // whole) * whole + offset)))

    def at(self, g: Lanes, address: Any, vector: int = 0) -> Any:
        """A pointer to a vector of the arithmetic."""
        return g.b.inttoptr(g.b.add(address, _int(vector * self.width * self.size)), g.type.as_pointer())

    def splat(self, g: Lanes, address: Any) -> Any:
        """The number at an address, in all lanes."""
        scalar = LLVM_TYPES[self.kind.dtype].as_pointer()
        return g.splat(g.b.load(g.b.inttoptr(address, scalar), align=self.size))


class Body:
    """One of the functions for few queries, which all kernels share: see `attnc.backends.cpu.pieces`."""

    def __init__(self, few: Few, name: str, operands: Sequence[str], emit: Callable[..., None]) -> None:
        self.few, self.names, self.emit = few, operands, emit
        self.family = f"attnc.few.{name}.{few.kind}.{few.stored}.{few.n}"
        self.name = f"{self.family}.{few.queries}"
        self.operands = len(operands)

    def build(self, found: Any) -> None:
        """Fill in the LLVM function."""
        b = ir.IRBuilder(found.append_basic_block())
        operands = dict(zip(self.names, found.args, strict=True))
        self.emit(self.few, Lanes(b, self.few.kind.dtype, self.few.width), operands)
        b.ret_void()


def _dot(few: Few, g: Lanes, at: dict[str, Any]) -> None:
    """c[key][x] for all rows x, among which the queries repeat; key after key."""
    b, pitch = g.b, _int(few.row)
    first = ir.Constant(ir.VectorType(I32, most(few.width)), list(range(most(few.width))))
    queries = [b.add(at["q"], b.mul(at["q_row"], _int(x))) for x in range(few.queries)]
    places = [(f, x) for f in range(few.vectors) for x in range(few.queries)]
    kept = {}
    for f, x in places[: host().registers - few.queries - SPARE]:
        kept[f, x] = b.load(few.at(g, queries[x], f), align=few.size)
    with cgutils.for_range(b, at["keys"], intp=I64) as loop:
        row = b.add(at["k"], b.mul(loop.index, at["k_row"]))
        few.ask(b, row, at["k_row"], range(few.vectors))
        total: list[Any] = []
        for start in range(0, few.vectors, CHUNK):
            cells = [g.const(0)] * few.queries
            for f in range(start, min(start + CHUNK, few.vectors)):
                key = few.stored_vector(g, row, f)
                loads = [kept.get((f, x)) or b.load(few.at(g, q, f), align=few.size) for x, q in enumerate(queries)]
                cells = [g.fma(key, query, cell) for query, cell in zip(loads, cells, strict=True)]
            total = [g.fadd(x, y) for x, y in zip(total, cells, strict=True)] if total else cells
        place = typed_pointer(
            b, b.add(at["c"], b.mul(loop.index, pitch)), ir.VectorType(g.type.element, most(few.width))
        )
        b.store(b.shuffle_vector(_summed(g, total), g.const(0), first), place, align=few.size)


def _summed(g: Lanes, vectors: Sequence[Any]) -> Any:
    """Lane x = the sum over the lanes of vector x % m, for m vectors, a power of two.

    In log2(width) stages two vectors become one, or one is added to itself: one half of each 128-bit register to the other,
    then one of each two such registers to the other. Those shuffles are single instructions.
    """
    width, unit = g.width or 1, 1
    register = min(128 // g.bits, width)
    while unit < width:
        if unit < register:
            half = register // 2
            starts = [group + x for group in range(0, width, register) for x in range(0, half, unit)]
            low = [start + other + x for start in starts for other in (0, width) for x in range(unit)]
            high = [x + half for x in low]
        else:
            groups = range(0, width, 2 * register)
            low = [other + group + x for other in (0, width) for group in groups for x in range(register)]
            high = [x + register for x in low]
        masks = [ir.Constant(ir.VectorType(I32, width), lanes) for lanes in (low, high)]
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        vectors = [g.fadd(*(g.b.shuffle_vector(x, y, mask) for mask in masks)) for x, y in pairs]
        unit *= 2
    return vectors[0]


def _acc(few: Few, mode: str, masked: bool, g: Lanes, at: dict[str, Any]) -> None:
    """acc[x][f] (+=, or alpha[x] * acc[x][f] +) sum over the keys of w[key][x] * v[key][f].

    BLOCK keys for all queries, then the next: for the first queries their values come from memory, for the others from the cache.
    """
    b = g.b
    step = max(1, (host().registers // 2) // few.queries)
    with cgutils.for_range_slice(b, _int(0), at["keys"], _int(BLOCK), intp=I64) as (first, _):
        rest = b.sub(at["keys"], first)
        block = {
            "keys": b.select(b.icmp_signed("<", rest, _int(BLOCK)), rest, _int(BLOCK)),
            "v": b.add(at["v"], b.mul(first, at["v_row"])),
            "first": b.icmp_signed("==", first, _int(0)),
        }
        weights = b.add(at["w"], b.mul(first, _int(few.row)))
        with cgutils.for_range_slice(b, _int(0), at["queries"], _int(few.queries), intp=I64) as (x, _):
            shift = b.mul(x, _int(few.size))
            own = {
                "w": b.add(weights, shift),
                "alpha": b.add(at["alpha"], shift),
                "acc": b.add(at["acc"], b.mul(x, at["acc_row"])),
            }
            for start in range(0, few.vectors, step):
                vectors = range(start, min(start + step, few.vectors))
                cells = _sums(few, masked, g, at | block | own, vectors)
                _add(few, mode, g, at | block | own, vectors, cells)


def _sums(few: Few, masked: bool, g: Lanes, at: dict[str, Any], vectors: range) -> list[Any]:
    """The sums over the keys of these vectors of features, for each query: they stay in registers."""
    b, entry = g.b, g.b.block
    body, done = (b.append_basic_block(x) for x in ("keys", "summed"))
    b.branch(body)
    b.position_at_end(body)
    counters = [b.phi(I64) for _ in range(3)]
    cells = [b.phi(g.type) for _ in range(few.queries) for _ in vectors]
    begin = [at["keys"], at["v"], at["w"], *[g.const(0)] * len(cells)]
    left, row, weights = counters
    values = [few.stored_vector(g, row, f) for f in vectors]
    found = []
    for x in range(few.queries):
        weight = few.splat(g, b.add(weights, _int(x * few.size)))
        skipped = b.fcmp_ordered("==", weight, g.const(0)) if masked else None
        for value, cell in zip(values, cells[x * len(vectors) :], strict=False):
            term = g.fma(weight, value, cell)
            found.append(term if skipped is None else b.select(skipped, cell, term))
    few.ask(b, row, at["v_row"], vectors)
    rest = b.sub(left, _int(1))
    behind = [rest, b.add(row, at["v_row"]), b.add(weights, _int(few.row)), *found]
    for phi, start, value in zip([*counters, *cells], begin, behind, strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_signed(">", rest, _int(0)), body, done)
    b.position_at_end(done)
    return found


def _add(few: Few, mode: str, g: Lanes, at: dict[str, Any], vectors: range, cells: Sequence[Any]) -> None:
    """Adds sums over a block of keys to what acc holds: the first one to what the mode says, the others to the earlier ones."""
    b = g.b
    for x in range(few.queries):
        factor = None
        if mode == "scale":
            alpha = few.splat(g, b.add(at["alpha"], _int(x * few.size)))
            factor = b.select(at["first"], alpha, g.const(1))
        row = b.add(at["acc"], b.mul(at["acc_row"], _int(x)))
        for f, cell in zip(vectors, cells[x * len(vectors) :], strict=False):
            old = b.load(few.at(g, row, f), align=few.size)
            b.store(
                g.fadd(old, cell) if factor is None else g.fma(old, factor, cell), few.at(g, row, f), align=few.size
            )


def _kernels(operands: Sequence[Any], counts: Callable[[int], Sequence[int]]) -> list[Few]:
    """The products F, stored, n of which a call takes the first for at least its number of queries."""
    kind, n = token(operands[0]), operands[2]
    if not isinstance(kind, Vec) or kind.dtype not in (types.float32, types.float64):
        raise errors.TypingError(f"products work on SIMD floats, not {kind}")
    if not isinstance(n, types.IntegerLiteral):
        raise errors.TypingError(f"n must be a constant, not {n}")
    return [Few(kind, operands[1], count, int(n.literal_value)) for count in counts(kind.width)]


def _numbers(builder: Any, sig: Any, args: Any) -> list[Any]:
    """All operands behind F, stored and n."""
    return [convert(builder, v, t, types.int64, None) for v, t in zip(args[3:], sig.args[3:], strict=True)]


def _counts(width: int) -> list[int]:
    """2, 4 ... Not 1: it took longer than 2."""
    return [n for n in (2, 4, 8) if n <= most(width)]


@intrinsic(prefer_literal=True)
def few_dot(
    typingctx: Any, F: Any, stored: Any, n: Any, queries: Any, keys: Any, k: Any, k_row: Any, q: Any, q_row: Any, c: Any,
) -> Any:  # fmt: skip
    """c[key][x] = sum over f < n of k[key][f] * q[x % m][f] for all x < `most` of the width of F; m >= queries is 2, 4 or 8.

    q: m rows of whole vectors, zeros behind feature n. c: `most` numbers for each key. Strides are bytes.
    """
    operands = (F, stored, n, queries, keys, k, k_row, q, q_row, c)
    kernels = _kernels(operands, _counts)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count, *values = _numbers(builder, sig, args)
        end = builder.append_basic_block("dots")
        for few in kernels:
            here, other = builder.append_basic_block(f"few{few.queries}"), end
            if few is kernels[-1]:
                builder.branch(here)
            else:
                other = builder.append_basic_block("more")
                builder.cbranch(builder.icmp_signed("<=", count, _int(few.queries)), here, other)
            builder.position_at_end(here)
            few.call(builder, "dot", DOT, _dot, values)
            builder.branch(end)
            builder.position_at_end(other)
        return context.get_dummy_value()

    return types.void(*operands), codegen


def _accumulation(name: str, mode: str, masked: bool) -> Any:
    """The intrinsic NAME(F, stored, n, queries, keys, v, v_row, w, acc, acc_row, alpha); see `_acc`.

    acc: an even number of rows of whole vectors. w: for each key `most` numbers, of which the first are the weights of the queries.
    """

    def emit(few: Few, g: Lanes, at: dict[str, Any]) -> None:
        _acc(few, mode, masked, g, at)

    def product(
        typingctx: Any, F: Any, stored: Any, n: Any, queries: Any, keys: Any, v: Any, v_row: Any, w: Any, acc: Any,
        acc_row: Any, alpha: Any,
    ) -> Any:  # fmt: skip
        operands = (F, stored, n, queries, keys, v, v_row, w, acc, acc_row, alpha)
        (few,) = _kernels(operands, lambda width: [PAIR])

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            few.call(builder, name, ACC, emit, _numbers(builder, sig, args))
            return context.get_dummy_value()

        return types.void(*operands), codegen

    product.__name__ = name
    return intrinsic(prefer_literal=True)(product)


few_add = _accumulation("few_add", "add", False)
few_scale = _accumulation("few_scale", "scale", False)
# Where V may hold NaN or infinity: a weight that is exactly 0 attends to nothing, so its product is left out.
few_add_masked = _accumulation("few_add_masked", "add", True)
few_scale_masked = _accumulation("few_scale_masked", "scale", True)
