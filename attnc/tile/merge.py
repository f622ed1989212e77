"""A sweep in parts: one program sweeps over a part of the keys and saves its states, another merges the states of all parts.

How states are merged is read off the updates of the sweep's bodies. A tile of keys takes a state x to scale * x + t, max(x, t) or
min(x, t), with t from the tile alone, and scale from running maxima before and after (a sum of weights relative to the maximum
before, made relative to the one after). A part is such a tile: its x takes the place of t, and what its own maximum must be
scaled by takes the place of the scale. Sums about a centre are moved instead of scaled: by other sums of before and after, in the
update and in the merge. The merge is associative, and commutative but for rounding (Milakov and Gimelshein,
arXiv 1805.02867; Rabe and Staats, arXiv 2112.05682).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from attnc.ir.graph import Node, substitute, topological
from attnc.passes.canonicalise import is_const
from attnc.tile.lower import COMBINE, FLOAT, INT64, row
from attnc.tile.program import (
    PART,
    DotAcc,
    FeatureReduce,
    Join,
    Keys,
    Load,
    Merge,
    Program,
    RowMap,
    Save,
    SetRow,
    State,
    Statement,
    Step,
    graphs,
    reads,
)

NOTHING: dict[str, Mapping[str, float]] = {"float": FLOAT, "int": INT64}
HOW = {v: k for k, v in COMBINE.items()}


def split(program: Program) -> tuple[Program, Program] | None:
    """The program of a part of the keys, and the one that merges and stores; None where `obstacle` says why not."""
    if obstacle(program):
        return None
    (keys,) = program.sweeps
    found = joins(keys)
    assert found is not None
    place = program.steps.index(keys)
    before, after = program.steps[:place], program.steps[place + 1 :]
    part = replace(program, steps=_needed((*before, keys, Save(keys.states))))
    return part, replace(program, steps=_needed((*before, Merge(found), *after)))


def obstacle(program: Program) -> str:
    """Why the keys of a program are not split; "" where they are."""
    if len(program.sweeps) != 1:
        return f"its {len(program.sweeps)} sweeps over the keys need each other's results for all keys"
    return "" if joins(program.sweeps[0]) is not None else "its states have no merge rule"


def joins(keys: Keys) -> tuple[Join, ...] | None:
    """How the states of a sweep's parts become those of all keys, running maxima first; None where this is not known."""
    found = [_Reading(keys.states).body(body) for body in (keys.full, keys.partial) if body]
    result = []
    for s in keys.states:
        rules = {None if x is None else x.get(s.name) for x in found}
        if rules - {Join(s, "sum"), Join(s, "max"), Join(s, "min")} == {None}:
            rules.discard(None)  # a body that leaves a state as it is adds nothing to it
        if len(rules) != 1 or None in rules or any(x is None for x in found):
            return None
        result += [join for join in rules if join is not None]
    return tuple(sorted(result, key=lambda join: join.rank))


