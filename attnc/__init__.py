"""attnc: write an attention as a formula; get a fused kernel that is checked against a NumPy interpreter."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = [
    "abs",
    "clip",
    "cos",
    "dot",
    "erf",
    "exp",
    "exp2",
    "floor",
    "gelu",
    "log",
    "log1p",
    "log2",
    "max",
    "maximum",
    "min",
    "minimum",
    "pow",
    "relu",
    "rsqrt",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "size",
    "softmax",
    "softplus",
    "sqrt",
    "sum",
    "tanh",
    "where",
    "inf",
    "pi",
]
_HOME = {
    **dict.fromkeys(_FUNCTIONS, "attnc.dsl.functions"),
    "attention": "attnc.variant", "Attention": "attnc.variant", "from_flex": "attnc.flex",
    "Tensor": "attnc.dsl.signature", "Const": "attnc.dsl.signature",
    "AttncError": "attnc.errors", "merge": "attnc.combine", "load": "attnc.aot.load", "MultiHead": "attnc.multihead",
    "set_num_threads": "attnc.backends.cpu.threads", "get_num_threads": "attnc.backends.cpu.threads",
}  # fmt: skip
_MODULES = ("variants",)
_EXTENTS = ("q_len", "kv_len", "group")

__all__ = ["__version__", *_HOME, *_EXTENTS, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"attnc.{name}")
    elif name in _EXTENTS:
        value = import_module("attnc.dsl.functions").extent(name)
    else:
        raise AttributeError(f"module 'attnc' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
