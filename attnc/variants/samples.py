"""Random operands that fit a variant of the library, for tests, checks and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


@dataclass(frozen=True, slots=True)
class Call:
    """The extents of a call, the dtype of its tensors, and the source of randomness."""

    rng: np.random.Generator
    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    d: int
    e: int
    dtype: np.dtype[Any]

    def floats(self, *shape: int) -> np.ndarray[Any, Any]:
        """Standard normal numbers in the dtype."""
        return self.rng.standard_normal(shape).astype(self.dtype)

    def upto(self, high: int, *shape: int) -> np.ndarray[Any, Any]:
        """Integers from 0 to `high`, which is included."""
        return self.rng.integers(0, high, shape, endpoint=True)

    def number(self, low: int, high: int) -> int:
        """One integer of [low, max(low, high)]."""
        return int(self.rng.integers(low, max(low, high), endpoint=True))

    def positive(self, low: float, high: float, *shape: int) -> np.ndarray[Any, Any]:
        """Numbers of [low, high) in the dtype."""
        return self.rng.uniform(low, high, shape).astype(self.dtype)

    def shared(self, extent: int) -> int:
        """`extent`, or 1: an operand may be shared along an axis."""
        return extent if self.rng.random() < 0.5 else 1


def examples_of(
    name: str,
    rng: np.random.Generator,
    B: int,
    Hq: int,
    Hkv: int,
    Lq: int,
    Lk: int,
    D: int,
    Dv: int,
    dtype: DTypeLike,
) -> dict[str, Any]:
    """Operands of the variant `name` for Q (B,Hq,Lq,D), K (B,Hkv,Lk,D), V (B,Hkv,Lk,Dv); {} where it has none.

    Float tensors are in `dtype` (angles in float64), masks are bool, indices int64, scalars plain numbers. Masks, windows and lengths are such
    that some rows may be empty. Raises KeyError for a name that is not in the library.
    """
    return _OPERANDS[name](Call(rng, B, Hq, Hkv, Lq, Lk, D, Dv, np.dtype(dtype)))


def _none(call: Call) -> dict[str, Any]:
    return {}


def _sliding_window(call: Call) -> dict[str, Any]:
    return {"window": call.number(1, call.kv_len)}


def _dilated_window(call: Call) -> dict[str, Any]:
    return {"window": call.number(0, call.kv_len), "dilation": call.number(1, 4)}


def _prefix_lm(call: Call) -> dict[str, Any]:
    return {"prefix": call.upto(call.kv_len, call.shared(call.batch))}


def _longformer(call: Call) -> dict[str, Any]:
    marks = call.rng.random((call.shared(call.batch), call.kv_len)) < 0.1
    return {"is_global": marks, "window": call.number(0, call.kv_len // 2)}


def _bigbird(call: Call) -> dict[str, Any]:
    block = call.number(1, call.kv_len // 4)
    blocks = max(1, -(-call.kv_len // block))
    chosen = call.rng.integers(-1, blocks, (call.shared(call.heads), blocks, 3))  # -1: no block
    return {"random": chosen, "block": block, "window": call.number(1, 5), "global_blocks": call.number(0, 1)}


def _alibi(call: Call) -> dict[str, Any]:
    return {"slopes": call.rng.uniform(0.001, 1.0, call.shared(call.heads)).astype(call.dtype)}


def _t5(call: Call) -> dict[str, Any]:
    # The other constants keep their defaults: each value is a kernel of its own.
    return {"table": call.floats(call.shared(call.heads), 32), "bidirectional": bool(call.rng.random() < 0.5)}


def _soft_cap(call: Call) -> dict[str, Any]:
    return {"cap": float(call.rng.uniform(0.5, 50.0))}


def _document(call: Call) -> dict[str, Any]:
    starts = call.rng.random((call.shared(call.batch), call.kv_len)) < 0.1
    doc = np.cumsum(starts, axis=1)
    padding = call.number(0, call.kv_len // 4)
    doc[:, call.kv_len - padding :] = -1
    return {"doc": doc}


def _shared_prefix(call: Call) -> dict[str, Any]:
    prefix = call.number(0, call.kv_len)
    starts = call.rng.random((call.shared(call.batch), call.kv_len)) < 0.1
    starts[:, :prefix] = False
    return {"text": np.cumsum(starts, axis=1), "prefix": prefix}


def _chunked(call: Call) -> dict[str, Any]:
    return {"chunk": call.number(1, call.kv_len)}


def _block_diffusion(call: Call) -> dict[str, Any]:
    return {"block": call.number(1, call.kv_len // 4)}


def _natten(call: Call) -> dict[str, Any]:
    return {"width": call.number(1, 24), "kernel": 2 * call.number(0, 6) + 1}


def _sliding_tile(call: Call) -> dict[str, Any]:
    window = {"rows": 2 * call.number(0, 2) + 1, "columns": 2 * call.number(0, 2) + 1}
    return {"tile": call.number(1, call.kv_len // 8), "width": call.number(1, 6), **window}


def _block_sparse(call: Call) -> dict[str, Any]:
    sizes = call.number(1, call.kv_len), call.number(1, call.kv_len // 4)
    blocks = (max(1, -(-call.kv_len // size)) for size in sizes)
    marks = call.rng.random((call.shared(call.batch), call.shared(call.heads), *blocks)) < 0.5
    return {"chosen": marks, "rows": sizes[0], "block": sizes[1]}


def _cross(call: Call) -> dict[str, Any]:
    return {"lengths": call.upto(call.kv_len, call.batch)}


def _additive_mask(call: Call) -> dict[str, Any]:
    shape = tuple(call.shared(n) for n in (call.batch, call.heads, call.q_len, call.kv_len))
    mask = call.floats(*shape)
    return {"M": np.where(call.rng.random(shape) < 0.3, -np.inf, mask).astype(call.dtype)}


RANK = 6  # of the projections of additive scores


def _temperature(call: Call) -> dict[str, Any]:
    return {"tau": call.positive(0.5, 2.0, call.shared(call.batch), call.shared(call.heads), call.q_len)}


def _learned_sink(call: Call) -> dict[str, Any]:
    return {"sink": call.floats(call.shared(call.heads))}


def _retention(call: Call) -> dict[str, Any]:
    return {"log_decay": -call.positive(0.001, 0.2, call.shared(call.heads))}


def _ssd(call: Call) -> dict[str, Any]:
    steps = call.positive(-0.3, 0.0, call.batch, call.shared(call.heads), call.kv_len)
    return {"A": np.cumsum(steps, axis=-1, dtype=np.float64).astype(call.dtype)}


def _cosine(call: Call) -> dict[str, Any]:
    bias = call.floats(call.shared(call.heads), call.q_len, call.kv_len)
    return {"tau": call.positive(0.1, 1.0, call.shared(call.heads)), "B": bias}


def _luong_general(call: Call) -> dict[str, Any]:
    return {"W": call.floats(call.heads, call.d, call.d) / np.asarray(call.d, call.dtype)}


def _bahdanau(call: Call) -> dict[str, Any]:
    return {**_projections(call), "u": call.floats(RANK)}


def _projections(call: Call) -> dict[str, Any]:
    scale = np.asarray(np.sqrt(call.d), call.dtype)
    return {"Wq": call.floats(call.d, RANK) / scale, "Wk": call.floats(call.d, RANK) / scale}


def _qk_norm(call: Call) -> dict[str, Any]:
    return {"gq": call.positive(0.5, 1.5, call.d), "gk": call.positive(0.5, 1.5, call.d)}


def _rope(call: Call) -> dict[str, Any]:
    from attnc.variants.rope import frequencies, quarter_turn

    return {"frequency": np.asarray(frequencies(call.d)), "turn": np.asarray(quarter_turn(call.d), call.dtype)}


def _rope_2d(call: Call) -> dict[str, Any]:
    from attnc.variants.rope import quarter_turn
    from attnc.variants.rope_2d import axial

    rows, columns = map(np.asarray, axial(call.d))
    return {
        "rows": rows,
        "columns": columns,
        "turn": np.asarray(quarter_turn(call.d), call.dtype),
        "width": call.number(1, 24),
    }


def _mla(call: Call) -> dict[str, Any]:
    q_rope = call.floats(call.batch, call.heads, call.q_len, RANK)
    return {"q_rope": q_rope, "k_rope": call.floats(call.batch, call.kv_len, RANK)}


def _alphafold(call: Call) -> dict[str, Any]:
    pair = call.floats(call.shared(call.batch), call.heads, call.q_len, call.kv_len)
    return {"pair": pair, "gate": call.floats(call.batch, call.heads, call.q_len, call.e)}


def _differential(call: Call) -> dict[str, Any]:
    q2 = call.floats(call.batch, call.heads, call.q_len, call.d)
    k2 = call.floats(call.batch, call.kv_heads, call.kv_len, call.d)
    return {
        "q2": q2,
        "k2": k2,
        "lam": call.positive(0.1, 0.9, call.shared(call.heads)),
        "norm": call.positive(0.5, 1.5, call.e),
    }


def _mixed_windows(call: Call) -> dict[str, Any]:
    near = call.number(1, call.kv_len)
    gates = call.positive(0.0, 1.0, call.batch, call.heads, call.q_len, 2)
    return {"gates": gates, "near": near, "far": call.number(near, call.kv_len)}


def _edges(call: Call) -> dict[str, Any]:
    return {"edges": call.rng.random((call.shared(call.batch), call.q_len, call.kv_len)) < 0.3}


def _gat(call: Call) -> dict[str, Any]:
    heads = call.shared(call.heads)
    return {"aq": call.floats(heads, call.d), "ak": call.floats(heads, call.d), **_edges(call)}


def _gatv2(call: Call) -> dict[str, Any]:
    return {**_projections(call), "a": call.floats(RANK), **_edges(call)}


def _positional(call: Call) -> dict[str, Any]:
    return {"R": call.floats(call.shared(call.heads), call.q_len, call.kv_len)}


def _factorized_positional(call: Call) -> dict[str, Any]:
    heads = call.shared(call.heads)
    return {"rows": call.floats(heads, call.q_len, RANK), "columns": call.floats(heads, call.kv_len, RANK)}


def _tupe(call: Call) -> dict[str, Any]:
    factors = _factorized_positional(call)
    return {"pq": factors["rows"], "pk": factors["columns"]}


def _graphormer(call: Call) -> dict[str, Any]:
    distance = call.upto(9, call.shared(call.batch), call.q_len, call.kv_len)
    path = call.floats(call.shared(call.batch), call.shared(call.heads), call.q_len, call.kv_len)
    return {"spatial": call.floats(call.shared(call.heads), 10), "distance": distance, "path": path}


_OPERANDS: dict[str, Callable[[Call], dict[str, Any]]] = {
    "additive_mask": _additive_mask, "alibi": _alibi, "bigbird": _bigbird, "block_diffusion": _block_diffusion,
    "block_sparse": _block_sparse, "causal": _none, "chunked": _chunked, "cross": _cross, "dilated_window": _dilated_window,
    "differential": _differential, "document": _document, "full": _none, "gqa": _none, "longformer": _longformer, "natten": _natten, "prefix_lm": _prefix_lm,
    "shared_prefix": _shared_prefix, "sliding_tile": _sliding_tile, "sliding_window": _sliding_window, "soft_cap": _soft_cap,
    "t5": _t5,
    "alphafold": _alphafold,
    "bahdanau": _bahdanau,
    "cosine": _cosine,
    "factorized_positional": _factorized_positional,
    "gat": _gat,
    "gatv2": _gatv2,
    "graphormer": _graphormer,
    "l2_distance": _none,
    "learned_sink": _learned_sink,
    "linear": _none,
    "luong_general": _luong_general,
    "mixed_windows": _mixed_windows,
    "mla": _mla,
    "polynomial": _none,
    "positional": _positional,
    "qk_norm": _qk_norm,
    "rbf": _none,
    "relu": _none,
    "relu_squared": _none,
    "retention": _retention,
    "rope": _rope,
    "rope_2d": _rope_2d,
    "sigmoid": _none,
    "softmax1": _none,
    "ssd": _ssd,
    "taylor": _none,
    "temperature": _temperature,
    "tupe": _tupe,
    "unnormalised": _none,
}  # fmt: skip
