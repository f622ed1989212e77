"""How other attentions on a CPU are called. Their packages are imported when they are asked; one that is missing says so in its row.

A peer makes of a case something ready to be called, or raises: ImportError where it is not installed, NotImplementedError where it
has no such attention, and whatever its compiler raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from attnc.bench.case import Array, Case

Inputs = tuple[Array, Array, Array]


@dataclass(frozen=True, slots=True)
class Ready:
    """call(): the attention, whose output `read` turns into NumPy. pairs: of one head that it visits, None where all or unknown.

    with_mask, mask: where a mask can be made before, both together and the making of the mask alone.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Array] = np.asarray
    with_mask: Callable[[], Any] | None = None
    mask: Callable[[], Any] | None = None
    pairs: int | None = None
    keep: Any = field(default=None, repr=False)


class Peer(Protocol):
    """Prepares a case for the threads of all."""

    def __call__(self, case: Case, inputs: Inputs, threads: int) -> Ready: ...


def sdpa(case: Case, inputs: Inputs, threads: int) -> Ready:
    """PyTorch's scaled_dot_product_attention; with a boolean mask where the case has another than causal."""
    import torch

    if case.score is not None:
        raise NotImplementedError("it needs a matrix of biases")
    attend = partial(
        torch.nn.functional.scaled_dot_product_attention,
        scale=case.scale,
        enable_gqa=case.shape.heads != case.shape.kv_heads,
    )
    tensors = [tensor(torch, x) for x in inputs]
    if case.mask is None:
        if case.causal and case.shape.q_len != case.shape.kv_len:
            raise NotImplementedError("its causal mask begins at the first key")
        return Ready(_inference(torch, partial(attend, *tensors, is_causal=case.causal)), _numpy)
    make = partial(_matrix, torch, case)
    mask = make()
    return Ready(
        _inference(torch, partial(attend, *tensors, attn_mask=mask)), _numpy,
        _inference(torch, lambda: attend(*tensors, attn_mask=make())), make, case.shape.q_len * case.shape.kv_len,
    )  # fmt: skip


def flex(case: Case, inputs: Inputs, threads: int) -> Ready:
    """PyTorch's flex_attention and its create_block_mask, both compiled, which takes a minute."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()  # else a second length makes kernels for any length, which are slower
    attention, create = (torch.compile(x, dynamic=False) for x in (flex_attention, create_block_mask))
    score = case.score(torch) if case.score is not None else None
    attend = partial(
        attention, *(tensor(torch, x) for x in inputs), score_mod=score, scale=case.scale,
        enable_gqa=case.shape.heads != case.shape.kv_heads,
    )  # fmt: skip
    mod = case.mask_mod(torch)
    if mod is None:
        return Ready(_inference(torch, attend), _numpy)
    make = _inference(torch, partial(create, mod, None, None, case.shape.q_len, case.shape.kv_len, device="cpu"))
    mask = make()
    rows, keys = mask.BLOCK_SIZE
    blocks = int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum())
    return Ready(
        _inference(torch, partial(attend, block_mask=mask)), _numpy,
        _inference(torch, lambda: attend(block_mask=make())), make, blocks * int(rows) * int(keys),
    )  # fmt: skip


def numpy(case: Case, inputs: Inputs, threads: int) -> Ready:
    """The formula, unfused, a head at a time, in float32 with NumPy's BLAS, which takes its threads from the environment."""
    s, factor = case.shape, np.float32(case.factor)
    score, mod = case.score and case.score(np), case.mask_mod(np)
    i, j = np.arange(s.q_len)[:, None], np.arange(s.kv_len)[None, :]

    def attend() -> Array:
        out = np.empty(s.q, inputs[0].dtype)
        for b in range(s.batch):
            for h in range(s.heads):
                q, k, v = (
                    x[b, n].astype(np.float32, copy=False)
                    for x, n in zip(inputs, _heads(s.heads, s.kv_heads, h), strict=True)
                )
                scores = q @ k.T * factor
                if score is not None:
                    scores = score(scores, b, h, i, j).astype(np.float32, copy=False)
                if mod is not None:
                    scores = np.where(mod(b, h, i, j), scores, np.float32(-np.inf))
                scores -= scores.max(axis=1, keepdims=True)
                np.exp(scores, out=scores)
                out[b, h] = scores @ v / scores.sum(axis=1, keepdims=True)
        return out

    return Ready(attend)


