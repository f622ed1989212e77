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
    from attnc.variants.alphafold import alphafold
    from attnc.variants.bahdanau import bahdanau
    from attnc.variants.bigbird import bigbird
    from attnc.variants.block_diffusion import block_diffusion
    from attnc.variants.block_sparse import block_sparse
    from attnc.variants.causal import causal
    from attnc.variants.chunked import chunked
    from attnc.variants.cosine import cosine
    from attnc.variants.cross import cross
    from attnc.variants.differential import differential
    from attnc.variants.dilated_window import dilated_window
    from attnc.variants.document import document
    from attnc.variants.factorized_positional import factorized_positional
    from attnc.variants.full import full
    from attnc.variants.gat import gat
    from attnc.variants.gatv2 import gatv2
    from attnc.variants.gqa import gqa
    from attnc.variants.graphormer import graphormer
    from attnc.variants.l2_distance import l2_distance
    from attnc.variants.learned_sink import learned_sink
    from attnc.variants.linear import linear
    from attnc.variants.longformer import longformer
    from attnc.variants.luong_general import luong_general
    from attnc.variants.mixed_windows import mixed_windows
    from attnc.variants.mla import mla
    from attnc.variants.natten import natten
    from attnc.variants.polynomial import polynomial
    from attnc.variants.positional import positional
    from attnc.variants.prefix_lm import prefix_lm
    from attnc.variants.qk_norm import qk_norm
    from attnc.variants.rbf import rbf
    from attnc.variants.relu import relu
    from attnc.variants.relu_squared import relu_squared
    from attnc.variants.retention import retention
    from attnc.variants.rope import rope
    from attnc.variants.rope_2d import rope_2d
    from attnc.variants.shared_prefix import shared_prefix
    from attnc.variants.sigmoid import sigmoid
    from attnc.variants.sliding_tile import sliding_tile
    from attnc.variants.sliding_window import sliding_window
    from attnc.variants.soft_cap import soft_cap
    from attnc.variants.softmax1 import softmax1
    from attnc.variants.ssd import ssd
    from attnc.variants.t5 import t5
    from attnc.variants.taylor import taylor
    from attnc.variants.temperature import temperature
    from attnc.variants.tupe import tupe
    from attnc.variants.unnormalised import unnormalised

__all__ = [
    "additive_mask",
    "alibi",
    "alphafold",
    "bahdanau",
    "bigbird",
    "block_diffusion",
    "block_sparse",
    "causal",
    "chunked",
    "cosine",
    "cross",
    "differential",
    "dilated_window",
    "document",
    "factorized_positional",
    "full",
    "gat",
    "gatv2",
    "gqa",
    "graphormer",
    "l2_distance",
    "learned_sink",
    "linear",
    "longformer",
    "luong_general",
    "mixed_windows",
    "mla",
    "natten",
    "polynomial",
    "positional",
    "prefix_lm",
    "qk_norm",
    "rbf",
    "relu",
    "relu_squared",
    "retention",
    "rope",
    "rope_2d",
    "shared_prefix",
    "sigmoid",
    "sliding_tile",
    "sliding_window",
    "soft_cap",
    "softmax1",
    "ssd",
    "t5",
    "taylor",
    "temperature",
    "tupe",
    "unnormalised",
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
