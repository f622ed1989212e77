"""Compile a variant into a directory, for calls that are described instead of made. Needs no GPU and no arrays."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import attnc
from attnc.aot.files import CUBIN, manifest_file, read_manifest, write_manifest
from attnc.aot.manifest import FORMAT, Kernels, Manifest, Specialised, StageFile, node_records, operand_record
from attnc.backends.arguments import layout
from attnc.backends.block import Layout
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.plan import DTYPES
from attnc.backends.cuda.report import Report
from attnc.compile import Problem, cuda_executable, lower
from attnc.dsl.signature import Operand
from attnc.dsl.trace import trace
from attnc.errors import KernelFileError, OperandError, UnsupportedError
from attnc.ir.graph import Graph
from attnc.ir.ops import Kind
from attnc.ir.text import expression
from attnc.lse import with_lse
from attnc.runtime.arrays import ITEMSIZE
from attnc.runtime.binding import constant
from attnc.runtime.cache import Cache
from attnc.schedule.cuda_target import named
from attnc.schedule.mma import CHUNK
from attnc.schedule.short import PLAIN, Form
from attnc.tile.merge import obstacle
from attnc.tile.program import Program
from attnc.tile.share import shares
from attnc.variant import Attention

NAMES = {"bf16": "bfloat16", "f16": "float16", "fp16": "float16", "f32": "float32", "fp32": "float32"}
GUESSED: dict[Kind, str] = {"int": "int64", "bool": "bool"}


@dataclass(frozen=True, slots=True)
class Request:
    """The calls to compile for: every dtype with every pair of head dims, of q and k, and of v.

    constants: values of compile-time constants. tables: dtypes of array operands; those not named have q's dtype, int64 or
    bool. scalars: optional numbers that calls will give. extents: of feature axes that only operands have. rows: which
    kernels, for aligned rows of q, k and v, and for any. long: also for lengths or integer scalars beyond 2**20. short: also
    kernels of their own for calls with few queries (`attnc.schedule.short`).
    """

    target: str = "sm_90"
    dtypes: Sequence[str] = ("bfloat16",)
    dims: Sequence[tuple[int, int]] = ((128, 128),)
    constants: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    scalars: Sequence[str] = ()
    extents: Mapping[str, int] = field(default_factory=dict)
    lse: bool = False
    rows: Sequence[str] = ("aligned", "any")
    long: bool = False
    short: bool = False


@dataclass(frozen=True, slots=True)
class _Traced:
    """One formula of the variant, down to its tile program. dtypes: of the tables that do not have q's."""

    constants: dict[str, Any]
    kinds: dict[str, Kind]
    absent: frozenset[str]
    graph: Graph
    program: Program
    layout: Layout


def build(variant: Attention, request: Request, folder: Path, *, add: bool = False, cache: Cache | None = None) -> Path:
    """Compile and write DIR/NAME.json with its cubins; returns the path of the manifest.

    add: beside what the directory already holds of this variant, which is otherwise replaced.

    Raises OperandError for names and values that do not fit the variant, UnsupportedError for what CUDA kernels cannot do
    and where the packages that compile are missing, KernelFileError where the directory holds something else or cannot be
    written, and what tracing raises.
    """
    file = manifest_file(folder, variant.__name__)
    before = read_manifest(file) if add and file.exists() else None
    traced = _traced(variant, request)
    compiled = _compile(variant.__name__, traced, request, cache or Cache())
    kernels = [x for x, _ in compiled]
    cubins = {name: code for _, files in compiled for name, code in files.items()}
    made = _specialised(traced, request.lse, kernels)
    operands = tuple(operand_record(x) for x in variant.signature.operands.values())
    doc = inspect.cleandoc(variant.__doc__ or "")
    fresh = Manifest(FORMAT, attnc.__version__, variant.__name__, doc, variant.signature.roles, operands, (made,))
    write_manifest(file, fresh if before is None else _merged(before, fresh, file), cubins)
    return file