class _Reading:
    """Of one body. known: rows as graphs over states (of before: named with PART, of after) and over the tile's own rows."""

    def __init__(self, states: Iterable[State]) -> None:
        self.states = {s.name: s for s in states}
        self.known = {s.name: row(s.name + PART, s.kind) for s in self.states.values() if s.feature is None}
        self.how: dict[str, str] = {}
        self.scales: dict[str, Node] = {}
        self.terms: dict[str, Node] = {}
        self.dropped: set[str] = set()
        self.used: list[Node] = []

    def body(self, statements: Iterable[Statement]) -> dict[str, Join] | None:
        """The joins of the states that it changes; None where one has none."""
        for s in statements:
            match s:
                case RowMap():
                    self.known[s.name] = self._resolved(s.graph)
                case SetRow():
                    self._set(self.states[s.state], self._resolved(s.graph))
                case DotAcc():
                    self._found(s.accumulator, ("sum", self.known[s.scale] if s.scale is not None else None, None))
                    if s.drop:
                        self.dropped.add(s.accumulator)
                case _:
                    self.used += map(self._resolved, graphs(s))
        found = {name: self._join(name, how) for name, how in self.how.items()}
        # each part would add what the sweep begins with
        neutral = all(j.state.initial == NOTHING[j.state.kind].get(j.how) for j in found.values())
        return found if neutral and self._sound() else None

    def _join(self, name: str, how: str) -> Join:
        return Join(self.states[name], how, self.scales.get(name), self.terms.get(name), name in self.dropped)

    def _set(self, state: State, new: Node) -> None:
        """A state's new value; from here on graphs read it by the state's name."""
        old, leaf = self.known[state.name], row(state.name, state.kind)
        self._found(state.name, _moved(new, old) if state.about else _update(new, old))
        for rows in (self.known, self.scales, self.terms):
            rows.update(zip(rows, substitute(rows.values(), {new: leaf}), strict=True))
        self.used = list(substitute(self.used, {new: leaf}))
        self.known[state.name] = leaf

    def _found(self, name: str, update: Update | None) -> None:
        how, scale, term = update or ("", None, None)
        self.how[name] = how if name not in self.how else ""
        if scale is not None:
            self.scales[name] = scale
        if term is not None:
            self.terms[name] = term

    def _resolved(self, graph: Node) -> Node:
        """The graph with the rows that are known."""
        rows = [x for x in topological([graph]) if x.op == "value" and x["name"] in self.known]
        return substitute([graph], {x: self.known[x["name"]] for x in rows})[0]

    def _sound(self) -> bool:
        """Scales read maxima alone; what a tile adds reads maxima and centres after it, but nothing of the keys before it."""
        maxima = {name for name, how in self.how.items() if how != "sum"}
        both = maxima | {name + PART for name in maxima}
        centres = {name for s in self.states.values() for name in s.about}
        moving = both | centres | {s.name + PART for s in self.states.values() if s.about or s.name in centres}
        for name, graph in (*self.scales.items(), *self.terms.items()):
            allowed = moving if self.states[name].about else both | {name + PART} if name in self.terms else both
            if not _reads_only([graph], allowed):
                return False
        before = {name + end for name in self.states for end in ("", PART)} - maxima - centres
        return not any(x.op == "value" and x["name"] in before for x in topological(self.used))


Update = tuple[str, Node | None, Node | None]  # how, and what the old value is multiplied by, or what becomes of it


def _reads_only(graphs: Iterable[Node], names: set[str]) -> bool:
    leaves = [x for x in topological(graphs) if not x.operands]
    return all(x["name"] in names if x.op == "value" else not x.axes for x in leaves)


def _moved(new: Node, old: Node) -> Update | None:
    """The update of a sum about a centre: what the old sums are about the new one, and the tile's own."""
    if new.op != "add":
        return None
    kept, term = new.operands
    return ("sum", None, kept) if old in topological([kept]) and old not in topological([term]) else None


def _update(new: Node, old: Node) -> Update | None:
    """How a state's new value comes of the old one; None where it is no sum or extreme."""
    for kept, term in (new.operands, new.operands[::-1]) if len(new.operands) == 2 else ():
        if old in topological([term]):
            continue
        if kept == old and new.op in HOW:
            return HOW[new.op], None, None
        if new.op == "add" and kept.op == "where" and kept.operands[1] == old and is_const(kept.operands[2]):
            dropped = kept.operands[2]["value"] == 0 and old not in topological(kept.operands[:1])
            return ("sum", None, kept) if dropped else None
        if new.op == "add" and kept.op == "mul" and old in kept.operands:
            scale = kept.operands[0] if kept.operands[1] == old else kept.operands[1]
            return None if old in topological([scale]) else ("sum", scale, None)
    return None


def _needed(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Without what nothing reads."""
    kept: list[Step] = []
    read: set[str] = set()
    for step in reversed(steps):
        if isinstance(step, RowMap | FeatureReduce | Load) and step.name not in read:
            continue
        inner = (*step.full, *step.partial) if isinstance(step, Keys) else (step,)
        read = read.union(*map(reads, inner))
        kept.append(step)
    return tuple(reversed(kept))
