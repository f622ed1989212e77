"""Multi-head attention, the layer: Concat(head_1..head_h) W_O over any attention (Vaswani et al. 2017, section 3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from attnc.errors import DTypeError, GradientError, OperandError, OutputError, ShapeError

Array: TypeAlias = NDArray[Any]
FLOATS = ("float16", "bfloat16", "float32", "float64")


class MultiHead:
    """Projections around an attention: head_n = attention(x W_Q, c W_K, c W_V), out = Concat(heads) W_O.

    Args:
        attention: any callable (Q, K, V, **operands) -> out with Q (B, Hq, Lq, d_k), K (B, Hkv, Lk, d_k),
            V (B, Hkv, Lk, d_v) and out (B, Hq, Lq, d_v): a variant of attnc, or a plain function.
        d_model: features of x and of the result.
        num_heads: query heads Hq.
        num_kv_heads: key-value heads Hkv, a divisor of num_heads (grouped-query attention, Ainslie et al. 2023; 1 is
            multi-query). None: num_heads.
        d_k: features of one query or key. None: d_model / num_heads, which must be whole.
        d_v: features of one value. None: d_k.
        d_context: features of `context` in cross-attention. None: d_model.
        bias: whether the projections start with (zero) biases. Biases can also be set later.
        dtype: of weights, x, and result: float16, bfloat16, float32 or float64. Projections of 16-bit types are
            accumulated in float32.
        rng: a generator or seed for the weights' start (Glorot and Bengio 2010, uniform). None: from the system.

    The weights multiply from the right, as in the paper: w_q (d_model, Hq*d_k), w_k (d_context, Hkv*d_k),
    w_v (d_context, Hkv*d_v), w_o (Hq*d_v, d_model); b_q, b_k, b_v, b_o are vectors of the second extents, or absent.
    A layer of PyTorch stores each of them transposed.

    Raises:
        ShapeError: an extent is not positive, heads do not divide, or a weight does not fit.
        DTypeError: dtype is not one of the four.
    """

    def __init__(
        self,
        attention: Callable[..., Any],
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        d_k: int | None = None,
        d_v: int | None = None,
        *,
        d_context: int | None = None,
        bias: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if num_kv_heads is None:
            num_kv_heads = num_heads
        _check_positive(d_model=d_model, num_heads=num_heads, num_kv_heads=num_kv_heads)
        if num_heads % num_kv_heads:
            raise ShapeError(
                "heads do not group",
                cause=f"{num_heads} query heads cannot share {num_kv_heads} key-value heads evenly",
                cure="choose num_kv_heads as a divisor of num_heads",
            )
        if d_k is None:
            if d_model % num_heads:
                raise ShapeError(
                    "features do not split into heads",
                    cause=f"d_model {d_model} is not a multiple of num_heads {num_heads}",
                    cure="give d_k (and d_v)",
                )
            d_k = d_model // num_heads
        d_v = d_k if d_v is None else d_v
        d_context = d_model if d_context is None else d_context
        _check_positive(d_k=d_k, d_v=d_v, d_context=d_context)
        self.attention = attention
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.dtype = np.dtype(dtype)
        if self.dtype.name not in FLOATS:
            raise DTypeError(
                "dtype is not a float of attnc", cause=f"got {self.dtype.name}", cure=f"use one of {', '.join(FLOATS)}"
            )
        self._shapes: dict[str, tuple[int, ...]] = {
            "w_q": (d_model, num_heads * d_k),
            "w_k": (d_context, num_kv_heads * d_k),
            "w_v": (d_context, num_kv_heads * d_v),
            "w_o": (num_heads * d_v, d_model),
        }
        matrices = tuple(self._shapes.items())
        self._shapes.update({f"b{name[1:]}": shape[1:] for name, shape in matrices})
        self._weights: dict[str, Array] = {}
        generator = np.random.default_rng(rng)
        for name, shape in matrices:
            limit = np.sqrt(6 / sum(shape))
            self._weights[name] = generator.uniform(-limit, limit, shape).astype(self.dtype)
            if bias:
                self._weights[f"b{name[1:]}"] = np.zeros(shape[1], self.dtype)

    @property
    def weights(self) -> Mapping[str, Array]:
        """The current weights by name, read-only as a mapping; absent biases are absent."""
        return MappingProxyType(self._weights)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the weights by name, as `load_state_dict` takes them."""
        return {name: value.copy() for name, value in self._weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces all weights. The four matrices must be there; a bias that is not there, or None, is absent.

        Raises:
            OperandError: a name is unknown or a matrix is missing.
            ShapeError, DTypeError: as `set`.
        """
        missing = [name for name in self._shapes if name.startswith("w_") and name not in state]
        if missing:
            raise OperandError("weights are missing", cause=f"no {', '.join(missing)}", cure="give all four matrices")
        biases = dict.fromkeys(name for name in self._shapes if name.startswith("b_"))
        self.set(**{**biases, **state})

    def set(self, **arrays: Any) -> None:
        """Replaces some weights by copies of arrays of the right shape; None takes a bias away.

        Nothing is changed where one of them is refused.

        Raises:
            OperandError: a name is unknown, or a matrix is None.
            ShapeError: a shape is wrong.
            DTypeError: an array is not of floats.
        """
        new = dict(self._weights)
        for name, value in arrays.items():
            if name not in self._shapes:
                raise OperandError(
                    f"there is no weight {name!r}",
                    cause="the name is unknown",
                    cure=f"one of {', '.join(self._shapes)}",
                )
            if value is None and name.startswith("b_"):
                new.pop(name, None)
                continue
            if value is None:
                raise OperandError(f"{name} cannot be absent", cause="got None for a matrix", cure="give an array")
            new[name] = self._checked_weight(name, value)
        self._weights = new

    def __call__(self, x: Any, context: Any = None, **operands: Any) -> Array:
        """Self-attention of x, or cross-attention from x to context.

        Args:
            x: (B, Lq, d_model) or (Lq, d_model), in the layer's dtype.
            context: (B, Lk, d_context), or B = 1 for all, or (Lk, d_context), Lk from 0 up; None: x itself.
            **operands: handed to the attention.

        Returns:
            A NumPy array of x's shape and dtype.

        Raises:
            ShapeError: x, context or the attention's output has a wrong shape.
            DTypeError: x or context is not of the layer's dtype.
            GradientError: x or context requires gradients: there is no backward.
            OutputError: the attention returns something else than one array.
        """
        source = self._checked_input("x", x, "w_q")
        target = source
        if context is not None:
            target = self._checked_input("context", context, "w_k")
        elif source.shape[-1] != self._shapes["w_k"][0]:
            raise ShapeError(
                "self-attention needs d_context = d_model",
                cause=f"the layer projects keys from {self._shapes['w_k'][0]} features, x has {source.shape[-1]}",
                cure="give context=",
            )
        if target.shape[0] not in (1, source.shape[0]):
            raise ShapeError(
                "batches differ",
                cause=f"x has batch {source.shape[0]}, context {target.shape[0]}",
                cure="give context with the batch of x, or with 1",
            )
        q = self._split(self._project("q", source), self.num_heads)
        k = self._split(self._project("k", target), self.num_kv_heads)
        v = self._split(self._project("v", target), self.num_kv_heads)
        heads = self._checked_heads(self.attention(q, k, v, **operands), (*q.shape[:3], v.shape[3]))
        joined = heads.transpose(0, 2, 1, 3).reshape(*source.shape[:2], self._shapes["w_o"][0])
        out = self._project("o", joined)
        return out[0] if np.ndim(x) == 2 else out

    def _project(self, name: str, x: Array) -> Array:
        """x W + b; 16-bit types are accumulated in float32 and rounded once."""
        compute = np.promote_types(self.dtype, np.float32)
        out: Array = x.astype(compute, copy=False) @ self._weights[f"w_{name}"].astype(compute, copy=False)
        if f"b_{name}" in self._weights:
            out += self._weights[f"b_{name}"].astype(compute, copy=False)
        return out.astype(self.dtype, copy=False)

    @staticmethod
    def _split(x: Array, heads: int) -> Array:
        """(B, L, H*D) -> (B, H, L, D), without a copy."""
        batch, length, features = x.shape
        return x.reshape(batch, length, heads, features // heads).transpose(0, 2, 1, 3)

    def _checked_weight(self, name: str, value: Any) -> Array:
        if getattr(value, "requires_grad", False):
            raise GradientError(
                f"{name} requires gradients", cause="this layer has no backward", cure="pass a detached array"
            )
        array = np.asarray(value)
        if array.shape != self._shapes[name]:
            raise ShapeError(
                f"{name} does not fit",
                cause=f"its shape is {array.shape}, the layer has {self._shapes[name]}",
                cure="weights multiply from the right: transpose a matrix that comes from PyTorch",
            )
        if array.dtype.name not in FLOATS:
            raise DTypeError(f"{name} is not of floats", cause=f"its dtype is {array.dtype}", cure="convert it")
        return array.astype(self.dtype)

    def _checked_input(self, name: str, value: Any, weight: str) -> Array:
        if getattr(value, "requires_grad", False):
            raise GradientError(
                f"{name} requires gradients", cause="this layer has no backward", cure="pass a detached array"
            )
        array = np.asarray(value)
        if array.ndim not in (2, 3) or array.shape[-1] != self._shapes[weight][0] or (name == "x" and 0 in array.shape):
            raise ShapeError(
                f"{name} does not fit",
                cause=f"its shape is {array.shape}",
                cure=f"give (batch, length, {self._shapes[weight][0]}) or (length, {self._shapes[weight][0]})",
            )
        if array.dtype != self.dtype:
            raise DTypeError(
                f"{name} is not of the layer's dtype",
                cause=f"it is {array.dtype}, the layer {self.dtype}",
                cure=f"convert it, or build the layer with dtype={array.dtype}",
            )
        return array if array.ndim == 3 else array[None]

    def _checked_heads(self, value: Any, shape: tuple[int, ...]) -> Array:
        if isinstance(value, tuple):
            raise OutputError(
                "the attention returned a tuple",
                cause=f"MultiHead projects one output, got {len(value)}",
                cure="return one output, without return_lse",
            )
        array = np.asarray(value)
        if array.shape != shape:
            raise ShapeError(
                "the attention's output does not fit",
                cause=f"its shape is {array.shape}, not (B, Hq, Lq, d_v) = {shape}",
                cure="repair the attention function",
            )
        return array


def _check_positive(**extents: int) -> None:
    for name, extent in extents.items():
        if extent < 1:
            raise ShapeError(f"{name} is not positive", cause=f"got {extent}", cure="give 1 or more")