def _traced(variant: Attention, request: Request) -> _Traced:
    operands = variant.signature.operands
    _check_names(variant, request)
    given = {*request.constants, *request.tables, *request.scalars}
    absent = frozenset(name for name, x in operands.items() if x.default is None and name not in given)
    present = [x for name, x in operands.items() if name not in absent]
    constants = {x.name: constant(x, _given(x, request)) for x in present if x.role == "const"}
    kinds: dict[str, Kind] = {}
    for x in present:
        if x.role == "tensor" and (x.kind is not None or x.name in request.tables):
            kinds[x.name] = _kind(request.tables[x.name]) if x.name in request.tables else x.kind or "float"
            if x.kind not in (None, kinds[x.name]):
                raise OperandError(
                    f"operand {x.name!r} as {request.tables[x.name]}",
                    cause=f"it is declared {x.declared}",
                    cure=f"name a dtype of kind {x.kind}",
                )
    graph = trace(variant.function, variant.signature, kinds=kinds, constants=constants, absent=absent)
    guessed = {x["name"]: x["kind"] for x in graph.nodes() if x.op == "gather"}
    kinds = {x.name: kinds.get(x.name) or guessed.get(x.name, "float") for x in present if x.role == "tensor"}
    graph = with_lse(graph) if request.lse else graph
    program = lower(graph)
    return _Traced(constants, kinds, absent, graph, program, layout(program))


def _given(x: Operand, request: Request) -> Any:
    if x.name not in request.constants and x.required:
        raise OperandError(
            f"the constant {x.name!r} is missing", cause="it has no default", cure=f"--const {x.name}=VALUE"
        )
    return request.constants.get(x.name, x.default)


def _check_names(variant: Attention, request: Request) -> None:
    roles = {"const": request.constants, "tensor": request.tables, "scalar": request.scalars}
    options = {"const": "--const", "tensor": "--table", "scalar": "--scalar"}
    for role, names in roles.items():
        known = [name for name, x in variant.signature.operands.items() if x.role == role]
        for name in names:
            if name not in known:
                raise OperandError(
                    f"{options[role]} {name}: {variant.__name__} has no such operand",
                    cause=f"what {options[role]} can name here: {', '.join(known) or 'none'}",
                    cure="correct the name, or the option",
                )


def _kind(dtype: str) -> Kind:
    if dtype not in ITEMSIZE:
        raise OperandError(f"dtype {dtype!r}", cause="unknown", cure=f"one of {', '.join(ITEMSIZE)}")
    return "bool" if dtype == "bool" else "float" if "float" in dtype else "int"


def _compile(
    name: str, traced: _Traced, request: Request, cache: Cache
) -> list[tuple[Kernels, dict[str, bytes]]]:  # fmt: skip
    """The kernels that were asked for, each with its files."""
    target, forms = named(request.target).name, _forms(traced.program) if request.short else [PLAIN]
    found = []
    for dtype in dict.fromkeys(NAMES.get(x, x) for x in request.dtypes):
        if dtype not in DTYPES:
            raise UnsupportedError(
                f"kernels in {dtype!r}", cause="CUDA kernels compute in float32", cure=f"one of {', '.join(DTYPES)}"
            )
        tables = {name: GUESSED.get(kind, dtype) for name, kind in traced.kinds.items()}
        tables |= {x.name: "float32" for x in traced.layout.tables if x.matrix} | dict(request.tables)
        for d, e in request.dims:
            features = _features(traced.layout, {"d": d, "e": e, **request.extents})
            whole = all(n * ITEMSIZE[dtype] % CHUNK == 0 for n in (d, e))
            aligned = [True] * ("aligned" in request.rows and whole)
            for rows in aligned + [False] * ("any" in request.rows or not whole):
                for small, form in itertools.product((True, False)[: 1 + request.long], forms):
                    problem = Problem(dtype, features, tables, int(request.lse), small=small)
                    made = cuda_executable(traced.graph, traced.program, problem, target, rows, form=form, cache=cache)
                    found.append(_kernels(name, made, dtype, features, tables, small))
    return found


def _forms(program: Program) -> list[Form]:
    """The plain one, and those that calls with few queries can have."""
    can_share, can_split = shares(program), not obstacle(program)
    kinds = [(x, y) for x in (False, can_share) for y in (False, can_split) if x or y]
    return [PLAIN, *dict.fromkeys(Form(x, y, warps) for x, y in kinds for warps in (1, 4))]


