"""Lowering of sums about a centre that runs with the sweep: the tile's sums about the new centre, the old ones moved to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attnc.ir.graph import Node, node
from attnc.passes.fold import op
from attnc.passes.moments import centre, moved
from attnc.passes.plan_sweeps import Accumulator
from attnc.passes.stabilise import ROW_AXES, value
from attnc.passes.term import MINUS
from attnc.tile.program import Reduce, RowMap, SetRow, Statement


def bases(sweep: Iterable[Accumulator]) -> dict[Accumulator, None]:
    """The sums that moments are moved by: those must still have their old value then."""
    found = [b for a in sweep if a.moment is not None for b in (a.moment.below[0], a.moment.first) if b is not None]
    return dict.fromkeys(found)


def emit(
    sweep: Iterable[Accumulator],
    terms: Mapping[Accumulator, Node],
    deviations: Mapping[Accumulator, Node],
    scales: Mapping[Accumulator, str | None],
    steps: Mapping[Accumulator, str],
    fresh: Callable[[str], str],
    out: list[Statement],
) -> None:
    """terms: of a pair, in `bases`, and the weights of moments. deviations: x of those about a mean, else x - m.
    steps: the rows with m's old value less its new one. scales: the factors of old sums."""
    moments = [a for a in sweep if a.moment is not None]
    based = bases(sweep)
    parts = {a: fresh("t") for a in (*based, *moments)}
    new = {b: fresh("n") for b in based}
    by = {a: _row(steps[a]) for a in moments if a in steps}
    out += [Reduce(parts[b], "sum", terms[b]) for b in based]
    out += [Reduce(parts[a], "sum", op("mul", terms[a], deviations[a])) for a in by]  # in the loop of the weights
    out += [RowMap(new[b], op("add", _kept(scales[b], _row(b.name)), _row(parts[b]))) for b in based]
    means: dict[tuple[Accumulator, Accumulator], tuple[Node, Node]] = {}
    for a in moments:
        if a.moment is None or a.moment.first is None:
            continue
        weight, first = a.moment.below[0], a.moment.first
        if (first, weight) not in means:
            at, step = fresh("c"), fresh("d")
            out.append(RowMap(at, centre(_row(new[first]), _row(new[weight]))))
            out.append(RowMap(step, op("sub", centre(_row(first.name), _row(weight.name)), _row(at))))
            means[first, weight] = _row(at), _row(step)
        c, by[a] = means[first, weight]
        power = x = op("sub", deviations[a], c)
        for _ in range(len(a.moment.below) - 1):
            power = op("mul", power, x)
        out.append(Reduce(parts[a], "sum", op("mul", terms[a], power)))
    for a in sorted(moments, key=lambda a: -len(a.moment.below) if a.moment is not None else 0):
        assert a.moment is not None
        before = moved([_row(y.name) for y in (*a.moment.below, a)], by[a])
        out.append(SetRow(a.name, op("add", _kept(scales[a], before), _row(parts[a]))))
    out += [SetRow(b.name, _row(new[b])) for b in based]


def relative(x: Node, e: Node, tile: Node, m: Node, prepare: Callable[[Node], Node]) -> Node:
    """x - m, x the exponent e but for masks: of the numbers that the maximum is of, so that the difference is exact."""
    if x == e:
        return op("sub", tile, m)
    if x.op == "where":
        c, yes, no = x.operands
        if c == node("ne", e, MINUS):  # of no weight elsewhere
            return op("where", node("ne", tile, MINUS), relative(yes, e, tile, m, prepare), no)
        return op("where", prepare(c), *(relative(y, e, tile, m, prepare) for y in (yes, no)))
    return op("sub", x if x.op == "const" else prepare(x), m)


def _kept(scale: str | None, old: Node) -> Node:
    return old if scale is None else node("mul", _row(scale), old)


def _row(name: str) -> Node:
    return value(name, ROW_AXES)
