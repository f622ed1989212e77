"""Verify a variant on random inputs of many shapes and dtypes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnc.errors import UnsupportedError
from attnc.fuzz.pairs import pairwise, product
from attnc.fuzz.samples import Setting, arrays, operands, placed
from attnc.fuzz.scribe import FLOATS
from attnc.variant import Attention

HEAD_DIMS = (1, 7, 16, 24, 32, 64, 80, 128, 256, 512)
LENGTHS = (1, 17, 127, 128, 129, 1000, 2048)
HEADS = ((8, 2), (8, 1), (2, 2))
FACTORS: dict[str, tuple[Any, ...]] = {
    "D": HEAD_DIMS,
    "other_Dv": (False, True),
    "lengths": (*((n, n) for n in LENGTHS), *zip(LENGTHS, LENGTHS[3:] + LENGTHS[:3], strict=True)),
    "dtype": FLOATS,
    "heads": HEADS,
    "strided": (False, True),
    "layout": ("bhld", "blhd"),
}
EVERYTHING: dict[str, tuple[Any, ...]] = {  # Dv is never D, no two lengths are equal; the pairwise cover has those too
    **FACTORS,
    "other_Dv": (True,),
    "lengths": tuple(zip(LENGTHS, LENGTHS[3:] + LENGTHS[:3], strict=True)),
    "heads": ((8, 2), (8, 1)),
}
QUICK: dict[str, tuple[Any, ...]] = {
    **FACTORS,
    "D": (7, 64),
    "lengths": ((1, 17), (129, 129), (17, 300), (300, 128)),
}
PAIRS = 1 << 15  # two batches where a score matrix is smaller


@dataclass(frozen=True, slots=True)
class Outcome:
    """One verified setting. `ok` None: refused, with the reason in `text`."""

    setting: Setting
    ok: bool | None
    ratio: float
    text: str


def settings(cover: str) -> list[Setting]:
    """The settings of a cover: "quick" and "pairs" are pairwise, "all" is a full product; one kernel's are neighbours."""
    rows = {"quick": lambda: pairwise(QUICK), "pairs": lambda: pairwise(FACTORS), "all": lambda: product(EVERYTHING)}[
        cover
    ]()
    return settings_of(rows)


def settings_of(rows: Iterable[Mapping[str, Any]]) -> list[Setting]:
    """The settings of rows {factor: value}; one kernel's are neighbours."""
    found = [_setting(**row) for row in rows]
    return sorted(found, key=lambda s: (s.D, s.Dv, FLOATS.index(s.dtype), s.lengths, s.heads))


def _setting(D: int, other_Dv: bool, lengths: tuple[int, int], **rest: Any) -> Setting:
    other = HEAD_DIMS[(HEAD_DIMS.index(D) + 3) % len(HEAD_DIMS)]
    batch = 2 if lengths[0] * lengths[1] <= PAIRS else 1
    return Setting(D=D, Dv=other if other_Dv else D, lengths=lengths, batch=batch, **rest)


def check(variant: Attention, chosen: Iterable[Setting], seed: int = 0) -> Iterator[Outcome]:
    """Verify the variant in each setting.

    Neighbours that differ in strides and layout only share one reference: a kernel's result must not depend on them, and where
    it is not bitwise that of the plain arrays it is verified on its own.
    """
    plain: Setting | None = None
    for setting in chosen:
        values = replace(setting, strided=False, layout="bhld")
        if values != plain:
            plain = values
            rng = np.random.default_rng([seed, zlib.crc32(str(values).encode())])
            inputs = arrays(values, rng)
            given = operands(variant, values, rng)
            first = _verify(variant, values, inputs, given)
            expected = None if first.ok is None else _outputs(variant, values, inputs, given)
        if setting == values or expected is None:
            yield replace(first, setting=setting)
            continue
        found = _outputs(variant, setting, inputs, given)
        same = all(_bits(x, y) for x, y in zip(expected, found, strict=True))
        yield replace(first, setting=setting) if same else _verify(variant, setting, inputs, given)


def _verify(variant: Attention, setting: Setting, inputs: tuple[Any, ...], given: dict[str, Any]) -> Outcome:
    try:
        report = variant.verify(*(placed(x, setting) for x in inputs), layout=setting.layout, **given)
    except UnsupportedError as refusal:
        return Outcome(setting, None, 0.0, refusal.message)
    return Outcome(
        setting, report.ok, report.error / report.allowed if report.allowed else float(not report.ok), str(report)
    )


def _outputs(variant: Attention, setting: Setting, inputs: tuple[Any, ...], given: dict[str, Any]) -> list[Any]:
    """The kernel's outputs, in (B,H,L[,F]) whatever the layout."""
    found = variant(*(placed(x, setting) for x in inputs), layout=setting.layout, **given)
    outputs = found if isinstance(found, tuple) else (found,)
    return [x.transpose(0, 2, 1, 3) if setting.layout == "blhd" and x.ndim == 4 else x for x in outputs]


def _bits(x: Any, y: Any) -> bool:
    return np.array_equal(x.astype(np.float64), y.astype(np.float64), equal_nan=True)
