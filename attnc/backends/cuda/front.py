"""Numba's front end for emitted kernels: Python to LLVM code. Importing this imports numba-cuda.

Most of its time went into types: which of dozens of implementations of + takes two integers, asked anew for each of hundreds
of additions. So kernels are compiled in contexts of attnc's own, which remember the answers, from one kernel to the next.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from numba.cuda import types
from numba.cuda.compiler import CUDACallConv, compile_extra
from numba.cuda.core.compiler_lock import global_compiler_lock
from numba.cuda.core.targetconfig import ConfigStack
from numba.cuda.cudaimpl import registry
from numba.cuda.descriptor import cuda_target
from numba.cuda.flags import CUDAFlags
from numba.cuda.target import CUDATargetContext, CUDATypingContext
from numba.cuda.utils import numba_target_override

from attnc.backends.cuda.passes import Passes


class Typing(CUDATypingContext):
    """The types of functions and operators, remembered. settled: all that a kernel may call is registered."""

    def init(self) -> None:
        self.settled = False
        self.remembered: dict[Any, Any] = {}

    def refresh(self) -> None:
        if not self.settled:
            super().refresh()

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        if kws or isinstance(func, str):  # such as "static_getitem", whose operands are not all types
            return super().resolve_function_type(func, args, kws)
        found = self.remembered.get((func, args))
        if found is None:
            found = self.remembered[func, args] = super().resolve_function_type(func, args, kws)
        return found


class Target(CUDATargetContext):
    """The implementations of what `Typing` has found."""

    def init(self) -> None:
        super().init()
        self.functions: dict[Any, Any] = {}

    def refresh(self) -> None:
        if self.typing_context.settled:
            self.install_registry(registry)  # where Numba puts an intrinsic for types that it meets first
        else:
            super().refresh()

    def python(self, function: Any, sig: Any) -> Any:
        """A Python function compiled for operands of these types, and linked to the code that is being made."""
        key = function, sig
        if key not in self.functions:
            self.functions[key] = _compiled(self, function, sig.args, sig.return_type, ConfigStack().top().copy())
        self.active_code_library.add_linking_library(self.functions[key].library)
        return self.functions[key]


def _compiled(target: Any, function: Any, arguments: Sequence[Any], result: Any, flags: Any) -> Any:
    return compile_extra(
        target.typing_context, target, function, tuple(arguments), result, flags, {},
        pipeline_class=Passes, call_conv=CUDACallConv(target),
    )  # fmt: skip


@functools.cache
def _contexts() -> tuple[Typing, Target]:
    typing = Typing()
    return typing, Target(typing)


@contextlib.contextmanager
def _own() -> Iterator[Target]:
    """Numba-cuda works with attnc's contexts instead of its own, where it registers intrinsics too. Under its lock."""
    typing, target = _contexts()
    before = cuda_target._typingctx, cuda_target._targetctx
    cuda_target._typingctx, cuda_target._targetctx = typing, target
    try:
        assert cuda_target.target_context is target, "internal error: Numba keeps its contexts elsewhere"
        target.refresh()
        typing.settled = True
        yield target
    finally:
        typing.settled = False
        cuda_target._typingctx, cuda_target._targetctx = before


def compile_kernel(function: Any, arguments: Sequence[Any], capability: tuple[int, int]) -> Any:
    """Numba's result for a function that returns nothing."""
    flags = CUDAFlags()
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.lto = True  # LLVM code alone
    flags.error_model = "numpy"
    flags.compute_capability = capability
    with global_compiler_lock, _own() as target, numba_target_override():
        found = _compiled(target, function, arguments, types.void, flags)
    found.library.finalize()
    return found