def onnxruntime(case: Case, inputs: Inputs, threads: int) -> Ready:
    """ONNX Runtime's CPU kernel of the operator Attention, opset 23 (1.23 and later); the package onnx writes the model."""
    import onnx
    import onnxruntime as ort

    if case.score is not None or case.mask is not None:
        raise NotImplementedError("it needs a matrix of biases")
    if case.causal and case.shape.q_len != case.shape.kv_len:
        raise NotImplementedError("its causal mask begins at the first key")
    kinds = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}
    if case.dtype not in kinds:
        raise NotImplementedError(f"not in {case.dtype} on a CPU")
    make = onnx.helper
    node = make.make_node("Attention", ["Q", "K", "V"], ["Y"], is_causal=int(case.causal), scale=case.factor)
    values = [make.make_tensor_value_info(n, kinds[case.dtype], x.shape) for n, x in zip("QKV", inputs, strict=True)]
    output = make.make_tensor_value_info("Y", kinds[case.dtype], case.shape.q)
    graph = make.make_graph([node], "attention", values, [output])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 23)], ir_version=11)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Ready(partial(session.run, ["Y"], dict(zip("QKV", inputs, strict=True))), lambda found: np.asarray(found[0]))


def jax(case: Case, inputs: Inputs, threads: int) -> Ready:
    """jax.nn.dot_product_attention compiled by XLA for the CPU, on arrays (B, L, H, D) as it wants them; it uses every processor."""
    import jax as package

    if case.score is not None or case.mask is not None:
        raise NotImplementedError("it needs a matrix of biases")
    if case.causal and case.shape.q_len != case.shape.kv_len:
        raise NotImplementedError("its causal mask begins at the first key")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if threads != processors:
        raise NotImplementedError("XLA's threads cannot be limited to some of the processors")
    device = package.devices("cpu")[0]
    arrays = [package.device_put(np.ascontiguousarray(np.swapaxes(x, 1, 2)), device) for x in inputs]
    attend = package.jit(
        partial(package.nn.dot_product_attention, scale=case.factor, is_causal=case.causal, implementation="xla")
    )
    return Ready(lambda: attend(*arrays).block_until_ready(), lambda found: np.swapaxes(np.asarray(found), 1, 2))


PEERS: Mapping[str, Peer] = {"SDPA": sdpa, "flex": flex, "NumPy": numpy, "onnxruntime": onnxruntime, "jax": jax}


def tensor(torch: Any, x: Array) -> Any:
    """A tensor of the same memory. NumPy has no bfloat16 that PyTorch knows."""
    return (
        torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype.name == "bfloat16" else torch.from_numpy(x)
    )


def _numpy(found: Any) -> Array:
    return np.asarray(found.float().numpy())


def _inference(torch: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _heads(heads: int, kv_heads: int, h: int) -> tuple[int, int, int]:
    g = h // (heads // kv_heads)
    return h, g, g


def _matrix(torch: Any, case: Case) -> Any:
    """The boolean mask (queries, keys), a block of rows at once: the integers of all pairs would take gigabytes."""
    s, mod, block = case.shape, case.mask_mod(torch), 1024
    assert mod is not None
    keys, rows = torch.arange(s.kv_len)[None, :], torch.arange(s.q_len)[:, None]
    mask = torch.empty((s.q_len, s.kv_len), dtype=torch.bool)
    for start in range(0, s.q_len, block):
        mask[start : start + block] = mod(0, 0, rows[start : start + block], keys)
    return mask
