"""Emission of the work on one tile of keys: the statements of its class, on the fragments that each thread holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from attnc.backends.cuda import careful, items, products
from attnc.backends.cuda.context import Context
from attnc.backends.cuda.leaves import Spelling, has_power
from attnc.backends.leaves import number
from attnc.backends.spelling import Scope
from attnc.ir.graph import Node, node, topological
from attnc.passes.expand import feature_axes
from attnc.tile.lower import COMBINE, MINUS, row
from attnc.tile.program import Dot, DotAcc, FeatureReduce, Keys, Load, Map, Reduce, RowMap, SetRow, State, Statement

NEUTRAL = {
    "float": {"sum": "0.0", "max": "-INF", "min": "INF"},
    "int": {"sum": "0", "max": "INT_MIN", "min": "INT_MAX"},
}


def anything(x: Node) -> bool:
    """The innermost scope."""
    return True


def spelling(ctx: Context, graph: Node, feature: str = "", *outer: Scope) -> Spelling:
    """A speller of one graph in the block that is being printed."""
    found = Spelling(ctx, [ctx.item, *outer, Scope(ctx.out.place(), anything)], feature)
    found.expect([graph])
    return found


def indices(ctx: Context, graph: Node, asked: str = "hij") -> None:
    """The indices of a thread's element, as far as they are asked for and the graph reads them."""
    read = {x["name"] for x in topological([graph]) if x.op == "index" and x["name"] in asked}
    items.row_indices(ctx, read)
    if "j" in read:
        ctx.out.once("j = resize(now + first_key + 8 * ct + e, 32)")


def as_stored(text: str, kind: str) -> str:
    """A value for an array of registers; booleans are held as 0 and 1."""
    return f"resize(where({text}, 1, 0), 32)" if kind == "bool" else text


def begin_states(ctx: Context, states: Iterable[State]) -> None:
    """Initial values."""
    for s in states:
        initial = number(s.initial)
        if s.feature is None:
            array = ctx.row(s.name, s.kind)
            with ctx.each_row():
                ctx.out.line(f"{array}[rt, hf] = {initial}")
        else:
            array = ctx.accumulator(s.name, s.feature)
            count = ctx.vectors(1, s.feature).length // 8
            with (
                ctx.each_row(),
                ctx.out.block(f"for ft in unrolled({count}):"),
                ctx.out.block("for e in unrolled(2):"),
            ):
                ctx.out.line(f"{array}[rt, ft, 2 * hf + e] = {initial}")


def hidden(statements: Sequence[Statement]) -> tuple[list[Statement], set[str]]:
    """The statements of an edge, where exponents of keys behind the last are -inf; and the pairs that add nothing there by that:
    exponents to a maximum, weights to a sum.
    """
    powers = {s.name: s.graph.operands[0] for s in statements if isinstance(s, Map) and s.graph.op == "weight"}
    exponents = {x["name"] for x in powers.values() if x.op == "value"}
    inside = node("lt", node("index", name="j"), node("extent", name="kv_len"))

    def masked(x: Node) -> Node:
        mask = inside
        if x.op == "where" and x.operands[2] == MINUS:
            mask, x = node("and", inside, x.operands[0]), x.operands[1]
        return node("where", mask, x, MINUS)

    edge = [replace(s, graph=masked(s.graph)) if isinstance(s, Map) and s.name in exponents else s for s in statements]
    return edge, exponents | {name for name, x in powers.items() if x.op == "value"}