def _features(block: Layout, given: Mapping[str, int]) -> dict[str, int]:
    for axis in block.features:
        if axis not in given:
            raise OperandError(
                f"the extent of axis {axis!r} is missing",
                cause="a kernel is compiled for the extents of feature axes",
                cure=f"--extent {axis}=N",
            )
    return {axis: given[axis] for axis in block.features}


def _kernels(
    name: str, made: Executable, dtype: str, features: Mapping[str, int], tables: Mapping[str, str], small: bool
) -> tuple[Kernels, dict[str, bytes]]:  # fmt: skip
    sizes = "".join(f"-{axis}{n}" for axis, n in features.items())
    short = "-share" * made.form.share + "-split" * made.form.split + (f"-{made.form.warps}" if made.form.warps else "")
    call = f"-{dtype}{sizes}{'' if made.aligned else '-any'}{'' if small else '-long'}{short}"
    files: dict[str, bytes] = {}
    stages = []
    for stage in made.stages:
        digest = hashlib.sha256(stage.code).hexdigest()
        file = f"{name}-{stage.role}-{made.target.name}{call if stage.role == 'main' else ''}-{digest[:12]}{CUBIN}"
        files[file] = stage.code
        launch = stage.entry, stage.parameters, stage.threads, stage.shared_bytes, stage.maps, stage.persistent
        stages.append(StageFile(stage.role, file, digest, *launch, _resources(stage)))
    kept = {x.name: tables[x.name] for x in made.layout.tables}
    versions = _report(made.stages[0]).versions
    how = made.aligned, made.form, made.rows, made.record, made.flags
    return Kernels(made.target.name, dtype, features, kept, small, *how, versions, tuple(stages)), files


def _report(stage: Stage) -> Report:
    assert stage.report is not None, "internal error: kernels were compiled without a report"
    return stage.report


def _resources(stage: Stage) -> dict[str, Any]:
    """The compiler's report, without the seconds that it took: the same program gives the same bytes."""
    found = _report(stage).to_json()
    return {name: x for name, x in found.items() if name not in ("front", "link", "versions")}


def _specialised(traced: _Traced, lse: bool, kernels: Iterable[Kernels]) -> Specialised:
    block, graph = traced.layout, traced.graph
    nodes, outputs = node_records(graph)
    return Specialised(
        constants=dict(sorted(traced.constants.items())),
        kinds=dict(sorted(traced.kinds.items())),
        absent=tuple(sorted(traced.absent)),
        lse=lse,
        formula=tuple(expression(x) for x in graph.outputs),
        share=shares(traced.program),
        split=not obstacle(traced.program),
        words=tuple(block.words),
        roles=block.roles,
        tables=block.tables,
        searches=block.searches,
        scalars=block.scalars,
        features=block.features,
        kernels=tuple(sorted(kernels, key=lambda x: x.key)),
        outputs=outputs,
        tuple_output=graph.tuple_output,
        nodes=nodes,
    )


def _merged(before: Manifest, fresh: Manifest, file: Path) -> Manifest:
    """`before` with the kernels of `fresh`, which go first where both have the same."""
    if replace(before, specialised=()) != replace(fresh, specialised=()):
        raise _changed(file, "its signature is another")
    kept = {x.key: x for x in before.specialised}
    for x in fresh.specialised:
        old = kept.get(x.key)
        if old is not None and replace(old, kernels=()) != replace(x, kernels=()):
            raise _changed(file, "its formula is another")
        kernels = {y.key: y for y in (*(old.kernels if old else ()), *x.kernels)}
        kept[x.key] = replace(x, kernels=tuple(kernels[key] for key in sorted(kernels)))
    return replace(fresh, specialised=tuple(kept[key] for key in sorted(kept, key=repr)))


def _changed(file: Path, cause: str) -> KernelFileError:
    return KernelFileError(
        f"{file} holds kernels of another variant of this name",
        where=str(file),
        cause=cause,
        cure="build without --add, which replaces them, or into another directory",
    )
