"""Compile every kernel that the checks and the benchmark on a GPU need: `python tests/gpu/gpu_build.py DIR [TARGET...]`. No GPU needed.

Each target has a directory of its own, DIR/TARGET. The default is what a Hopper GPU runs: kernels for sm_90a, and those for sm_90 to
compare them with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from gpu_cases import BENCHED, Case, cases

from attnc.aot.build import Request, build
from attnc.schedule.short import LEAST, QUERIES

TARGETS = ("sm_90a", "sm_90")


def request(case: Case, target: str) -> Request:
    """What `attnc build` would be asked for."""
    _, operands = case.inputs()
    declared = case.variant.signature.operands
    constants = {name: x for name, x in operands.items() if declared[name].role == "const"}
    tables = {name: x.dtype.name for name, x in operands.items() if declared[name].role == "tensor"}
    extents = {a: n for name in tables for a, n in zip(declared[name].axes, operands[name].shape, strict=True)}
    rows = ("any",) if case.strided else ("aligned",)
    dims = ((case.setting.D, case.setting.Dv),)
    short = case.lengths[0] <= QUERIES and case.lengths[1] > LEAST
    return Request(target, (case.dtype,), dims, constants, tables, (), extents, case.lse, rows, short=short)


def wanted(target: str) -> Iterator[tuple[str, list[Request]]]:
    """The requests of each variant, each once."""
    found: dict[str, dict[str, Request]] = {}
    for case in [*cases(), *(Case(name, D=128) for name in BENCHED)]:
        made = request(case, target)
        found.setdefault(case.name, {})[
            repr((made.dtypes, made.dims, made.constants, made.tables, made.lse, made.rows, made.short))
        ] = made
    for name, requests in found.items():
        yield name, list(requests.values())


def compile_all(job: tuple[str, list[Request], str]) -> str:
    """Compile one variant; in a process of its own."""
    import attnc.variants as library

    name, requests, folder = job
    for n, x in enumerate(requests):
        build(getattr(library, name), x, Path(folder), add=n > 0)
    return f"{folder}: {name}: {len(requests)} kernels"


def main(folder: str, *targets: str) -> None:
    """All of it, on all processors."""
    jobs: list[Any] = [
        (name, requests, str(Path(folder, target)))
        for target in targets or TARGETS
        for name, requests in wanted(target)
    ]
    with ProcessPoolExecutor(int(os.environ.get("JOBS", os.cpu_count() or 1))) as pool:
        for text in pool.map(compile_all, jobs):
            print(text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
