"""Check the arguments of a call against the variant and each other, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.dsl.place import here
from attnc.dsl.signature import Operand, Signature, fits
from attnc.errors import AttncError, DTypeError, GradientError, OperandError, ShapeError
from attnc.interp import Inputs
from attnc.ir.ops import INDEX_AXES, LONGEST, Kind
from attnc.runtime.arrays import View, described_dtype, numpy_dtype, view
from attnc.runtime.described import Described

_FLOATS = {("f", 2): "float16", ("f", 4): "float32", ("f", 8): "float64"}  # by kind and size: dtype.name is slow
_EXTENT_OF = {"b": "batch", "h": "heads", "i": "q_len", "j": "kv_len", "d": "d", "e": "e"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """A checked call: arrays in (B,H,L,D) order, q's dtype, the operands' kinds, and what specialises the kernel.

    features: the extent of every axis that is no index: d, e, and the operands' own (where they agree on it).
    """

    inputs: Inputs
    dtype: str
    rank: int
    layout: str
    kinds: dict[str, Kind]
    constants: dict[str, Any]
    absent: frozenset[str]
    features: dict[str, int]

    @property
    def specialisation(self) -> tuple[Any, ...]:
        """What the traced graph depends on besides the function."""
        return (tuple(sorted(self.kinds.items())), tuple(sorted(self.constants.items())), self.absent)


class _Memory:
    """What NumPy's array interface asks for, over a View."""

    def __init__(self, x: View) -> None:
        typestr = "<u2" if x.dtype == "bfloat16" else numpy_dtype(x.dtype).str
        self.keep = x
        self.__array_interface__ = {
            "data": (x.address, False), "shape": x.shape, "strides": x.strides, "typestr": typestr, "version": 3,
        }  # fmt: skip


def as_numpy(x: Any, name: str) -> Array:
    """A NumPy array over the memory of x, the argument called `name`: NumPy, a torch CPU tensor, or DLPack.

    OperandError, DTypeError, DeviceError, GradientError: as `attnc.runtime.arrays.view`.
    """
    if isinstance(x, Described):
        return x
    if type(x) is np.ndarray and x.dtype.kind in "fiub" and x.dtype.itemsize <= 8 and x.dtype.isnative:
        return x
    dtype = getattr(x, "dtype", None)
    if getattr(dtype, "kind", "") == "c" or getattr(dtype, "is_complex", False):
        raise DTypeError(
            f"{name} is {dtype}",
            cause="scores are compared with each other, so they and what they are made of are real",
            cure=f"put the parts side by side, numpy.concatenate([{name}.real, {name}.imag], -1): q.k is then the real part of q.conj(k)",
        )
    found = view(x, name)
    if isinstance(x, np.ndarray):
        return x if type(x) is np.ndarray else x.view(np.ndarray)
    return _over(found, numpy_dtype)


def describe(x: View) -> Described:
    """What `bind` takes in the place of an array on a device: nothing of it is read."""
    return _over(x, described_dtype).view(Described)


def _over(x: View, dtype: Callable[[str], np.dtype[Any]]) -> Array:
    array = np.asarray(_Memory(x))
    return array.view(dtype(x.dtype)) if x.dtype == "bfloat16" else array


def _float_name(x: Array) -> str:
    """The name of a dtype that q, k and v may have, else ''."""
    known = _FLOATS.get((x.dtype.kind, x.dtype.itemsize))
    return known or ("bfloat16" if x.dtype.name == "bfloat16" else "")


def _check_features(x: Array, name: str) -> Array:
    if x.ndim < 2 or x.ndim > 4:
        raise ShapeError(
            f"{name} has {x.ndim} dimensions",
            cause=f"its shape is {x.shape}",
            cure="pass (B, H, L, D), (H, L, D) or (L, D); fold further batch dimensions into B by reshape",
        )
    if not _float_name(x):
        raise DTypeError(
            f"{name} is {x.dtype}",
            cause="q, k and v are float16, bfloat16, float32 or float64",
            cure=f"convert it: {name}.astype(numpy.float32), or {name}.float() in torch",
        )
    if x.shape[-1] == 0:
        raise ShapeError(
            f"{name} has head dim 0",
            cause=f"its shape is {x.shape}; the last axis holds the features",
            cure="give it at least one feature",
        )
    if max(x.shape) > LONGEST:
        raise ShapeError(
            f"{name} is too long",
            cause=f"its shape is {x.shape}; an axis has at most 2**31 - 1 entries",
            cure="split the call",
        )
    return x


