"""The library of attentions: `variants.causal(Q, K, V)`. Each is loaded when it is first named.

A file holds one variant of the same name, its formula and its paper; `python -m attnc.variants.NAME` draws it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnc.variants.additive_mask import additive_mask
    from attnc.variants.alibi import alibi
    from attnc.variants.bigbird import bigbird
    from attnc.variants.block_diffusion import block_diffusion
    from attnc.variants.block_sparse import block_sparse
    from attnc.variants.causal import causal
    from attnc.variants.chunked import chunked
    from attnc.variants.cross import cross
    from attnc.variants.dilated_window import dilated_window
    from attnc.variants.document import document
    from attnc.variants.full import full
    from attnc.variants.gqa import gqa
    from attnc.variants.longformer import longformer
    from attnc.variants.natten import natten
    from attnc.variants.prefix_lm import prefix_lm
    from attnc.variants.shared_prefix import shared_prefix
    from attnc.variants.sliding_tile import sliding_tile
    from attnc.variants.sliding_window import sliding_window
    from attnc.variants.soft_cap import soft_cap
    from attnc.variants.t5 import t5

__all__ = [
    "additive_mask",
    "alibi",
    "bigbird",
    "block_diffusion",
    "block_sparse",
    "causal",
    "chunked",
    "cross",
    "dilated_window",
    "document",
    "full",
    "gqa",
    "longformer",
    "natten",
    "prefix_lm",
    "shared_prefix",
    "sliding_tile",
    "sliding_window",
    "soft_cap",
    "t5",
]


class _Library(ModuleType):
    """This package. Importing a submodule binds its name here, to the module; the name must mean the variant."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Library


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.{name}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
