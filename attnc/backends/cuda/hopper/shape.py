"""What a schedule must know of a program: which vectors it copies and computes, and what lives in registers at once."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.backends.classes import questions
from attnc.backends.cuda.hopper.consumer import overlaps, split
from attnc.ir.graph import topological
from attnc.runtime.arrays import ITEMSIZE
from attnc.schedule.mma import swizzled
from attnc.schedule.wgmma import Shape
from attnc.tile.program import Keys, Load, Map, Program

READ = 8  # ops


def roles(keys: Keys) -> dict[str, Load]:
    """The vectors of keys that a sweep copies; what is only summed comes last, as it is needed last."""
    _, sums = split(keys)
    bodies = keys.full, keys.partial
    found = {s.name: s for body in bodies for s in body if isinstance(s, Load) and s.graph.op == "role"}
    values = {s.values for s in sums}
    return dict(sorted(found.items(), key=lambda x: x[0] in values))


def computed(program: Program) -> list[Load]:
    """The vectors of keys that are computed, each once."""
    found = [s for keys in program.sweeps for body in (keys.full, keys.partial) for s in body if isinstance(s, Load)]
    return list({s.name: s for s in found if s.graph.op != "role"}.values())


def shape(program: Program, types: str, features: Mapping[str, int]) -> Shape:
    """What the schedule must know of a program."""
    size = ITEMSIZE[types]

    def vectors(loads: list[Load]) -> int:
        return sum(swizzled(1, features[s.feature], size).bytes for s in loads)

    rows = [s for s in program.steps if isinstance(s, Load)]
    sweeps = program.sweeps
    loaded = {s.name: s for keys in sweeps for s in roles(keys).values()}
    kept = {
        s.name: swizzled(1, features[s.feature], size).length for x in sweeps for s in x.states if s.feature is not None
    }
    live = [split(keys) for keys in sweeps]
    overlap = all(map(overlaps, sweeps))
    pairs = max(max(len(dots), 1) + len({s.weights for s in sums}) / (2 if overlap else 4) for dots, sums in live)
    widest = max([*kept.values(), *(swizzled(1, features[s.feature], size).length for s in (*rows, *loaded.values()))])
    return Shape(
        query=vectors(rows),
        ring=vectors(list(loaded.values())),
        key=vectors(computed(program)),
        pairs=pairs,
        features=sum(kept.values()),
        widest=widest,
        overlap=overlap,
        masked=any(keys.partial for keys in sweeps),
        pair=max(map(_ops, sweeps)),
        search=int(any(map(_searches, sweeps))),
    )


def _searches(keys: Keys) -> bool:
    """Whether the search of tiles looks into tables, or at boxes of indices."""
    cuts = [cut for cut in (keys.cut_i, keys.cut_j) if cut is not None and cut.radices]
    return bool(cuts) or any(x.op == "extreme" for x in topological(questions(keys).values()))


def _ops(keys: Keys) -> int:
    """How many ops each pair takes, in tiles that take most; reads of tables, which wait in registers, count for several."""
    bodies = [[s.graph for s in body if isinstance(s, Map)] for body in (keys.full, keys.partial)]
    pairs = [[x for x in topological(body) if x.axes >= {"i", "j"} and x.operands] for body in bodies]
    return max(sum(READ if x.op == "gather" else 1 for x in found) for found in pairs)