def _four(x: Array, layout: str) -> Array:
    """x as (B, H, L, D), without a copy."""
    if layout == "bhld" or x.ndim == 2:
        return x.reshape((1,) * (4 - x.ndim) + x.shape) if x.ndim < 4 else x
    return x.transpose(0, 2, 1, 3) if x.ndim == 4 else x.transpose(1, 0, 2)[None]


def bind(signature: Signature, q: Any, k: Any, v: Any, operands: Mapping[str, Any], layout: str = "bhld") -> Bound:
    """Check and normalise one call.

    Raises:
        ShapeError, DTypeError, OperandError, DeviceError, GradientError: at the line of the call, with the argument's
        name, cause and cure.
    """
    try:
        return _bind(signature, q, k, v, operands, layout)
    except AttncError as error:
        raise error.located(here()) from None


def _bind(signature: Signature, q: Any, k: Any, v: Any, operands: Mapping[str, Any], layout: str) -> Bound:
    if layout not in ("bhld", "blhd"):
        raise ShapeError(
            f"layout={layout!r}", cause="unknown layout", cure="'bhld' (B, H, L, D) or 'blhd' (B, L, H, D)"
        )
    given = {"Q": as_numpy(q, "Q"), "K": as_numpy(k, "K"), "V": as_numpy(v, "V")}
    arrays = {name: _four(_check_features(x, name), layout) for name, x in given.items()}
    if not given["Q"].ndim == given["K"].ndim == given["V"].ndim:
        raise ShapeError(
            "Q, K and V of different rank",
            cause="their shapes are " + ", ".join(f"{name} {x.shape}" for name, x in given.items()),
            cure="give all three the same number of dimensions",
        )
    _check_shapes(arrays["Q"].shape, arrays["K"].shape, arrays["V"].shape)
    if len({a.dtype for a in arrays.values()}) > 1:
        raise DTypeError(
            "Q, K and V of different dtypes",
            cause="they are " + ", ".join(f"{name} {a.dtype.name}" for name, a in arrays.items()),
            cure="convert them to one dtype",
        )
    inputs = Inputs(arrays["Q"], arrays["K"], arrays["V"])
    values, kinds, constants, absent = _bind_operands(signature, operands, inputs.extents)
    features = _feature_extents(signature, values, {"d": inputs.q.shape[3], "e": inputs.v.shape[3]})
    inputs = Inputs(inputs.q, inputs.k, inputs.v, values, features)
    return Bound(inputs, _float_name(inputs.q), given["Q"].ndim, layout, kinds, constants, absent, features)


