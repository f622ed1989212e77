"""The files of a directory of kernels: NAME.json of each variant, and the cubins that it names. Damage is found, and said where."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attnc
from attnc.aot.manifest import FORMAT, Kernels, Manifest, StageFile
from attnc.aot.record import read, write
from attnc.backends.block import Layout
from attnc.backends.cuda.executable import Executable, Stage
from attnc.errors import AttncError, KernelFileError, UnsupportedError
from attnc.ir.graph import IRError
from attnc.schedule.cuda_target import named
from attnc.schedule.short import PLAIN

MANIFEST, CUBIN = ".json", ".cubin"
BUILD = "attnc build FILE:NAME --out DIR"


def manifest_file(folder: Path, name: str) -> Path:
    """Where the manifest of a variant stands. UnsupportedError where its name cannot be a file's."""
    if not name.isidentifier():
        raise UnsupportedError(
            f"a directory of kernels of {name!r}",
            cause="its files are called as the variant is",
            cure="make it from a function that has a name: def, not lambda",
        )
    return folder / f"{name}{MANIFEST}"


def manifests(folder: Path) -> list[Path]:
    """All manifests of a directory, by name. KernelFileError where there are none."""
    if not folder.is_dir():
        raise _refused(
            folder, "no directory", "it is a file" if folder.exists() else "it does not exist", "check the path"
        )
    found = sorted(x for x in folder.iterdir() if x.suffix == MANIFEST)
    if not found:
        cause = f"it has no {MANIFEST} file"
        raise _refused(folder, "no directory of kernels", cause, f"make one: {BUILD}")
    return found


def read_manifest(file: Path) -> Manifest:
    """A manifest of this version of attnc. KernelFileError where it is missing, damaged or another's."""
    again = f"build it again: {BUILD}"
    try:
        text = file.read_bytes()
    except OSError as error:
        raise _refused(file, "no kernels", f"the manifest cannot be read: {error.strerror}", again) from error
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or "format" not in data or "attnc" not in data:
            raise _refused(file, "not a manifest of attnc's kernels", "it says neither format nor version", again)
        if data["format"] != FORMAT:
            cause = f"its format is {data['format']!r}; attnc {attnc.__version__} reads {FORMAT}"
            raise _refused(file, "kernels of another attnc", cause, again)
        if data["attnc"] != attnc.__version__:
            cause = f"attnc {data['attnc']} compiled them, and this is {attnc.__version__}: arguments may be passed otherwise"
            raise _refused(file, "kernels of another attnc", cause, f"{again}; or install that version")
        found = read(Manifest, text)
        for x in found.specialised:
            x.graph(found.name)
    except AttncError:
        raise
    except (ValueError, IRError, LookupError, TypeError) as error:
        raise _refused(file, "a damaged manifest", str(error) or type(error).__name__, again) from error
    return found


def described(file: Path) -> str:
    """A line for each kernel of a manifest: what it is for, and its resources."""
    lines = [str(file)]
    for x in read_manifest(file).specialised:
        given = [f"{name}={value!r}" for name, value in x.constants.items()] + ["lse"] * x.lse
        for y in x.kernels:
            sizes = [f"{axis} {n}" for axis, n in y.features.items()]
            rows = [
                "aligned rows" if y.aligned else "any rows",
                *["long"] * (not y.small),
                *["few queries"] * (y.form != PLAIN),
            ]
            used = "; ".join(_used(stage) for stage in y.stages)
            lines.append(f"  {', '.join([y.target, y.dtype, *sizes, *rows, *given])}: {used}")
    return "\n".join(lines)


def _used(x: StageFile) -> str:
    return f"{x.role} {x.resources.get('registers')} registers, {x.resources.get('stack')} bytes of stack"


def executable(folder: Path, kernels: Kernels, layout: Layout) -> Executable:
    """The kernels with their code. KernelFileError where a file is missing or is not what was compiled."""
    stages = tuple(_stage(folder, x) for x in kernels.stages)
    launch = kernels.rows, kernels.aligned, kernels.form, kernels.record
    target, flags, features = named(kernels.target), kernels.flags, kernels.features
    return Executable(target, layout, stages, *launch, flags=flags, features=features)


def _stage(folder: Path, x: StageFile) -> Stage:
    again = f"copy the directory again, or {BUILD}"
    file = folder / Path(x.file).name  # never outside of the directory
    try:
        code = file.read_bytes()
    except OSError as error:
        raise _refused(file, "a kernel is missing", f"{error.strerror}; the manifest names it", again) from error
    if hashlib.sha256(code).hexdigest() != x.sha256:
        cause = f"its {len(code)} bytes do not have the checksum of the manifest"
        raise _refused(file, "a damaged kernel", cause, again)
    launch = x.threads, x.shared_bytes
    return Stage(x.role, code, x.entry, x.parameters, *launch, maps=x.maps, persistent=x.persistent)


def write_manifest(file: Path, manifest: Manifest, cubins: Mapping[str, bytes]) -> None:
    """Write the cubins, then the manifest, then remove cubins that only the manifest before it named."""
    before = _named(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for name, code in cubins.items():
            _replace(file.parent / name, code)
        _replace(file, write(manifest).encode())
    except OSError as error:
        raise _refused(
            file.parent, "kernels cannot be written", f"{error.strerror}", "name a directory that can be written"
        ) from error
    now = {stage.file for x in manifest.specialised for kernels in x.kernels for stage in kernels.stages}
    for name in before - now:
        with contextlib.suppress(OSError):
            (file.parent / name).unlink()


def _named(file: Path) -> set[str]:
    """The cubins of a manifest that may be missing, damaged or of another version."""
    try:
        data = json.loads(file.read_bytes())
        stages = [s for x in data["specialised"] for kernels in x["kernels"] for s in kernels["stages"]]
        names = {Path(str(s["file"])).name for s in stages}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {x for x in names if x.startswith(f"{file.stem}-") and x.endswith(CUBIN)}


def _replace(file: Path, data: bytes) -> None:
    """Readers see the old bytes or the new ones."""
    part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    part.write_bytes(data)
    os.replace(part, file)


def _refused(file: Any, message: str, cause: str, cure: str) -> KernelFileError:
    return KernelFileError(f"{file}: {message}", where=str(file), cause=cause, cure=cure)
