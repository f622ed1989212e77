"""The printed form of a tile program."""

from __future__ import annotations

from attnc.ir.text import expression
from attnc.tile.past import Column, Past
from attnc.tile.program import (
    PART,
    Dot,
    DotAcc,
    FeatureReduce,
    Join,
    Keys,
    Load,
    Map,
    Merge,
    Program,
    Reduce,
    RowMap,
    Save,
    SetRow,
    Statement,
    Step,
    Store,
)


def line(s: Statement | Store) -> str:
    """One statement."""
    match s:
        case Load():
            return f"{s.name}[{s.side} {s.feature}] = load({expression(s.graph)})"
        case RowMap():
            return f"{s.name}[i] = {expression(s.graph)}"
        case FeatureReduce():
            return f"{s.name}[{' '.join(s.axes)}] = {s.how}[{s.feature}]({expression(s.graph)})"
        case Dot():
            return f"{s.name}[i j] = dot[{s.feature}]({s.rows}, {s.keys})"
        case Map():
            return f"{s.name}[i j] = {expression(s.graph)}"
        case Reduce():
            return f"{s.name}[i] = {s.how}[j]({expression(s.graph)}{', NaN dropped' if s.drop_nan else ''})"
        case SetRow():
            return f"{s.state}[i] <- {expression(s.graph)}"
        case DotAcc():
            kept = f"{s.scale} * {s.accumulator}" if s.scale else s.accumulator
            zero = ", zero weights skipped" if s.skip_zero else ""
            dropped = ", dropped where that is 0" if s.drop else ""
            return f"{s.accumulator}[i {s.feature}] <- {kept}{dropped} + dot[j]({s.weights}, {s.values}{zero})"
        case Store():
            return f"store out{s.index}[{'i' if s.feature is None else 'i ' + s.feature}] = {expression(s.graph)}"


def _sweep(keys: Keys) -> list[str]:
    out = []
    for state in keys.states:
        shape = "i" if state.feature is None else f"i {state.feature}"
        out.append(f"state {state.name}[{shape}] = {state.initial}")
    out.append(f"for each tile of keys, sweep {keys.number}:")
    if keys.possible.op != "const":
        out.append(f"  empty unless {expression(keys.possible)}")
    if keys.full:
        out.append(f"  full if {expression(keys.certain)}:" if keys.partial else "  full:")
        out += [f"    {line(s)}" for s in keys.full]
    if keys.partial:
        out.append("  else partial:" if keys.full else "  partial:")
        out += [f"    {line(s)}" for s in keys.partial]
    return out


def _of_part(join: Join) -> str:
    if join.term is not None:
        return expression(join.term)
    name = join.state.name + PART
    return name if join.scale is None else f"{expression(join.scale)} * {name}{', dropped at 0' if join.drop else ''}"


def _lines(step: Step) -> list[str]:
    match step:
        case Keys():
            return _sweep(step)
        case Save():
            return [f"save {s.name}" for s in step.states]
        case Merge():
            return [f"{j.state.name} = {j.how}[parts]({_of_part(j)})" for j in step.joins]
        case _:
            return [line(step)]


def _past(past: Past) -> list[str]:
    out = [f"in linear time, from keys up to seen = {expression(past.last)}, which all queries of the tile see:"]
    out.append("  for each tile of keys that those before it did not:")
    out += [f"    {line(s)}" for s in past.loads]
    for p in past.powers:
        out.append(f"    {p.column}[j] = {expression(p.keys)}")
        out.append(
            f"    {p.weights}[j] = weight({p.column}, top of {p.state}); relative to was: + {expression(p.moved)}"
        )
    out += [
        f"    {s.name}[j] = {expression(s.graph)}" if isinstance(s, Column) else f"    {line(s)}" for s in past.made
    ]
    for x in past.outers:
        shape = " ".join(a for a in (x.feature, x.out) if a is not None)
        scaled = "" if x.power is None else f" relative to top of {past.powers[x.power].state}"
        out.append(f"    {x.name}[{shape}] <- {x.name} + sum[j]({x.keys} * {x.values or '1'}){scaled}")
    out += [f"  {line(s)}" for s in past.rows]
    out += [f"  {p.state}[i] = {p.rows} + top" for p in past.powers]
    for share in past.shares:
        shape = "i" if share.out is None else f"i {share.out}"
        out.append(f"  {share.accumulator}[{shape}] = {' + '.join(f'{rows} . {x.name}' for rows, x in share.terms)}")
    return out


def listing(program: Program) -> str:
    """The whole program, indented."""
    out = [f"program {program.name}: grid(b, h, tile of i)"]
    for step in program.steps:
        out += [f"  {text}" for text in _lines(step)]
    if program.past is not None:
        out += [f"  {text}" for text in _past(program.past)]
    return "\n".join(out)
