"""Which of a directory's kernels a call runs; where there is none, what was not built and the command that builds it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from attnc.aot.manifest import Kernels, Manifest, Specialised
from attnc.backends.cuda.check import Rows
from attnc.backends.launch import is_small
from attnc.dsl.place import here
from attnc.errors import DeviceError, UnsupportedError
from attnc.runtime.binding import Bound
from attnc.schedule.cuda_target import named, of_device
from attnc.schedule.short import PLAIN, Form

Filter = tuple[str, str, Callable[[Kernels], bool], Callable[[Kernels], str]]


def specialised(manifest: Manifest, bound: Bound, lse: bool) -> Specialised:
    """The formula that the call means. UnsupportedError where it was not built."""
    key = (tuple(sorted(bound.constants.items())), tuple(sorted(bound.kinds.items())), tuple(sorted(bound.absent)), lse)
    for x in manifest.specialised:
        if x.key == key:
            return x
    asked = formula(bound.constants, bound.kinds, bound.absent, lse)
    have = "; ".join(formula(x.constants, x.kinds, x.absent, x.lse) for x in manifest.specialised)
    raise UnsupportedError(
        f"{manifest.name} was not built for this call: {asked}",
        where=here(),
        cause=f"built: {have}",
        cure=command(manifest, bound, lse, "sm_90"),
    )


def formula(constants: Any, kinds: Any, absent: Any, lse: bool) -> str:
    """What decides a formula, in words."""
    parts = [f"{name}={value!r}" for name, value in sorted(constants.items())]
    parts += [f"{name} of kind {kind}" for name, kind in sorted(kinds.items())]
    parts += [f"no {name}" for name in sorted(absent)]
    return ", ".join([*parts, "with lse" if lse else "without lse"])


def kernels(
    manifest: Manifest, of: Specialised, bound: Bound, capability: tuple[int, int], rows: Rows, form: Form = PLAIN
) -> Kernels:  # fmt: skip
    """The best kernels for a call on a device of this compute capability.

    rows: of its q, k and v. form: the best for it; the plain one serves every call. Features of one architecture are preferred
    where all else is equal. DeviceError: none runs on the device. UnsupportedError: none fits the call, or attnc has no target
    for the device.
    """
    place = f"a device of compute capability {capability[0]}.{capability[1]}"
    found = [x for x in of.kernels if named(x.target).runs_on(capability)]
    if not found:
        raise DeviceError(
            f"{manifest.name} was not built for {place}",
            where=here(),
            cause=f"built: {_those(of.kernels, lambda x: x.target)}",
            cure=command(manifest, bound, of.lse, of_device(capability).name),
        )
    best = max((named(x.target) for x in found), key=lambda x: (x.capability, x.feature)).name
    for what, option, fits, shown in _filters(of, bound, rows):
        left = [x for x in found if fits(x)]
        if not left:
            raise UnsupportedError(
                f"{manifest.name} was not built for {what}",
                where=here(),
                cause=f"built: {_those(found, shown)}",
                cure=f"{command(manifest, bound, of.lse, best)}{option}",
            )
        found = left
    served = [x for x in found if x.form in (form, PLAIN)]
    return max(served, key=lambda x: _rank(x, form))


def _rank(x: Kernels, form: Form) -> tuple[Any, ...]:
    target = named(x.target)
    return target.capability, x.form == form, x.small, x.aligned, target.feature


def _filters(of: Specialised, bound: Bound, rows: Rows) -> list[Filter]:
    """What a call demands: in words, the option that builds it, whether kernels fit, and what to show of those that do not."""
    sizes = {name: bound.features[name] for name in of.features}
    dtypes = {x.name: bound.inputs.operands[x.name].dtype.name for x in of.tables}
    small = is_small(of.layout(), bound.inputs)
    return [
        (bound.dtype, "", lambda x: x.dtype == bound.dtype, lambda x: x.dtype),
        (_sizes(sizes), "", lambda x: x.features == sizes, lambda x: _sizes(x.features)),
        (f"these tables: {_tables(dtypes)}", "", lambda x: x.tables == dtypes, lambda x: _tables(x.tables)),
        ("lengths or integers beyond 2**20", " --long", lambda x: small or not x.small, lambda x: "shorter ones"),
        (_rows(rows), "", lambda x: not x.aligned or rows.fit(named(x.target)), lambda x: f"{x.target} --aligned-only"),
    ]


def _rows(rows: Rows) -> str:
    if rows.aligned:
        return "rows that the copy engine does not take: strides below 0, or a length of stride 0"
    return "rows that are not aligned to 16 bytes"


def _those(found: Sequence[Kernels], shown: Callable[[Kernels], str]) -> str:
    return "; ".join(dict.fromkeys(shown(x) for x in found))


def _sizes(features: Any) -> str:
    return ", ".join(f"{axis} {n}" for axis, n in features.items())


def _tables(dtypes: Any) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())


def command(manifest: Manifest, bound: Bound, lse: bool, target: str) -> str:
    """The command that builds what a call needs."""
    d, e = bound.inputs.q.shape[3], bound.inputs.v.shape[3]
    arrays = {name: bound.inputs.operands[name].dtype.name for name in bound.kinds}
    parts = ["attnc build", f"FILE:{manifest.name}", f"--target {target}", f"--dtype {bound.dtype}", f"--head-dim {d}"]
    parts += [f"--value-dim {e}"] * (d != e)
    parts += [f"--const {shlex.quote(f'{name}={value}')}" for name, value in sorted(bound.constants.items())]
    parts += [f"--table {name}={dtype}" for name, dtype in sorted(arrays.items())]
    optional = [x.name for x in manifest.operands if x.role == "scalar" and not x.required and x.default is None]
    parts += [f"--scalar {name}" for name in optional if name not in bound.absent]
    parts += [f"--extent {axis}={n}" for axis, n in sorted(bound.features.items()) if axis not in ("d", "e")]
    return " ".join([*parts, *["--lse"] * lse, "--add --out DIR"])
