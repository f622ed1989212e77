"""Check the arguments of a call against the variant and each other, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.dsl.signature import Operand, Signature
from attnc.errors import DTypeError, GradientError, OperandError, ShapeError
from attnc.interp import Inputs
from attnc.ir.ops import Kind

FLOATS = ("float16", "bfloat16", "float32", "float64")
_EXTENT_OF = {"b": "batch", "h": "heads", "i": "q_len", "j": "kv_len", "d": "d", "e": "e"}


@dataclass(frozen=True, slots=True)
class Bound:
    """A checked call: arrays in (B,H,L,D) order, q's dtype, the operands' kinds, and what specialises the kernel."""

    inputs: Inputs
    dtype: str
    rank: int
    layout: str
    kinds: dict[str, Kind]
    constants: dict[str, Any]
    absent: frozenset[str]

    @property
    def specialisation(self) -> tuple[Any, ...]:
        """What the traced graph depends on besides the function."""
        return (tuple(sorted(self.kinds.items())), tuple(sorted(self.constants.items())), self.absent)


def as_numpy(x: Any, name: str) -> np.ndarray[Any, Any]:
    """A NumPy array over x's memory where possible (NumPy, PyTorch CPU tensors; other dtypes through float32 copies)."""
    if isinstance(x, np.ndarray):
        return x
    if getattr(x, "requires_grad", False):
        raise GradientError(
            f"{name} requires gradients",
            cause="attnc has no backward for it; detaching in silence would train a wrong model",
            cure=f"pass {name}.detach()",
        )
    if type(x).__module__.startswith("torch"):
        if x.device.type != "cpu":
            raise DTypeError(f"{name} is on {x.device}", cause="the reference runs on the CPU", cure=f"{name}.cpu()")
        if str(x.dtype) == "torch.bfloat16":
            import ml_dtypes

            return np.asarray(x.float().numpy().astype(ml_dtypes.bfloat16))
        return np.asarray(x.numpy())
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return np.from_dlpack(x)
    if hasattr(x, "__array__"):
        return np.asarray(x)
    raise DTypeError(
        f"{name} is {type(x).__name__}", cause="inputs are arrays", cure="pass a NumPy array or a PyTorch tensor"
    )


def _features(x: Any, name: str, layout: str) -> np.ndarray[Any, Any]:
    array = as_numpy(x, name)
    if array.ndim < 2 or array.ndim > 4:
        raise ShapeError(
            f"{name} has {array.ndim} dimensions",
            cause=f"its shape is {array.shape}",
            cure="pass (B, H, L, D), (H, L, D) or (L, D)",
        )
    if array.dtype.name not in FLOATS:
        kind = "complex" if array.dtype.kind == "c" else str(array.dtype)
        raise DTypeError(
            f"{name} is {kind}",
            cause="q, k and v are float16, bfloat16, float32 or float64",
            cure=f"convert {name} first",
        )
    if array.shape[-1] == 0:
        raise ShapeError(f"{name} has head dim 0", cause=f"its shape is {array.shape}", cure="head dims start at 1")
    full: np.ndarray[Any, Any] = (
        array.reshape((1,) * (4 - array.ndim) + array.shape)
        if layout == "bhld" or array.ndim < 4
        else array.transpose(0, 2, 1, 3)
    )
    if layout == "blhd" and array.ndim == 3:
        full = array.transpose(1, 0, 2)[None]
    return full


def bind(signature: Signature, q: Any, k: Any, v: Any, operands: Mapping[str, Any], layout: str = "bhld") -> Bound:
    """Check and normalise one call.

    Raises:
        ShapeError, DTypeError, OperandError, GradientError: with the argument's name, cause and cure.
    """
    if layout not in ("bhld", "blhd"):
        raise ShapeError(
            f"layout={layout!r}", cause="unknown layout", cure="'bhld' (B, H, L, D) or 'blhd' (B, L, H, D)"
        )
    arrays = {"Q": _features(q, "Q", layout), "K": _features(k, "K", layout), "V": _features(v, "V", layout)}
    ranks = {name: np.ndim(x) if isinstance(x, np.ndarray) else x.ndim for name, x in (("Q", q), ("K", k), ("V", v))}
    if len(set(ranks.values())) > 1:
        raise ShapeError(
            "Q, K and V of different rank", cause=f"they have {ranks} dimensions", cure="give all three the same number"
        )
    _check_shapes(arrays["Q"].shape, arrays["K"].shape, arrays["V"].shape)
    names = {a.dtype.name for a in arrays.values()}
    if len(names) > 1:
        raise DTypeError(
            "Q, K and V of different dtypes",
            cause=f"they are {[a.dtype.name for a in arrays.values()]}",
            cure="convert them to one dtype",
        )
    inputs = Inputs(arrays["Q"], arrays["K"], arrays["V"])
    values, kinds, constants, absent = _bind_operands(signature, operands, inputs.extents)
    inputs = Inputs(inputs.q, inputs.k, inputs.v, values)
    return Bound(inputs, inputs.q.dtype.name, ranks["Q"], layout, kinds, constants, absent)


