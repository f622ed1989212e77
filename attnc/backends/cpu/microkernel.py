"""Matrix products in registers: the two products of attention, S^T = K Q^T and acc^T = V^T P^T, lanes over queries.

C[r, x] (=, +=, or alpha[x] * C[r, x] +) sum over k < n of A[r, k] * B[k, x]. A is read one scalar at a time and
broadcast, so keys and values are used where they lie, with any strides; B and C are contiguous along x. A tile of
`rows` x `cols` vectors of C stays in registers over the whole sum (Goto and van de Geijn, "Anatomy of high-performance
matrix multiplication", 2008; with no packing, since one operand is always a scalar).

The loops are built here in LLVM, one function per tile shape, which all kernels share (`attnc.backends.cpu.pieces`).
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.extending import intrinsic

from attnc.backends.cpu.lanes import Lanes, convert, token
from attnc.backends.cpu.memory import prefetch
from attnc.backends.cpu.pieces import function as piece
from attnc.backends.cpu.room import LINE
from attnc.backends.cpu.vector import LLVM_TYPES, Vec
from attnc.schedule.schedule import of_vectors

I64 = ir.IntType(64)
# The operands of a tile, all int64: byte addresses, byte strides and the length of the sum.
OPERANDS = ("a", "a_row", "a_k", "b", "b_k", "c", "c_row", "n", "alpha")
UNROLL = 2
# Terms that are summed one by one; longer sums are sums of such sums, whose rounding errors grow more slowly. Scores (mode
# "zero") need that most: exp makes relative errors of their absolute ones. The first chunk costs nothing.
CHUNK = 128
WHOLE_SCORE, SCORE_CHUNK = 64, 32


def _int(value: int) -> Any:
    return ir.Constant(I64, value)


class Tile:
    """One micro-kernel: how many rows and vectors it keeps, how it starts, and which operands are known constants."""

    def __init__(self, kind: Vec, rows: int, cols: int, mode: str, masked: bool, known: dict[str, int]) -> None:
        self.kind = kind
        self.rows = rows
        self.cols = cols
        self.mode = mode
        self.masked = masked
        self.known = known
        self.bytes = kind.dtype.bitwidth // 8

    @property
    def scores(self) -> bool:
        """Whether it begins with nothing: such are the scores, and projections."""
        return self.mode in ("zero", "pairs")

    @property
    def family(self) -> str:
        """See `attnc.backends.cpu.pieces`."""
        fixed = "".join(f".{k}{v}" for k, v in sorted(self.known.items()))
        return f"attnc.gemm.{self.kind}.{self.mode}{'.masked' if self.masked else ''}{fixed}"

    @property
    def name(self) -> str:
        return f"{self.family}.{self.rows}x{self.cols}"

    @property
    def operands(self) -> int:
        return len(OPERANDS)

    def build(self, function: Any) -> None:
        """Fill in the LLVM function."""
        builder = ir.IRBuilder(function.append_basic_block())
        operands = dict(zip(OPERANDS, function.args, strict=True))
        operands |= {k: _int(v) for k, v in self.known.items()}
        self._emit(Lanes(builder, self.kind.dtype, self.kind.width), operands)
        builder.ret_void()

    def _emit(self, g: Lanes, at: dict[str, Any]) -> None:
        """Sums of CHUNK terms in registers, added to C one after the other."""
        b, chunk = g.b, _int(CHUNK)
        if self.scores:
            short = b.icmp_signed("<=", at["n"], _int(WHOLE_SCORE))
            chunk = b.select(short, _int(WHOLE_SCORE), _int(SCORE_CHUNK))
        offsets = [b.mul(at["a_row"], _int(r)) for r in range(self.rows)]
        entry = b.block
        body, done = b.append_basic_block("chunk"), b.append_basic_block("stored")
        b.branch(body)
        b.position_at_end(body)
        left, row_a, row_b = (b.phi(I64) for _ in range(3))
        for phi, name in ((left, "n"), (row_a, "a"), (row_b, "b")):
            phi.add_incoming(at[name], entry)
        first = b.icmp_signed("==", left, at["n"])
        count = b.select(b.icmp_signed("<", left, chunk), left, chunk)
        state = [row_a, row_b, *(g.const(0) for _ in range(self.rows * self.cols))]
        state = self._loop(g, at, offsets, state, b.udiv(count, _int(UNROLL)), UNROLL)
        state = self._loop(g, at, offsets, state, b.urem(count, _int(UNROLL)), 1)
        for n, cell in enumerate(state[2:]):
            self._store(g, at, *divmod(n, self.cols), cell, first)
        rest = b.sub(left, count)
        for phi, value in ((left, rest), (row_a, state[0]), (row_b, state[1])):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed(">", rest, _int(0)), body, done)
        b.position_at_end(done)

    def _store(self, g: Lanes, at: dict[str, Any], r: int, c: int, cell: Any, first: Any) -> None:
        """Adds a chunk's sum to what C holds: the first one to what the mode says, the others to the earlier ones."""
        b = g.b
        column = _int(c * self.bytes * self.kind.width)
        place = b.inttoptr(b.add(at["c"], b.add(b.mul(at["c_row"], _int(r)), column)), g.type.as_pointer())
        old = b.load(place, align=self.bytes)
        if self.scores:
            total = b.select(first, cell, g.fadd(old, cell))
        elif self.mode == "add":
            total = g.fadd(old, cell)
        else:
            factor = b.load(b.inttoptr(b.add(at["alpha"], column), g.type.as_pointer()), align=self.bytes)
            total = g.fma(old, b.select(first, factor, g.const(1)), cell)
        b.store(total, place, align=self.bytes)

    def _loop(
        self, g: Lanes, at: dict[str, Any], offsets: Sequence[Any], state: Sequence[Any], count: Any, steps: int
    ) -> list[Any]:
        """`count` times `steps` terms of the sum; the state is the two addresses, then the cells."""
        b = g.b
        entry = b.block
        head, body, done_block = (b.append_basic_block(x) for x in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        left = b.phi(I64)
        phis = [b.phi(v.type) for v in state]
        left.add_incoming(count, entry)
        for phi, value in zip(phis, state, strict=True):
            phi.add_incoming(value, entry)
        b.cbranch(b.icmp_signed(">", left, _int(0)), body, done_block)
        b.position_at_end(body)
        values: list[Any] = list(phis)
        if self.scores and steps > 1:
            self._prefetch(b, at, values[0])
        for _ in range(steps):
            values = self._step(g, at, offsets, values)
        left.add_incoming(b.sub(left, _int(1)), body)
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, body)
        b.branch(head)
        b.position_at_end(done_block)
        return phis

    def _prefetch(self, b: Any, at: dict[str, Any], a: Any) -> None:
        """Asks for the rows of A after these, as far on as this sum has come; wrong, and harmless, where rows lie apart."""
        next_rows = b.add(at["a"], b.mul(at["a_row"], _int(self.rows)))
        place = b.add(next_rows, b.mul(b.sub(a, at["a"]), _int(self.rows)))
        step = UNROLL * self.rows * self.bytes
        for offset in range(0, step, LINE):
            prefetch(b, b.add(place, _int(offset)))

    def _step(self, g: Lanes, at: dict[str, Any], offsets: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        """One term of the sum: cols vectors of B times rows scalars of A."""
        b = g.b
        a, row_b = state[0], state[1]
        stride = self.bytes * self.kind.width
        vectors = [
            b.load(b.inttoptr(b.add(row_b, _int(c * stride)), g.type.as_pointer()), align=self.bytes)
            for c in range(self.cols)
        ]
        scalar = LLVM_TYPES[self.kind.dtype].as_pointer()
        cells = []
        for r in range(self.rows):
            factor = g.splat(b.load(b.inttoptr(b.add(a, offsets[r]), scalar), align=self.bytes))
            for c, vector in enumerate(vectors):
                cell = state[2 + r * self.cols + c]
                term = g.dot_pairs(factor, vector, cell) if self.mode == "pairs" else g.fma(factor, vector, cell)
                if self.masked:
                    term = b.select(b.fcmp_ordered("==", vector, g.const(0)), cell, term)
                cells.append(term)
        return [b.add(a, at["a_k"]), b.add(row_b, at["b_k"]), *cells]


def _row_shapes(rows: int, m: int | None) -> list[int]:
    """Tile heights that cover m rows (None: any number): full tiles, then powers of two for the rest."""
    halves = [1 << e for e in range(rows.bit_length() - 1, -1, -1) if 1 << e < rows]
    if m is None:
        return [rows, *halves]
    rest, shapes = m % rows, [rows] if m >= rows else []
    for half in halves:
        if rest >= half:
            shapes.append(half)
            rest -= half * (rest // half)
    return shapes


def _cover(g: Lanes, tile: Tile, m: Any, known_m: int | None, at: dict[str, Any]) -> None:
    """Calls of tiles over m rows of A and C: as many of the tallest as fit, then of the next."""
    b = g.b
    a, c, left = at["a"], at["c"], m
    for rows in _row_shapes(tile.rows, known_m):
        shape = Tile(tile.kind, rows, tile.cols, tile.mode, tile.masked, tile.known)
        function = piece(b.module, shape)
        times = b.udiv(left, _int(rows))
        with cgutils.for_range(b, times, intp=I64) as loop:
            step = b.mul(loop.index, _int(rows))
            here = at | {
                "a": b.add(a, b.mul(step, at["a_row"])),
                "c": b.add(c, b.mul(step, at["c_row"])),
            }
            b.call(function, [here[k] for k in OPERANDS])
        done = b.mul(times, _int(rows))
        a = b.add(a, b.mul(done, at["a_row"]))
        c = b.add(c, b.mul(done, at["c_row"]))
        left = b.sub(left, done)


def _columns(
    g: Lanes, tile: Tile, m: Any, known_m: int | None, vectors: Any, known_vectors: int | None, at: Any
) -> None:
    """All columns: groups of tile.cols vectors, then what is left in groups of half as many, and so on."""
    b = g.b
    first, left = _int(0), known_vectors
    for cols in _halves(tile.cols):
        if left is not None:
            if left < cols:
                continue
            left %= cols
        rows, _ = of_vectors((tile.rows, tile.cols), cols)
        shape = Tile(tile.kind, rows, cols, tile.mode, tile.masked, tile.known)
        times = b.udiv(b.sub(vectors, first), _int(cols))
        with cgutils.for_range(b, times, intp=I64) as loop:
            column = b.add(first, b.mul(loop.index, _int(cols)))
            shift = b.mul(column, _int(tile.bytes * tile.kind.width))
            here = at | {k: b.add(at[k], shift) for k in ("b", "c", "alpha")}
            _cover(g, shape, m, known_m, here)
        first = b.add(first, b.mul(times, _int(cols)))


def _halves(count: int) -> list[int]:
    """`count`, half of it, and so on to 1."""
    return [count >> e for e in range(count.bit_length()) if count >> e]


def _literal(name: str, kind: Any) -> int:
    if not isinstance(kind, types.IntegerLiteral):
        raise errors.TypingError(f"gemm: {name} must be a constant, not {kind}")
    return int(kind.literal_value)


def _gemm(name: str, mode: str, masked: bool) -> Any:
    """The intrinsic NAME(F, rows, cols, m, vectors, a, a_row, a_k, b, b_k, c, c_row, n, alpha)."""

    def rule(operands: tuple[Any, ...]) -> Any:
        kind = token(operands[0])
        if not isinstance(kind, Vec) or kind.dtype not in (types.float32, types.float64):
            raise errors.TypingError(f"gemm works on SIMD floats, not {kind}")
        rows, cols = _literal("rows", operands[1]), _literal("cols", operands[2])
        known = {
            k: int(t.literal_value)
            for k, t in zip(("m", "vectors", *OPERANDS), operands[3:], strict=True)
            if isinstance(t, types.IntegerLiteral)
        }
        known_m, known_vectors = known.pop("m", None), known.pop("vectors", None)
        # Addresses are never constants; strides and the sum's length are worth baking in.
        strides = {k: v for k, v in known.items() if k in ("a_row", "a_k", "b_k", "c_row", "n")}
        tile = Tile(kind, rows, cols, mode, masked, strides)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            numbers = [convert(builder, v, t, types.int64, None) for v, t in zip(args[3:], sig.args[3:], strict=True)]
            m, vectors = numbers[:2]
            at = dict(zip(OPERANDS, numbers[2:], strict=True)) | {k: _int(v) for k, v in strides.items()}
            _columns(Lanes(builder, kind.dtype, kind.width), tile, m, known_m, vectors, known_vectors, at)
            return context.get_dummy_value()

        return types.void(*operands), codegen

    def gemm(
        typingctx: Any, F: Any, rows: Any, cols: Any, m: Any, vectors: Any, a: Any, a_row: Any, a_k: Any, b: Any,
        b_k: Any, c: Any, c_row: Any, n: Any, alpha: Any,
    ) -> Any:  # fmt: skip
        return rule((F, rows, cols, m, vectors, a, a_row, a_k, b, b_k, c, c_row, n, alpha))

    gemm.__name__ = name
    return intrinsic(prefer_literal=True)(gemm)


gemm_zero = _gemm("gemm_zero", "zero", False)
gemm_add = _gemm("gemm_add", "add", False)
gemm_scale = _gemm("gemm_scale", "scale", False)
# A and B hold pairs of bfloat16 where the others hold a float32: n counts pairs.
gemm_pairs = _gemm("gemm_pairs", "pairs", False)
# Where A may hold NaN or infinity: a weight B that is exactly 0 attends to nothing, so its product is left out.
gemm_zero_masked = _gemm("gemm_zero_masked", "zero", True)
gemm_add_masked = _gemm("gemm_add_masked", "add", True)
gemm_scale_masked = _gemm("gemm_scale_masked", "scale", True)


@intrinsic
def all_finite(typingctx: Any, F: Any, address: Any, rows: Any, row_bytes: Any, n: Any) -> Any:
    """Whether rows x n numbers of F's lane type, contiguous along n, hold neither NaN nor infinity."""
    kind = token(F)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, count, stride, length = (
            convert(builder, v, t, types.int64, None) for v, t in zip(args[1:], sig.args[1:], strict=True)
        )
        g, one = Lanes(builder, kind.dtype, kind.width), Lanes(builder, kind.dtype, None)
        size = kind.dtype.bitwidth // 8
        # x * 0 is 0 for finite x and NaN otherwise, and NaN stays in a sum.
        total = cgutils.alloca_once_value(builder, g.const(0))
        rest = cgutils.alloca_once_value(builder, one.const(0))
        whole = builder.udiv(length, _int(kind.width))
        with cgutils.for_range(builder, count, intp=I64) as row:
            start = builder.add(base, builder.mul(row.index, stride))
            with cgutils.for_range(builder, whole, intp=I64) as loop:
                place = builder.add(start, builder.mul(loop.index, _int(size * kind.width)))
                x = builder.load(builder.inttoptr(place, g.type.as_pointer()), align=size)
                builder.store(g.fma(x, g.const(0), builder.load(total)), total)
            first = builder.mul(whole, _int(kind.width))
            with cgutils.for_range(builder, builder.sub(length, first), intp=I64) as loop:
                place = builder.add(start, builder.mul(builder.add(first, loop.index), _int(size)))
                x = builder.load(builder.inttoptr(place, one.type.as_pointer()), align=size)
                builder.store(one.fma(x, one.const(0), builder.load(rest)), rest)
        flags = builder.fcmp_ordered("==", builder.load(total), g.const(0))
        lanes_ok = one.function(f"llvm.vector.reduce.and.v{kind.width}i1", ir.IntType(1), [flags])
        return builder.and_(lanes_ok, builder.fcmp_ordered("==", builder.load(rest), one.const(0)))

    return types.boolean(F, address, rows, row_bytes, n), codegen