class Body:
    """The statements of one sweep's tiles. `edge`: of tiles that are not full, where keys after the last add nothing.

    load: prints vectors of the keys that are computed.
    """

    def __init__(self, ctx: Context, keys: Keys, load: Callable[[Context, Load], None]) -> None:
        self.ctx, self.load = ctx, load
        self.full: Sequence[Statement] = keys.full
        self.edge: Sequence[Statement]
        self.edge, self.hidden = hidden(keys.partial or keys.full)
        self.weights = {s.weights for s in (*self.full, *self.edge) if isinstance(s, DotAcc)}

    def emit(self) -> None:
        """Print the statements; where the two classes differ, under `if full:` and `else:`."""
        if not self.full:
            self._all(self.edge, True)
        elif [type(s) for s in self.full] == [type(s) for s in self.edge]:
            self._together()
        else:
            with self.ctx.out.block("if full:"):
                self._all(self.full, False)
            with self.ctx.out.block("else:"):
                self._all(self.edge, True)

    def _all(self, statements: Sequence[Statement], edge: bool) -> None:
        for s in statements:
            self._statement(s, edge)

    def _together(self) -> None:
        """One statement after the other, those that differ in neighbourhoods of one choice."""
        differ: list[tuple[Statement, Statement]] = []
        for a, b in zip(self.full, self.edge, strict=True):
            if a == b and not self._differs(a):
                self._choice(differ)
                differ = []
                self._statement(a, False)
            else:
                differ.append((a, b))
        self._choice(differ)

    def _differs(self, s: Statement) -> bool:
        """Whether a statement is printed in two forms, for full tiles and for others."""
        if isinstance(s, Reduce):
            return not self._is_hidden(s)
        return isinstance(s, Map) and s.name in self.weights - self.hidden

    def _is_hidden(self, s: Reduce) -> bool:
        """Whether keys behind the last add nothing by themselves."""
        return s.graph.op == "value" and s.graph["name"] in self.hidden

    def _choice(self, differ: list[tuple[Statement, Statement]]) -> None:
        if not differ:
            return
        with self.ctx.out.block("if full:"):
            self._all([a for a, _ in differ], False)
        with self.ctx.out.block("else:"):
            self._all([b for _, b in differ], True)

    def _statement(self, s: Statement, edge: bool) -> None:
        ctx = self.ctx
        match s:
            case Load():
                if s.graph.op != "role":  # those are copied before
                    self.load(ctx, s)
            case Dot():
                ctx.out.line(f"# {s.name} = {s.rows} {s.keys}^T")
                self.dot(s)
            case DotAcc():
                ctx.out.line(f"# {s.accumulator} += {s.weights} {s.values}")
                self.dot_acc(s, self.edge if edge else self.full)
            case Map():
                self._map(s, edge and s.name in self.weights - self.hidden)
            case Reduce():
                self._reduce(s, edge and not self._is_hidden(s))
            case RowMap() | SetRow():
                row_map(ctx, s)
            case FeatureReduce():
                feature_reduce(ctx, s)

    def dot(self, s: Dot) -> None:
        """Print a product of rows and keys."""
        products.dot(self.ctx, s)

    def dot_acc(self, s: DotAcc, body: Sequence[Statement]) -> None:
        """Print an accumulation; body: the statements of its class."""
        careful.take_out(self.ctx, s, body)
        with careful.in_range(self.ctx, s, body):
            products.dot_acc(self.ctx, s)
        careful.put_back(self.ctx, s)

    def _map(self, s: Map, edge: bool) -> None:
        ctx = self.ctx
        # What is the same for all queries or keys of a thread is computed once for them, not left to the compiler to find.
        by_key = any(x.operands and "j" in x.axes and "i" not in x.axes for x in topological([s.graph]))
        of_row = {"i", "h"} if ctx.share else {"i"}
        own, loops = (of_row, (ctx.keys, ctx.rows)) if by_key else ({"j"}, (ctx.rows, ctx.keys))
        with loops[0]():
            if by_key:
                indices(ctx, s.graph, "j")
            elif "h" in s.graph.axes:
                items.row_indices(ctx, {"h"})
            outer = Scope(ctx.out.place(), lambda x: not own & x.axes and not feature_axes(x))
            with loops[1]():
                indices(ctx, s.graph, "hi" if by_key else "ij")
                speller = spelling(ctx, s.graph, "", outer)
                text = speller.spell(s.graph)
                kind = speller.kind(s.graph)
                if edge:
                    text = f"where(lt(now + first_key + 8 * ct + e, kv_len), {text}, 0.0)"
                ctx.out.line(f"{ctx.pair(s.name, kind)}[rt, ct, 2 * hf + e] = {as_stored(text, kind)}")
        if ctx.careful and has_power(ctx, s.graph):
            careful.keep(ctx, s)

    def _reduce(self, s: Reduce, edge: bool) -> None:
        """Over a thread's keys, then over the four threads that share a row."""
        ctx, kind = self.ctx, s.graph.dtype
        target = ctx.row(s.name, kind)
        neutral = NEUTRAL[kind][s.how]
        combine = "maximum_fast" if s.drop_nan else COMBINE[s.how]
        with ctx.rows():
            total = ctx.names.fresh(s.name)  # no register array: the compiler would not unroll the loops
            ctx.out.line(f"{total} = cast_{kind}({neutral})")
            with ctx.keys():
                indices(ctx, s.graph)
                text = spelling(ctx, s.graph).spell(s.graph)
                if edge:
                    text = f"where(lt(now + first_key + 8 * ct + e, kv_len), {text}, {neutral})"
                ctx.out.line(f"{total} = {combine}({total}, {text})")
            shuffle = "shuffle_f" if kind == "float" else "shuffle_l"
            for mask in (1, 2):
                ctx.out.line(f"{total} = {combine}({total}, {shuffle}({total}, {mask}))")
            ctx.out.line(f"{target}[rt, hf] = {total}")


def row_map(ctx: Context, s: RowMap | SetRow) -> None:
    """An expression per query into registers."""
    name = s.name if isinstance(s, RowMap) else s.state
    with ctx.each_row():
        indices(ctx, s.graph)
        speller = spelling(ctx, s.graph)
        text = speller.spell(s.graph)
        kind = speller.kind(row(name, s.graph.dtype)) if isinstance(s, RowMap) else s.graph.dtype
        if kind == "int32" and speller.kind(s.graph) != "int32":
            text = f"resize({text}, 32)"
        ctx.out.line(f"{ctx.row(name, kind)}[rt, hf] = {as_stored(text, kind)}")


def feature_reduce(ctx: Context, s: FeatureReduce) -> None:
    """A reduction over features, of each query, key or pair."""
    kind = s.graph.dtype
    combine, neutral = COMBINE[s.how], NEUTRAL[kind][s.how]
    arrays = {"i": (ctx.row, "rt, hf"), "j": (ctx.column, "ct, e"), "ij": (ctx.pair, "rt, ct, 2 * hf + e")}
    place, element = arrays[s.axes]
    cell = f"{place(s.name, kind)}[{element}]"
    with _loops(ctx, s.axes):
        ctx.out.line(f"{cell} = {neutral}")
    with ctx.out.block(f"for f in range({ctx.features[s.feature]}):"), _loops(ctx, s.axes):
        indices(ctx, s.graph)
        ctx.out.line(f"{cell} = {combine}({cell}, {spelling(ctx, s.graph, 'f').spell(s.graph)})")


@contextmanager
def _loops(ctx: Context, axes: str) -> Iterator[None]:
    """Loops over a thread's rows, keys or both."""
    with ExitStack() as stack:
        for axis in axes:
            stack.enter_context(ctx.rows() if axis == "i" else ctx.keys())
        yield