def _check_shapes(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> None:
    shapes = f"in (B, H, L, D) Q is {q}, K {k}, V {v}"
    if q[3] != k[3]:
        raise ShapeError(
            "head dims of Q and K differ",
            cause=f"Q has {q[3]}, K has {k[3]}: {shapes}",
            cure="scores are dot products of a query and a key: give both the same last axis",
        )
    if k[0] != v[0] or (k[0] not in (1, q[0])):
        raise ShapeError(
            "batch sizes differ",
            cause=f"Q has {q[0]}, K has {k[0]}, V has {v[0]}: {shapes}",
            cure="K and V have Q's batch size, or both 1",
        )
    if k[1] != v[1]:
        raise ShapeError(
            "head counts of K and V differ",
            cause=f"K has {k[1]}, V has {v[1]}: {shapes}",
            cure="give both the same number of heads",
        )
    if k[1] == 0 or q[1] % k[1]:
        raise ShapeError(
            "heads of Q are no multiple of the heads of K and V",
            cause=f"Hq = {q[1]}, Hkv = {k[1]}: {shapes}",
            cure="grouped-query attention needs Hq = group * Hkv; with layout='blhd' heads are the third axis",
        )
    if k[2] != v[2]:
        raise ShapeError(
            "K and V of different length",
            cause=f"K has {k[2]} keys, V has {v[2]}: {shapes}",
            cure="give every key one value",
        )
    if 0 in q:
        raise ShapeError(
            "Q is empty", cause=f"its shape in (B, H, L, D) is {q}", cure="give at least one batch, head and query"
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
                cure="correct the name, or declare it in the variant as a keyword-only parameter",
            )
    values: dict[str, Any] = {}
    kinds: dict[str, Kind] = {}
    constants: dict[str, Any] = {}
    absent: set[str] = set()
    for name, operand in signature.operands.items():
        if name not in given and operand.required:
            raise OperandError(
                f"operand {name!r} is missing",
                cause=f"the variant declares it as {operand.declared}, without a default",
                cure=f"pass {name}=..., or give it a default in the variant",
            )
        value = given.get(name, operand.default)
        if value is None:
            if operand.default is not None:
                raise OperandError(
                    f"operand {name!r} is None",
                    cause=f"it is declared {operand.declared}, and not optional",
                    cure=f"pass a value, or declare {name}: {operand.declared} = None in the variant",
                )
            absent.add(name)
        elif operand.role == "const":
            constants[name] = constant(operand, value)
        elif operand.role == "scalar":
            values[name] = _scalar(operand, value)
        else:
            values[name] = _tensor(operand, value, extents)
            kinds[name] = _kind(values[name])
    return values, kinds, constants, frozenset(absent)


def _number(value: Any, name: str) -> Any:
    """A Python number from a NumPy scalar or a 0-dimensional array; anything else as it is."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        if getattr(value, "requires_grad", False):
            raise GradientError(
                f"operand {name!r} requires gradients",
                cause="attnc has no backward yet, and taking only its value would train the wrong thing",
                cure=f"where no gradient is wanted, pass {name}.item()",
            )
        return value.item()
    return value


def constant(operand: Operand, value: Any) -> Any:
    """A compile-time constant as its declared type. OperandError where it is none."""
    value, type_ = _number(value, operand.name), operand.type or float
    if type_ is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    holds = isinstance(value, tuple) and all(isinstance(x, bool | int | float | str) for x in value)
    if type(value) is not type_ or (type_ is tuple and not holds):
        raise OperandError(
            f"constant {operand.name!r} = {value!r} is {type(value).__name__}",
            cause=f"it is declared {operand.declared}" + (" and holds numbers or strings" if type_ is tuple else ""),
            cure="pass a value of that type; a constant is known while the formula is traced",
        )
    return value


def _scalar(operand: Operand, value: Any) -> bool | int | float:
    value, kind = _number(value, operand.name), operand.kind or "float"
    if not fits(kind, value):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        declare = "at.Tensor['h']" if shape else {float: "float", int: "int", bool: "bool"}.get(type(value), "")
        raise OperandError(
            f"operand {operand.name!r} is {type(value).__name__}{shape}",
            cause=f"it is declared {kind}",
            cure=f"pass a Python {kind}"
            + (f", or declare {operand.name}: {declare} in the variant" if declare else ""),
        )
    number: bool | int | float = value
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        raise OperandError(
            f"operand {operand.name!r} = {number}", cause="integers are 64 bits wide", cure="pass a smaller one"
        )
    return number


def _kind(array: Array) -> Kind:
    return "bool" if array.dtype.kind == "b" else "int" if array.dtype.kind in "iu" else "float"


def _tensor(operand: Operand, value: Any, extents: Mapping[str, int]) -> Array:
    name = operand.name
    array = as_numpy(value, name)
    if array.ndim != len(operand.axes):
        raise ShapeError(
            f"operand {name!r} has {array.ndim} dimensions",
            cause=f"its shape is {array.shape}; it is declared {operand.declared}",
            cure="give it one dimension per axis, or change the declaration",
        )
    if array.dtype == np.uint64:
        raise DTypeError(
            f"operand {name!r} is uint64", cause="index arithmetic is int64", cure=f"pass {name}.astype(numpy.int64)"
        )
    kind = _kind(array)
    if operand.kind is not None and operand.kind != kind:
        raise OperandError(
            f"operand {name!r} is {array.dtype}",
            cause=f"it is declared {operand.declared}",
            cure=f"pass an array of kind {operand.kind}",
        )
    for axis, n in zip(operand.axes, array.shape, strict=True):
        if axis == "g":
            expected: int | None = extents["heads"] // extents["group"]
        else:
            expected = extents[_EXTENT_OF[axis]] if axis in _EXTENT_OF else None
        exact = axis in ("d", "e")
        if expected is not None and n != expected and (exact or n != 1):
            raise ShapeError(
                f"operand {name!r} has {n} entries along {axis!r}",
                cause=f"its shape is {array.shape}, declared {operand.declared}; this call has {expected}",
                cure=f"give it {expected}" + ("" if exact else ", or 1 to share one entry"),
            )
        if n == 0 and axis not in ("i", "j"):
            raise ShapeError(
                f"operand {name!r} is empty along {axis!r}",
                cause=f"its shape is {array.shape}",
                cure="give it at least one entry",
            )
    return array


def _feature_extents(signature: Signature, values: Mapping[str, Any], known: dict[str, int]) -> dict[str, int]:
    clashing: set[str] = set()
    for name, operand in signature.operands.items():
        if operand.role == "tensor" and name in values:
            for axis, n in zip(operand.axes, values[name].shape, strict=True):
                if axis not in INDEX_AXES and axis != "g" and known.setdefault(axis, n) != n:
                    clashing.add(axis)
    return {axis: n for axis, n in known.items() if axis not in clashing}
