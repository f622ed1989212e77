"""The NumPy interpreter of a program's past: tiles of queries one after the other, with states of the keys that all of them see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attnc.interp import Value
from attnc.ir.graph import const, node
from attnc.passes.stabilise import value
from attnc.tile.interp import Item
from attnc.tile.past import I0, SEEN, WAS, Column, Outer, Past, Power
from attnc.tile.program import Keys, Program
from attnc.tile.reassociated import KEY

TOP = "top"  # the greatest exponent of a state's keys, or 0 while nothing came
MINUS = const(float("-inf"))


def follow(program: Program) -> Callable[..., Item]:
    """Makes the items of a program, of which each follows the one before."""
    assert program.past is not None, program.quadratic
    past, before = program.past, [_Memory()]

    def make(inputs: Any, dtype: Any, head: tuple[int, int], rows: tuple[int, int], *rest: Any) -> Item:
        if rows[0] == 0:
            before[0] = _Memory()
        return _Item(past, before[0], inputs, dtype, head, rows, *rest)

    return make


class _Memory:
    """stop: how many keys have been seen. states, tops: of those."""

    def __init__(self) -> None:
        self.stop = 0
        self.states: dict[str, Any] = {}
        self.tops: dict[str, Any] = {}


class _Item(Item):
    """A tile of rows with a past."""

    def __init__(self, past: Past, memory: _Memory, *args: Any) -> None:
        super().__init__(*args)
        self.past, self.memory = past, memory

    def sweep(self, keys: Keys) -> None:
        """With the past, and if that is not finite again without: a weight that is 0 hides what it weighs."""
        before = dict(self.values)
        self._see()
        end = self.extents["kv_len"]
        self.span = (self.memory.stop, end)
        super().sweep(keys)
        if all(np.isfinite(self.values[s.accumulator].data).all() for s in self.past.shares):
            return
        self.values, self.span = before, (0, end)
        super().sweep(keys)

    def begin(self, keys: Keys) -> None:
        """The states before the first key of the span."""
        super().begin(keys)
        if self.span[0] == 0:
            return
        for s in self.past.rows:
            self.statement(s)
        for p in self.past.powers:
            rows = self.values[p.rows]
            top = self.memory.tops[p.state]
            self.values[p.state] = Value(np.where(np.isneginf(top), top, rows.data + top).astype(self.dtype), rows.axes)
        for share in self.past.shares:
            total = sum(self._share(rows, outer) for rows, outer in share.terms)
            old = self.values[share.accumulator]
            if share.power is not None:
                power = self.past.powers[share.power]
                m, own = self.values[power.state].data, self.values[power.rows].data
                m, own = (x if share.out is None else x[..., None] for x in (m, own))
                # a maximum that is not finite says nothing of the keys: NaN, so that the pairs are visited
                total = np.where(m < np.inf, total * np.where(np.isneginf(own), 0, 1), np.nan)
            self.values[share.accumulator] = Value(np.broadcast_to(total, old.data.shape).astype(self.dtype), old.axes)

    def _share(self, name: str, outer: Outer) -> Any:
        """rows[b, h, i, f] times state[f, e]."""
        rows, state = self.values[name].data, self.memory.states[outer.name]
        if outer.feature is None:
            rows = rows[..., None]
        with np.errstate(all="ignore"):
            found = np.matmul(rows, state)
        return found if outer.out is not None else found[..., 0]

    def _see(self) -> None:
        """Adds the keys that this tile is the first to see as a whole."""
        memory = self.memory
        self.values[I0] = Value(np.array(self.rows[0]), ())
        self.values[WAS] = Value(np.array(memory.stop - 1), ())
        last = int(self.evaluate(self.past.last, "").data.ravel()[0])
        stop = min(max(last + 1, memory.stop), self.extents["kv_len"])
        self.values[SEEN] = Value(np.array(stop - 1), ())
        kept = dict(self.values)
        for start in range(memory.stop, stop, self.tile):
            self.set_keys(start, min(start + self.tile, stop))
            for s in self.past.loads:
                self.statement(s)
            scales = [self._weigh(p, start == memory.stop) for p in self.past.powers]
            for made in self.past.made:
                axes = ("j",) if isinstance(made, Column) else ("j", made.feature)
                self.values[made.name] = self.evaluate(made.graph, axes)
            for outer in self.past.outers:
                self._add(outer, scales)
            self.values = dict(kept)
        memory.stop = stop

    def _weigh(self, p: Power, first: bool) -> Any:
        """The weights of these keys, and by what the states are scaled."""
        tops = self.memory.tops
        old = tops.get(p.state, np.array(-np.inf))
        if first and not np.isneginf(old):
            old = old + self.evaluate(p.moved, "").data.ravel()[0]
        self.values[p.column] = self.evaluate(p.keys, "j")
        exponents = self.values[p.column].data.ravel()
        if p.masked > -np.inf:
            exponents = np.where(exponents <= p.masked, -np.inf, exponents)
        top = np.fmax(old, np.fmax.reduce(exponents, initial=-np.inf))
        tops[p.state] = top
        rho = value(TOP, ())
        self.values[TOP] = Value(np.array(0.0 if np.isneginf(top) else top, self.dtype), ())
        self.values["old"] = Value(np.array(old, self.dtype), ())
        self.values[p.weights] = self.evaluate(node("weight", value(p.column, KEY), rho, const(p.masked)), "j")
        return self.evaluate(node("weight", value("old", ()), rho, MINUS), "").data.ravel()[0]

    def _add(self, outer: Outer, scales: list[Any]) -> None:
        """One outer product for each of these keys."""
        keys = self.values[outer.keys].data
        if outer.feature is None:
            keys = keys[..., None]
        values = (
            self.values[outer.values].data if outer.values is not None else np.ones((*keys.shape[:-1], 1), self.dtype)
        )
        old = self.memory.states.get(outer.name, 0)
        with np.errstate(all="ignore"):
            old = old if outer.power is None else old * scales[outer.power]
            self.memory.states[outer.name] = old + np.matmul(np.swapaxes(keys, -1, -2), values)
