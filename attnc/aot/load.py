"""Run a variant from a directory of kernels: nothing is traced or compiled. Imports neither Numba nor what makes kernels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnc.aot.choose import kernels, specialised
from attnc.aot.files import MANIFEST, executable, manifests, read_manifest
from attnc.aot.manifest import Manifest, Specialised
from attnc.backends.block import Layout
from attnc.backends.cuda.check import Rows
from attnc.backends.cuda.device import Gpu
from attnc.backends.cuda.executable import Executable
from attnc.backends.outputs import given_back
from attnc.device_call import DeviceCalls, wanted
from attnc.dsl.place import here
from attnc.errors import KernelFileError
from attnc.interp import parts
from attnc.ir.graph import Graph
from attnc.passes.check_ranges import check_ranges
from attnc.runtime.binding import Bound
from attnc.schedule.short import Form
from attnc.schedule.short import choose as choose_form


@dataclass(frozen=True, slots=True)
class Ready:
    """A formula of the directory. layout: of its argument block. lse: whether it is the last output."""

    graph: Graph
    layout: Layout
    lse: bool
    of: Specialised


class Prebuilt:
    """A variant whose kernels were compiled ahead of time.

    Called as the variant is, with arrays on a GPU, and with the same checks: Q (B,Hq,Lq,D), K (B,Hkv,Lk,D), V (B,Hkv,Lk,Dv),
    all float16, bfloat16 or float32, and the operands by name. Only what was built can be called.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.signature = manifest.signature()
        self.__name__, self.__doc__ = manifest.name, manifest.doc
        self._ready: dict[tuple[Any, ...], Ready] = {}
        self._calls: DeviceCalls[Ready] = DeviceCalls(self.signature, self._prepare, self._form, self._executable)

    def __repr__(self) -> str:
        return f"<attention {self.__name__}({', '.join(self.signature.roles)}) from {self.folder}>"

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        return_lse: bool = False,
        out: Any = None,
        layout: str = "bhld",
        **operands: Any,
    ) -> Any:
        """Launch the kernels on the caller's current stream; arguments and result as of `Attention`.

        Raises what a call of the variant raises. UnsupportedError, DeviceError: the kernels of this call were not built; the
        cure is the command that builds them. KernelFileError: their file is missing or damaged.
        """
        again = self._calls.again(q, k, v, return_lse, layout, operands) if out is None else None
        if again is not None:
            return given_back(*again, return_lse)
        wanted("cuda", q, k, v)
        return given_back(*self._calls.run(q, k, v, return_lse, layout, operands, out), return_lse)

    def _prepare(self, bound: Bound, lse: bool) -> Ready:
        of = specialised(self.manifest, bound, lse)
        if of.key not in self._ready:
            self._ready[of.key] = Ready(of.graph(self.__name__), of.layout(), lse, of)
        ready = self._ready[of.key]
        operands = bound.inputs.operands
        if operands:
            shapes, scalars = parts(operands)
            check_ranges(ready.graph, bound.inputs.extents, shapes, scalars)
        return ready

    def _form(self, ready: Ready, extents: Mapping[str, int]) -> Form:
        q_len, kv_len, group = (extents[name] for name in ("q_len", "kv_len", "group"))
        return choose_form(q_len, kv_len, group, ready.of.share, ready.of.split)

    def _executable(self, ready: Ready, bound: Bound, gpu: Gpu, rows: Rows, form: Form) -> Executable:
        chosen = kernels(self.manifest, ready.of, bound, gpu.capability, rows, form)
        return executable(self.folder, chosen, ready.layout)


def load(folder: str | os.PathLike[str], name: str | None = None) -> Prebuilt:
    """The variant `name` of a directory that `attnc build` made; the only one, if no name is given.

    KernelFileError: there is no such directory or variant, it is damaged, or another version of attnc made it.
    """
    path = Path(folder)
    files = manifests(path)
    names = [x.name.removesuffix(MANIFEST) for x in files]
    if name is None and len(files) > 1:
        raise KernelFileError(
            f"{path} holds several variants",
            where=here(),
            cause=f"they are: {', '.join(names)}",
            cure=f"name one: attnc.load({str(folder)!r}, {names[0]!r})",
        )
    if name is not None and name not in names:
        raise KernelFileError(
            f"{path} does not hold {name!r}",
            where=here(),
            cause=f"its variants are: {', '.join(names)}",
            cure=f"name one of them, or build it: attnc build FILE:{name} --out {folder}",
        )
    return Prebuilt(path, read_manifest(files[0] if name is None else path / f"{name}{MANIFEST}"))