def _check_shapes(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> None:
    if q[3] != k[3]:
        raise ShapeError(
            "head dims of Q and K differ",
            cause=f"Q has {q[3]}, K has {k[3]}",
            cure="scores are dot products: give both the same last axis",
        )
    if k[0] != v[0] or (k[0] not in (1, q[0])):
        raise ShapeError(
            "batch sizes differ",
            cause=f"Q has {q[0]}, K has {k[0]}, V has {v[0]}",
            cure="K and V have Q's batch size, or 1",
        )
    if k[1] != v[1]:
        raise ShapeError(
            "head counts of K and V differ",
            cause=f"K has {k[1]}, V has {v[1]}",
            cure="give both the same number of heads",
        )
    if k[1] == 0 or q[1] % max(k[1], 1):
        raise ShapeError(
            "heads of Q are no multiple of the heads of K and V",
            cause=f"Hq = {q[1]}, Hkv = {k[1]}",
            cure="grouped-query attention needs Hq = group * Hkv",
        )
    if k[2] != v[2]:
        raise ShapeError(
            "K and V of different length", cause=f"K has {k[2]} keys, V has {v[2]}", cure="one value per key"
        )


def _bind_operands(
    signature: Signature, given: Mapping[str, Any], extents: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Kind], dict[str, Any], frozenset[str]]:
    for name in given:
        if name not in signature.operands:
            known = ", ".join(signature.operands) or "none"
            raise OperandError(
                f"unexpected operand {name!r}",
                cause=f"the variant's operands are: {known}",
                cure="remove it, or declare it as a keyword-only parameter",
            )
    values: dict[str, Any] = {}
    kinds: dict[str, Kind] = {}
    constants: dict[str, Any] = {}
    absent: set[str] = set()
    for name, operand in signature.operands.items():
        if name not in given and operand.required:
            raise OperandError(f"operand {name!r} is missing", cause="it has no default", cure=f"pass {name}=...")
        value = given.get(name, operand.default)
        if value is None:
            if operand.default is not None:
                raise OperandError(
                    f"operand {name!r} is None",
                    cause="it is not optional",
                    cure=f"declare {name}=None in the variant, or pass a value",
                )
            absent.add(name)
        elif operand.role == "const":
            if operand.type is None or not isinstance(value, operand.type):
                raise OperandError(
                    f"constant {name!r} is {type(value).__name__}",
                    cause=f"it is declared at.Const[{operand.type}]",
                    cure="pass that type",
                )
            constants[name] = value
        elif operand.role == "scalar":
            values[name] = _scalar(operand, value)
        else:
            values[name] = _tensor(operand, value, extents)
            kinds[name] = (
                "float" if values[name].dtype.name in FLOATS else "bool" if values[name].dtype.kind == "b" else "int"
            )
    return values, kinds, constants, frozenset(absent)


def _scalar(operand: Operand, value: Any) -> bool | int | float:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    kind = operand.kind or "float"
    fits = isinstance(value, bool) if kind == "bool" else isinstance(value, int) and not isinstance(value, bool)
    if not (fits or (kind == "float" and isinstance(value, float))):
        raise OperandError(
            f"operand {operand.name!r} is {type(value).__name__}",
            cause=f"it is declared {kind}",
            cure=f"pass a Python {kind}",
        )
    number: bool | int | float = value
    if kind == "int" and not -(2**63) <= number < 2**63:
        raise OperandError(
            f"operand {operand.name!r} = {number}", cause="integers are 64 bits wide", cure="pass a smaller one"
        )
    return number


def _tensor(operand: Operand, value: Any, extents: Mapping[str, int]) -> np.ndarray[Any, Any]:
    array = as_numpy(value, operand.name)
    declared = f"at.Tensor[{', '.join(map(repr, operand.axes))}]"
    if array.ndim != len(operand.axes):
        raise ShapeError(
            f"operand {operand.name!r} has {array.ndim} dimensions",
            cause=f"its shape is {array.shape}; it is declared {declared}",
            cure="one dimension per axis",
        )
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise DTypeError(
            f"operand {operand.name!r} is {array.dtype}",
            cause="operands are boolean, integer or floating point",
            cure="convert it first",
        )
    if array.dtype.name == "uint64":
        raise DTypeError(
            f"operand {operand.name!r} is uint64", cause="index arithmetic is int64", cure="convert it to int64"
        )
    kind: Kind = "bool" if array.dtype.kind == "b" else "int" if array.dtype.kind in "iu" else "float"
    if operand.kind is not None and operand.kind != kind:
        raise OperandError(
            f"operand {operand.name!r} is {array.dtype}",
            cause=f"it is declared {operand.kind}",
            cure="convert it first",
        )
    for axis, n in zip(operand.axes, array.shape, strict=True):
        if axis == "g":
            expected: int | None = extents["heads"] // extents["group"]
        else:
            expected = extents[_EXTENT_OF[axis]] if axis in _EXTENT_OF else None
        if expected is not None and n not in ((expected,) if axis in ("d", "e") else (expected, 1)):
            raise ShapeError(
                f"operand {operand.name!r} has {n} entries along {axis!r}",
                cause=f"its shape is {array.shape}, declared {declared}; this call has {expected}",
                cure=f"give it {expected}, or 1 to share",
            )
        if n == 0 and axis not in ("i", "j"):
            raise ShapeError(
                f"operand {operand.name!r} is empty along {axis!r}",
                cause=f"its shape is {array.shape}",
                cure="give it entries",
            )
    return array
