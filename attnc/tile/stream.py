"""Whether keys are only passed over, one after the other: then tiles may be long, and memory is read in long runs."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.tile.program import Dot, DotAcc, Keys, Load, Program, Statement, reads


def streams(program: Program) -> bool:
    """Whether no tile between the first and the last of a sweep is skipped, and nothing but products reads vectors of keys."""
    return all(not _skips(keys) and all(map(_plain, (keys.full, keys.partial))) for keys in program.sweeps)


def _skips(keys: Keys) -> bool:
    return keys.run is None and not (keys.possible.op == "const" and keys.possible["value"])


def _plain(body: Sequence[Statement]) -> bool:
    loads = [s for s in body if isinstance(s, Load)]
    others = set[str]().union(*(reads(s) for s in body if not isinstance(s, Dot | DotAcc)))
    return all(s.graph.op == "role" and s.name not in others for s in loads)
