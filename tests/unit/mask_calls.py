"""Calls of the masks of published attentions, with lengths that tiles do not divide, and their random tables."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from masks import (
    block_causal,
    both_padded,
    both_sides,
    even_heads_choose,
    even_heads_local,
    every_other_block,
    from_the_left,
    global_and_window,
    image_spans,
    local_and_strided,
    morton_natten,
    morton_natten_by_masks,
    natten_1d,
    natten_2d_last_rows,
    natten_3d,
    natten_of_tiles,
    packed_causal,
    packed_causal_by_starts,
    same_document,
    sink_and_window,
    tree_by_ancestors,
    tree_by_intervals,
    window_per_head,
)

import attnc as at
from attnc import variants


@dataclass(frozen=True)
class Case:
    """One call: the variant, its lengths and its operands."""

    variant: at.Attention
    q_len: int
    kv_len: int
    operands: dict[str, Any] = field(default_factory=dict)
    batch: int = 1
    heads: int = 1

    def __str__(self) -> str:
        scalars = [f"{name}={x}" for name, x in self.operands.items() if np.ndim(x) == 0]
        return " ".join([self.variant.__name__, f"{self.q_len}x{self.kv_len}", *scalars])


def documents(seed: int, length: int, mean: int, batch: int = 2) -> np.ndarray:
    """Numbers of documents per token, in order."""
    starts = np.random.default_rng(seed).random((batch, length)) < 1 / mean
    return np.cumsum(starts, axis=1)


def starts_of(doc: np.ndarray) -> np.ndarray:
    """Per token, where its document begins."""
    first = np.concatenate([np.ones_like(doc[:, :1]), np.diff(doc, axis=1)], axis=1) > 0
    return np.maximum.accumulate(np.where(first, np.arange(doc.shape[1]), 0), axis=1)


def random_blocks(seed: int, heads: int, blocks: int, chosen: int) -> np.ndarray:
    """BigBird's table: key blocks per query block, none of them twice."""
    rng = np.random.default_rng(seed)
    return np.array([[rng.permutation(blocks)[:chosen] for _ in range(blocks)] for _ in range(heads)])


