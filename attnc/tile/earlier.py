"""A tile whose weights are relative to the maximum of the tiles before it, so that one loop over its pairs does.

The online softmax asks each tile for its maximum first, and takes exponents relative to that: two loops. But any shift is exact
(`attnc.passes.stabilise`): a state (m, a) has the value a * exp(m) whatever m is. As long as the scores of a tile are not far
above m, its weights are in range, and m may stay as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnc.ir.graph import Node, const, node, rewrite, substitute
from attnc.passes.fold import fold_node
from attnc.tile.lower import MINUS, row, shift
from attnc.tile.program import DotAcc, Map, Reduce, RowMap, SetRow, Statement, reads

NEAR = 8.0  # powers of two that exponents may be above their reference before it follows: sums stay below 2**8 times what they would be
REACH = node("value", name="reach", axes=(), kind="float")  # and how many they may be above it at all


@dataclass(frozen=True, slots=True)
class Exponent:
    """What sums of weights share. state: their reference m; top: the maximum of a tile's exponents, `live` without those that count
    as masked; scale: the factor that takes the sums to the reference of a tile, and which they are: `sums` of the row, `products`
    with features.
    """

    state: str
    top: str
    live: Node
    scale: str
    sums: tuple[str, ...]
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Earlier:
    """The statements on pairs of a tile that leaves m as it is: `before` the loop over pairs, in it, and `after` it.

    own: those of a tile that takes its own maximum in rows where that is too far above m. Rows do not see their neighbours: m is
    the same in either.
    """

    own: tuple[Statement, ...]
    before: tuple[RowMap, ...]
    loop: tuple[Map | Reduce, ...]
    after: tuple[SetRow, ...]
    exponents: tuple[Exponent, ...]


def earlier(statements: Sequence[Statement], products: Sequence[DotAcc]) -> Earlier | None:
    """The statements on pairs of a body, relative to the states as they are; None where these are more than a softmax's.

    That is, where anything but sums of weights, and their products with values, depends on the maxima: other sums might leave the
    range that weights have. A product that leaves it is noticed, and the sweep done again (`skip_zero`).
    """
    maps = {s.name: s for s in statements if isinstance(s, Map | RowMap)}
    weights = {name for name, s in maps.items() if s.graph.op == "weight" and isinstance(s, Map)}
    exponents: dict[str, Exponent] = {}
    new: dict[str, Node] = {}  # references of a tile that takes its own maximum
    stands: dict[Node, Node] = {}  # for rows that are no longer computed
    for s in statements:
        if isinstance(s, SetRow) and (names := _running(s, maps)) is not None:
            live, scale = names
            top = _name(live.operands[2] if live.op == "where" else live)
            sums = tuple([x.state for x in statements if isinstance(x, SetRow) and _rescaled(x, scale)])
            summed = tuple([x.accumulator for x in products if x.scale == scale])
            exponents[s.state] = Exponent(s.state, top, live, scale, sums, summed)
            new[s.graph["name"]] = _above(exponents[s.state], REACH)
            stands |= {row(scale): const(1.0), s.graph: row(s.state)}
    gone = {x["name"] for x in stands}
    if not exponents or any(not x.skip_zero or x.scale not in gone for x in products):
        return None
    tops = {x.top for x in exponents.values()}
    own = [RowMap(s.name, new[s.name]) if isinstance(s, RowMap) and s.name in new else s for s in statements]
    loop: list[Map | Reduce] = []
    before: list[RowMap] = []
    after: list[SetRow] = []
    for s in statements:
        match s:
            case RowMap():
                if s.name not in gone:
                    before.append(RowMap(s.name, _known(s.graph, stands)))
            case SetRow():
                if s.state not in exponents:
                    after.append(SetRow(s.state, _known(s.graph, stands)))
            case Map():
                loop.append(Map(s.name, _known(s.graph, stands)))
            case Reduce():
                if s.name not in tops and (s.how != "sum" or _name(s.graph) not in weights):
                    return None
                loop.append(s)
            case _:
                return None
    return Earlier(tuple(own), tuple(before), tuple(loop), tuple(after), tuple(exponents.values()))


def follows(x: Exponent) -> Node:
    """The reference for the next tile, at most NEAR below the maximum."""
    return _above(x, const(NEAR))


def rescaling(x: Exponent) -> Node:
    """The factor that takes the sums there."""
    return node("weight", row(x.state), shift(follows(x)), MINUS)


def first(found: Earlier, x: Exponent) -> tuple[tuple[Map | Reduce, ...], Node]:
    """What gives a row its first reference: the loop over some keys, whose maximum is `top` too, and the reference."""
    needed, kept = {x.top}, list[Map | Reduce]()
    for s in reversed(found.loop):
        if s.name in needed:
            needed |= reads(s)
            kept.append(s)
    m = row(x.state)
    return tuple(reversed(kept)), node("where", node("eq", m, MINUS), x.live, m)


def _above(x: Exponent, limit: Node) -> Node:
    """The top of the tile where it is more than `limit` above the reference, else that."""
    m = row(x.state)
    return node("where", node("lt", node("add", m, limit), x.live), x.live, m)


def _known(x: Node, stands: dict[Node, Node]) -> Node:
    (known,) = substitute([x], stands)
    return rewrite([known], fold_node)[0]


def _running(s: SetRow, maps: Mapping[str, Map | RowMap]) -> tuple[Node, str] | None:
    """Where s sets a running maximum, m <- n with n = max(m, top): top, and the name of the factor weight(m, shift(n))."""
    new = maps.get(_name(s.graph))
    if new is None or new.graph.op != "maximum" or new.graph.operands[0] != row(s.state):
        return None
    for rho in (x.name for x in maps.values() if x.graph == shift(s.graph)):
        factor = node("weight", row(s.state), row(rho), MINUS)
        for scale in (x.name for x in maps.values() if x.graph == factor):
            return new.graph.operands[1], scale
    return None


def _rescaled(s: SetRow, scale: str) -> bool:
    return s.graph.op == "add" and s.graph.operands[0] == node("mul", row(scale), row(s.state))


def _name(x: Node) -> str:
    return x["name"] if x.op == "value" else ""
