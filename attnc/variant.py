"""The user's object: a variant that can be called, checked against its reference, and looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from attnc import shortcut
from attnc.backends.outputs import given_back
from attnc.dsl.opaque import here
from attnc.dsl.signature import Signature, signature
from attnc.errors import TraceError
from attnc.graphs import Graphs
from attnc.interp import interpret
from attnc.ir.graph import Graph
from attnc.lse import with_lse as with_lse
from attnc.matrix import Matrix
from attnc.runtime.binding import Bound, as_numpy, bind

if TYPE_CHECKING:
    from attnc.backends.cuda.check import Rows
    from attnc.backends.cuda.device import Gpu
    from attnc.backends.cuda.executable import Executable
    from attnc.blocks import BlockMap
    from attnc.call import Result
    from attnc.compile import Problem, Stage
    from attnc.device_call import DeviceCalls
    from attnc.prepared import Prepared
    from attnc.schedule.short import Form
    from attnc.verification import Report
    from attnc.warm import Ready


class Attention(Matrix):
    """One attention variant.

    Call it, or its methods, with Q (B,Hq,Lq,D), K (B,Hkv,Lk,D), V (B,Hkv,Lk,Dv), all float16, bfloat16, float32 or float64,
    NumPy arrays or PyTorch tensors, and the operands by name. B of K and V may be 1, Hq a multiple of Hkv. Inputs of rank
    3 and 2 mean B = 1 and B = H = 1; layout="blhd" means (B, L, H, D). Calls, `verify` and `reference` also take arrays on a
    GPU: PyTorch's, CuPy's, JAX's.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        called: Signature | None = None,
        rewrite: Callable[[Graph], Graph] = lambda x: x,
    ) -> None:
        """called, rewrite: where calls have other operands than the function, and its graph is made to read them."""
        declared = signature(function)
        self.function, self.signature = function, called or declared
        super().__init__()
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "attention")
        self._graphs = Graphs(function, declared, rewrite)
        self._shortcuts: dict[tuple[Any, ...], tuple[bool, shortcut.Shortcut]] = {}
        self._compiling = threading.Lock()
        self._prepared: dict[tuple[Any, ...], Prepared] = {}
        self._compiled: dict[tuple[Any, ...], Ready] = {}
        self._on_device: DeviceCalls[Prepared] | None = None

    def __repr__(self) -> str:
        return f"<attention {self.__name__}({', '.join(self.signature.roles)})>"

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        return_lse: bool = False,
        out: Any = None,
        layout: str = "bhld",
        device: Any = None,
        **operands: Any,
    ) -> Any:
        """Run the compiled kernel.

        Returns an array of q's kind and dtype, (B,Hq,Lq,Dv) in q's rank and layout, or a tuple where the variant returns one.
        With `return_lse` also the natural log of the softmax's denominator, (B,Hq,Lq) in at least float32. `out`: an array
        for the (one) output, which is then returned. `device`: "cpu" or "cuda", where the arrays must be (an operand of the
        variant that is called so goes first); not given: where they are.

        Raises:
            AttncError: a class of attnc.errors for each kind of bad input, before anything is computed.
        """
        if device is not None:
            operands, device = self._device(device, operands)
        key = shortcut.key(q, k, v, return_lse, layout, operands) if out is None and device is None else None
        known = self._shortcuts.get(key) if key is not None else None
        if known is not None:
            tuple_output, repeat = known
            return given_back(repeat.run(q, k, v), tuple_output, return_lse)
        if self._on_device is not None and out is None and device != "cpu":
            again = self._on_device.again(q, k, v, return_lse, layout, operands)
            if again is not None:
                return given_back(*again, return_lse)
        self._refuse_traced(q, k, v)
        if (calls := self._device_calls(device, q, k, v)) is not None:
            return given_back(*calls.run(q, k, v, return_lse, layout, operands, out), return_lse)
        result = self._run(q, k, v, operands, layout, return_lse, out)
        if key is not None and (made := shortcut.shortcut(result)) is not None:
            if len(self._shortcuts) >= shortcut.LIMIT:
                self._shortcuts.clear()
            self._shortcuts[key] = result.bound_graph.tuple_output, made
        return given_back(result.outputs, result.bound_graph.tuple_output, return_lse)

    def _run(self, q: Any, k: Any, v: Any, operands: dict[str, Any], layout: str, lse: bool, out: Any) -> Result:
        from attnc.call import run

        bound = bind(self.signature, q, k, v, operands, layout)
        prepared = self._prepare(bound, lse)
        return run(prepared, self._kernel(prepared, bound), bound, q, out)

    def _device(self, device: Any, operands: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Operands, and where the call shall run."""
        operands, chosen = self._apart({"device": device}, operands)
        return operands, chosen.get("device")

    def _device_calls(self, device: Any, q: Any, k: Any, v: Any) -> DeviceCalls[Prepared] | None:
        """What calls with arrays on a GPU; None for a call on the CPU."""
        if device is None and isinstance(q, np.ndarray) and isinstance(k, np.ndarray) and isinstance(v, np.ndarray):
            return None  # before anything of CUDA is imported
        from attnc.device_call import DeviceCalls, wanted

        if not wanted(device, q, k, v):
            return None
        if self._on_device is None:
            self._on_device = DeviceCalls(self.signature, self._prepare, self._form, self._executable)
        return self._on_device

    def _form(self, prepared: Prepared, extents: Mapping[str, int]) -> Form:
        """Of the kernels of a call on a GPU."""
        from attnc.compile import cuda_form

        return cuda_form(prepared.program, extents)

    def _executable(self, prepared: Prepared, bound: Bound, gpu: Gpu, rows: Rows, form: Form) -> Executable:
        """The kernels of a call on a GPU."""
        from attnc.compile import cuda_executable
        from attnc.schedule.cuda_target import of_device

        target, problem = of_device(gpu.capability), self._problem(prepared, bound)
        call = prepared.graph, prepared.program, problem, target.name, rows.fit(target)
        return cuda_executable(*call, form=form)

    def _refuse_traced(self, *args: Any) -> None:
        from attnc.dsl.expr import Expr

        if any(isinstance(x, Expr) for x in args):
            raise TraceError(
                f"{self.__name__} is called inside a variant",
                where=here(),
                cause="a variant takes arrays; these are traced values (a recursion, perhaps)",
                cure="put what both share into a plain Python function and call that",
            )

    @property
    def graph(self) -> Graph:
        """The graph traced without inputs: operands at their defaults, optional ones absent, tensor kinds guessed."""
        return self._graphs.plain()

    def _trace(self, bound: Bound) -> Graph:
        return self._graphs.of(bound)

    def _derived(self, called: Signature, rewrite: Callable[[Graph], Graph]) -> Attention:
        return Attention(self.function, called, rewrite)

    def _prepare(self, bound: Bound, lse: bool) -> Prepared:
        key = (bound.specialisation, lse)
        graph = self._trace(bound)
        if key not in self._prepared:
            from attnc.prepared import prepare

            self._prepared[key] = prepare(with_lse(graph) if lse else graph, lse)
        return self._prepared[key]

    def _problem(self, prepared: Prepared, bound: Bound) -> Problem:
        from attnc.backends.launch import is_small
        from attnc.call import cpu_form
        from attnc.compile import Problem

        dtypes = {name: x.dtype.name for name, x in bound.inputs.operands.items() if isinstance(x, np.ndarray)}
        small, form = is_small(prepared.layout, bound.inputs), cpu_form(prepared, bound)
        return Problem(bound.dtype, bound.features, dtypes, int(prepared.lse), small=small, form=form)

    def _kernel(self, prepared: Prepared, bound: Bound) -> Ready:
        from attnc.backends.launch import specialisation
        from attnc.call import cpu_form

        form = cpu_form(prepared, bound)
        own = form, specialisation(prepared.layout, bound.inputs, bound.features)
        key = (bound.specialisation, prepared.lse, bound.dtype, *own)
        if key not in self._compiled:
            with self._compiling:  # of several threads that need it at once, one compiles
                if key not in self._compiled:
                    call = bound.dtype, prepared.lse, *own
                    self._compiled[key] = prepared.kernel(call, form, partial(self._problem, prepared, bound))
        return self._compiled[key]

    def reference(
        self, q: Any, k: Any, v: Any, *, return_lse: bool = False, layout: str = "bhld", **operands: Any
    ) -> Any:
        """Evaluate the formula densely in float64 with NumPy: the definition of what is right.

        Returns float64 arrays shaped like the variant's output, and with `return_lse` the lse (B,Hq,Lq), natural log.
        """
        from attnc.backends.cuda.arrays import on_host
        from attnc.backends.outputs import restore

        q, k, v, operands = on_host(q), on_host(k), on_host(v), {name: on_host(x) for name, x in operands.items()}
        bound = bind(self.signature, q, k, v, operands, layout)
        graph = self._trace(bound)
        results = interpret(with_lse(graph) if return_lse else graph, bound.inputs)
        return given_back(tuple(restore(bound, x) for x in results), graph.tuple_output, return_lse)

    def verify(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        return_lse: bool = False,
        layout: str = "bhld",
        device: Any = None,
        **operands: Any,
    ) -> Report:
        """Run the kernel and the reference; the report says the largest error and what is allowed (docs/language.md)."""
        from attnc.verification import report

        operands, device = self._device(device, operands)
        if (calls := self._device_calls(device, q, k, v)) is not None:
            return calls.verify(q, k, v, return_lse, layout, operands)
        result = self._run(q, k, v, operands, layout, return_lse, None)
        return report(result.bound_graph, result.bound.inputs, result.arrays, result.dtypes)

    def show(self, stage: Stage, q: Any, k: Any, v: Any, *, layout: str = "bhld", **operands: Any) -> str:
        """The variant at a stage of the pipeline: "graph" as traced, "fused", "tile", "source"."""
        from attnc.explain import show

        bound = bind(self.signature, q, k, v, operands, layout)
        prepared = self._prepare(bound, False)
        return show(stage, prepared.graph, self._problem(prepared, bound))

    def source(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        device: Any = None,
        target: Any = None,
        layout: str = "bhld",
        **operands: Any,
    ) -> str:
        """The emitted kernel for these inputs, as Python source.

        device: "cpu" (the default) or "cuda", for arrays whose rows are aligned; target: for CUDA, "sm_90" if not given.
        An operand of the variant that is called so goes first. Raises UnsupportedError for other devices and targets.
        """
        from attnc.schedule.cuda_target import asked

        mine, chosen = self._apart({"device": device, "target": target}, operands)
        if (cuda := asked("a kernel", **chosen)) is None:
            return self.show("source", q, k, v, layout=layout, **mine)
        from attnc.compile import cuda_form, cuda_source

        bound = bind(self.signature, q, k, v, mine, layout)
        prepared = self._prepare(bound, False)
        problem, form = self._problem(prepared, bound), cuda_form(prepared.program, bound.inputs.extents)
        return cuda_source(prepared.graph, prepared.program, problem, cuda, True, form)

    def _apart(self, asked: dict[str, Any], operands: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The variant's operands, and what was asked besides; a name that is both is the variant's."""
        own = self.signature.operands
        given = {name: x for name, x in asked.items() if x is not None}
        mine = {name: x for name, x in given.items() if name in own}
        return operands | mine, {name: x for name, x in given.items() if name not in own}

    def explain(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        device: Any = None,
        target: Any = None,
        layout: str = "bhld",
        **operands: Any,
    ) -> str:
        """The plan: sweeps and why, tiles that are empty, full and partial, work, schedule, and what to know of these inputs.

        device, target: as for `source`. For "cuda" the kernel is compiled, and what it takes of a GPU is part of the plan.
        Raises UnsupportedError for other devices and targets, and where the packages that compile are missing.
        """
        from attnc.explain import explain
        from attnc.schedule.cuda_target import asked

        mine, chosen = self._apart({"device": device, "target": target}, operands)
        cuda = asked("a plan", **chosen)
        bound = bind(self.signature, q, k, v, mine, layout)
        prepared = self._prepare(bound, False)
        return explain(prepared.graph, prepared.program, self._problem(prepared, bound), bound.inputs, cuda)

    def blocks(
        self,
        q: Any,
        k: Any,
        v: Any = None,
        *,
        tile: Any = None,
        sweep: Any = None,
        layout: str = "bhld",
        **operands: Any,
    ) -> BlockMap:
        """Which tiles of the scores are empty, full and partial: counts, a map to print, a picture (docs/language.md).

        tile: (rows, keys), else the kernel's. sweep: its number, else 0. An operand of the variant that is called so goes
        first. ShapeError: no such tile or sweep. The rest as in a call; V does not matter.
        """
        from attnc.blocks import blocks, no_values

        operands, chosen = self._apart({"tile": tile, "sweep": sweep}, operands)
        if v is None:
            v = no_values(as_numpy(k, "K"), self.signature, operands)
        bound = bind(self.signature, q, k, v, operands, layout)
        prepared = self._prepare(bound, False)
        return blocks(prepared.graph, prepared.program, self._problem(prepared, bound), bound.inputs, **chosen)

    def bisect(self, q: Any, k: Any, v: Any, *, layout: str = "bhld", **operands: Any) -> str:
        """Which level first disagrees with the graph: "tile", "kernel", or "none"."""
        from attnc.explain import disagreement

        result = self._run(q, k, v, operands, layout, False, None)
        program = self._prepare(result.bound, False).program
        return disagreement(result.bound_graph, program, result.bound.inputs, result.arrays, result.dtypes)


def attention(function: Callable[..., Any]) -> Attention:
    """Make a variant of a function that states its formula (docs/language.md)."""
    return Attention(function)