def tree(seed: int, nodes: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """A random tree in depth-first order: each node's ancestors and itself (which fills up), and the ends of subtrees."""
    rng = np.random.default_rng(seed)
    lines: list[list[int]] = [[0]]
    for n in range(1, nodes):
        kept = int(rng.integers(0, min(len(lines[-1]), depth - 1), endpoint=True))
        lines.append([*lines[-1][:kept], n])
    ancestor = np.array([line + [line[-1]] * (depth - len(line)) for line in lines])
    end = np.array([max(i for i in range(nodes) if n in lines[i]) + 1 for n in range(nodes)])
    return ancestor, end


def spans(seed: int, text: int, images: int, tokens: int) -> dict[str, np.ndarray]:
    """lo and hi of each text token: before the first image they are empty."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.integers(1, text, (2, images)), axis=1)
    last = (places[:, None] <= np.arange(text)[None, :, None]).sum(axis=2) - 1
    return {"lo": np.maximum(last, 0) * tokens, "hi": (last + 1) * tokens}


def block_choice(seed: int, heads: int, blocks: int) -> np.ndarray:
    """A quarter of the blocks before the diagonal, and the diagonal, per head."""
    marks = np.random.default_rng(seed).random((2, heads, blocks, blocks)) < 0.25
    return marks | np.eye(blocks, dtype=bool)


def square(variant: at.Attention, *lengths: int, batch: int = 1, heads: int = 1, **operands: Any) -> list[Case]:
    """Self-attention of several lengths."""
    return [Case(variant, n, n, operands, batch, heads) for n in lengths]


def _doc_cases(variant: at.Attention) -> list[Case]:
    return [Case(variant, n, n, {"doc": documents(n, n, mean)}, 2) for n, mean in ((300, 40), (517, 9), (517, 200))]


def _padded() -> Case:
    doc = documents(3, 517, 40)
    doc[:, -60:] = -1
    return Case(variants.document, 517, 517, {"doc": doc}, 2)


def _shuffled_documents() -> Case:
    ids = np.random.default_rng(6).permutation(517)
    return Case(same_document, 517, 517, {"doc": ids[documents(3, 517, 40)]}, 2)


def _choice_per_query(length: int, block: int) -> Case:
    chosen = np.random.default_rng(7).random((1, 2, length, -(-length // block))) < 0.3
    return Case(variants.block_sparse, length, length, {"chosen": chosen, "rows": 1, "block": block}, 1, 2)


def _late_docs() -> Case:
    return Case(packed_causal, 250, 517, {"doc": documents(1, 517, 60)}, 2)


def _shared_prefix(length: int, prefix: int) -> Case:
    text = documents(length, length, 50)
    return Case(variants.shared_prefix, length, length, {"text": text, "prefix": prefix}, 2)


def _bigbird(length: int, block: int) -> Case:
    random = random_blocks(length, 2, -(-length // block), 3)
    return Case(variants.bigbird, length, length, {"random": random, "block": block}, heads=2)


def _longformer(length: int, window: int) -> Case:
    marks = np.isin(np.arange(length), (0, 13, 100, 257))[None]
    return Case(variants.longformer, length, length, {"is_global": marks, "window": window})


def _tree(nodes: int, prompt: int, depth: int) -> Case:
    operands = {"ancestor": tree(nodes, nodes, depth)[0], "depth": depth}
    return Case(tree_by_ancestors, nodes, prompt + nodes, operands)


def _block_sparse(length: int, block: int) -> Case:
    operands = {"chosen": block_choice(length, 2, -(-length // block)), "rows": block, "block": block}
    return Case(variants.block_sparse, length, length, operands, 2, 2)


WINDOWS = np.array([16, 100, 129, 4096])
SORTED_LENGTHS = np.array([0, 129, 300])

EXACT: dict[str, list[Case]] = {
    "causal": [*square(from_the_left, 300), Case(from_the_left, 257, 430), Case(from_the_left, 430, 257)],
    "bottom-right causal": [Case(variants.causal, n, m) for n, m in ((300, 300), (131, 517), (517, 131))],
    "window": [
        *(case for n in (1, 100, 129, 4096) for case in square(variants.sliding_window, 517, window=n)),
        Case(variants.sliding_window, 300, 411, {"window": 100}),
        *(case for n in (0, 37, 129) for case in square(both_sides, 411, window=n)),
    ],
    "prefix-LM": [Case(variants.prefix_lm, n, 300, {"prefix": np.array([100, 0, 257])}, 3) for n in (300, 129)],
    "global+window": [
        *square(global_and_window, 517, tokens=5, window=100),
        *square(global_and_window, 300, tokens=70, window=45),
        _longformer(517, 100),
    ],
    "BigBird blocks": [_bigbird(600, 64), _bigbird(600, 48), _bigbird(517, 100), _bigbird(517, 32)],
    "documents": _doc_cases(same_document),
    "packed causal documents": [
        *_doc_cases(packed_causal),
        _late_docs(),
        Case(packed_causal_by_starts, 517, 517, {"start": starts_of(documents(2, 517, 60))}, 2),
    ],
    "shared prefix": [_shared_prefix(517, 100), _shared_prefix(300, 129)],
    "block diffusion": [
        *square(variants.block_diffusion, 512, 431, block=16),
        *square(variants.block_diffusion, 600, block=48),
        *square(variants.block_diffusion, 387, block=100),
    ],
    "natten 1-D": [*square(natten_1d, 300, kernel=13), *square(natten_1d, 517, kernel=129)],
    "natten 2-D": [
        *square(variants.natten, 990, width=33, kernel=7),
        *square(variants.natten, 4096, width=64, kernel=13),
        Case(variants.natten, 200, 990, {"width": 30, "kernel": 13}),
        Case(natten_2d_last_rows, 333, 990, {"width": 33, "kernel": 9}),
    ],
    "tiled natten": [
        *square(natten_of_tiles, 1536, width=48, rows=4, columns=8, kernel=9),
        *square(natten_of_tiles, 1600, width=40, rows=8, columns=8, kernel=13),
        *square(natten_of_tiles, 1280, width=64, rows=5, columns=16, kernel=3),
    ],
    "sliding tile 2-D": [
        *square(variants.sliding_tile, 1280, tile=64, width=5, rows=3, columns=3),
        *square(variants.sliding_tile, 960, tile=48, width=5, rows=3, columns=1),
    ],
    "strided blocks": [
        *(case for n in (48, 64) for case in square(local_and_strided, 1000, block=n, local=2, stride=4)),
        *square(local_and_strided, 428, block=123, local=1, stride=2),
        *(case for n in (48, 64) for case in square(every_other_block, 600, block=n, stride=3)),
    ],
    "block-causal": [
        *(case for n in (48, 64, 100) for case in square(block_causal, 517, block=n)),
        Case(block_causal, 200, 517, {"block": 48}),
    ],
    "chunked": [Case(variants.chunked, n, m, {"chunk": c}) for n, m, c in ((517, 517, 100), (200, 411, 128))],
    "per-batch length": [
        Case(variants.cross, 200, 300, {"lengths": SORTED_LENGTHS}, 3),
        Case(both_padded, 300, 300, {"lengths": SORTED_LENGTHS}, 3),
    ],
    "per-head window": [Case(window_per_head, n, 517, {"window": WINDOWS}, 1, 4) for n in (517, 200)],
    "sink+window": [Case(sink_and_window, n, 517, {"sinks": 4, "window": 100}) for n in (517, 300)],
    "even-odd heads": [
        *square(even_heads_local, 517, heads=3, window=100),
        *square(even_heads_choose, 411, heads=2, window=129),
    ],
}
NEARLY: dict[str, list[Case]] = {
    "dilated window": [
        Case(variants.dilated_window, 517, 517, {"window": w, "dilation": d}) for w, d in ((100, 2), (129, 3), (40, 7))
    ],
    "natten 3-D": [
        *square(natten_3d, 960, height=10, width=12, frames=3, kernel=5),
        *square(natten_3d, 1344, height=12, width=16, frames=3, kernel=7),
    ],
    "morton natten": [
        *square(morton_natten, 1024, bits=5, kernel=7),
        *square(morton_natten_by_masks, 1024, side=32, kernel=9),
    ],
    "tree mask": [
        _tree(200, 317, 6),
        _tree(64, 517, 8),
        *square(tree_by_intervals, 517, end=tree(3, 517, 40)[1]),
    ],
    "vision spans": [
        Case(image_spans, 517, 500, spans(4, 517, 5, 100), 2),
        Case(image_spans, 300, 387, spans(5, 300, 9, 43), 2),
    ],
    "block choice": [_block_sparse(600, 64), _block_sparse(600, 48)],
}
UNSORTED: dict[str, list[Case]] = {  # what a least and a greatest entry cannot tell apart: visited, and masked
    "documents and padding": [_padded()],
    "shuffled documents": [_shuffled_documents()],
    "block choice per query": [_choice_per_query(517, 64)],
}
