"""Calls with arrays on a GPU: compiled for the device at hand, loaded once, launched where the arrays are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from attnc.backends.block import Layout
from attnc.backends.cuda import device
from attnc.backends.cuda.arrays import library_of, on_host, stream_of
from attnc.backends.cuda.check import Rows, rows
from attnc.backends.cuda.device import Gpu
from attnc.backends.cuda.executable import Executable
from attnc.backends.cuda.given import Given, look
from attnc.backends.cuda.load import Loaded, load
from attnc.backends.cuda.repeat import Repeat, Wanted, addresses, prepare
from attnc.backends.cuda.signature import signature as signature_of
from attnc.backends.launch import specialisation
from attnc.backends.outputs import check_output, whole
from attnc.dsl.place import here
from attnc.dsl.signature import Signature
from attnc.errors import DeviceError, UnsupportedError
from attnc.ir.graph import Graph
from attnc.passes.expand import feature_axes
from attnc.runtime.binding import Bound, as_numpy, bind, describe
from attnc.schedule.short import Form
from attnc.verification import Report, report

LIMIT = 64  # calls that are remembered


class Formula(Protocol):
    """What a call needs to know of a variant besides its kernels: with its constants, kinds of tensors, and lse or not."""

    @property
    def graph(self) -> Graph: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def lse(self) -> bool: ...


Prepared = TypeVar("Prepared", bound=Formula)


@dataclass(slots=True)
class DeviceCalls(Generic[Prepared]):
    """The calls of one variant.

    prepare: the formula of a call, with the lse or without. form: of its kernels, by the extents of the call. executable: these
    kernels for a GPU, for rows that lie so.
    """

    signature: Signature
    prepare: Callable[[Bound, bool], Prepared]
    form: Callable[[Prepared, Mapping[str, int]], Form]
    executable: Callable[[Prepared, Bound, Gpu, Rows, Form], Executable]
    _loaded: dict[Any, Loaded] = field(default_factory=dict)
    _repeats: dict[Any, tuple[Repeat, bool]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def again(
        self, q: Any, k: Any, v: Any, lse: bool, layout: str, operands: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], bool] | None:
        """What `run` gives, for a call like one before; None for another."""
        known = signature_of(q, k, v, operands, lse, layout)
        if known is None or (found := self._repeats.get(known[1])) is None:
            return None
        (repeat, is_tuple), (library, _, places) = found, known
        return repeat.run([places[n] for n in repeat.order], stream_of(library, repeat.call.loaded.gpu)), is_tuple

    def run(
        self, q: Any, k: Any, v: Any, lse: bool, layout: str, operands: Mapping[str, Any], out: Any = None
    ) -> tuple[tuple[Any, ...], bool]:
        """The outputs, and whether the variant returns a tuple.

        Raises what `bind`, `prepare` and `executable` raise, and DeviceError and OperandError for where and how arrays lie.
        """
        known = signature_of(q, k, v, operands, lse, layout) if out is None else None
        given = look(self.signature, q, k, v, operands, out)
        bound = bind(self.signature, given.q, given.k, given.v, given.operands, layout)
        prepared = self.prepare(bound, lse)
        repeat = self._ready(prepared, given, bound)
        written = None if given.out is None else (out, given.out.address)
        outputs = repeat.run(addresses(repeat, bound), given.stream, written)
        if known is not None:
            if len(self._repeats) >= LIMIT:
                self._repeats.clear()
            self._repeats[known[1]] = repeat, prepared.graph.tuple_output
        return outputs, prepared.graph.tuple_output

    def verify(self, q: Any, k: Any, v: Any, lse: bool, layout: str, operands: Mapping[str, Any]) -> Report:
        """The outputs of a call, copied to the host, beside the reference of its arrays, copied to the host."""
        outputs, _ = self.run(q, k, v, lse, layout, operands)
        bound = bind(self.signature, on_host(q), on_host(k), on_host(v), hosted(operands), layout)
        found = [as_numpy(on_host(x), "out") for x in outputs]
        graph = self.prepare(bound, lse).graph
        return report(graph, bound.inputs, [whole(bound, x) for x in found], [x.dtype.name for x in found])

    def _ready(self, prepared: Prepared, given: Given, bound: Bound) -> Repeat:
        """The call, with its kernels compiled and loaded."""
        graph, gpu = prepared.graph, given.gpu
        if given.out is not None:
            check_output(describe(given.out), graph, prepared.lse, bound)
        lie = rows(bound.inputs, given.out)
        known = specialisation(prepared.layout, bound.inputs, bound.features)
        form = self.form(prepared, bound.inputs.extents)
        key = (bound.specialisation, prepared.lse, bound.dtype, known, form, lie, gpu.number)
        if key not in self._loaded:
            with self._lock:  # of several threads that need it at once, one compiles
                if key not in self._loaded:
                    self._loaded[key] = load(self.executable(prepared, bound, gpu, lie, form), gpu)
        dtypes = [bound.dtype] * len(graph.outputs)
        if prepared.lse:
            dtypes[-1] = "float32"
        wanted = [Wanted(tuple(feature_axes(x)), dtype) for x, dtype in zip(graph.outputs, dtypes, strict=True)]
        return prepare(self._loaded[key], given, bound, wanted)


def hosted(operands: Mapping[str, Any]) -> dict[str, Any]:
    """Operands, with copies on the host of those on a GPU."""
    return {name: on_host(x) for name, x in operands.items()}


def wanted(asked: Any, q: Any, k: Any, v: Any) -> bool:
    """Whether a call with device=`asked` runs on a GPU: where its arrays are, if None.

    DeviceError: on "cuda" without arrays there, or where CUDA kernels cannot be launched. UnsupportedError: another device.
    """
    if asked not in (None, "cpu", "cuda"):
        raise UnsupportedError(
            f"a call on {asked!r}", where=here(), cause="attnc runs on two devices", cure='"cpu" or "cuda"'
        )
    found = asked != "cpu" and any(library_of(x) is not None for x in (q, k, v))
    if asked == "cuda" and not found:
        device.cupy()  # what is missing comes first: without it there is nowhere to move the arrays
        raise DeviceError(
            'device="cuda", and the arrays are in the host\'s memory',
            where=here(),
            cause="a call runs where its arrays are, and attnc moves none",
            cure="pass cupy.asarray(Q), or Q.cuda() in torch, and so K, V and array operands; device= may then be left out",
        )
    return found
