"""What a variant's parameters declare: roles by name, operands by annotation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from attnc.errors import Location, OperandError, RoleError
from attnc.ir.ops import Kind

ROLES = ("q", "k", "v", "b", "h", "i", "j")
_KINDS: dict[Any, Kind] = {bool: "bool", int: "int", float: "float"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """`at.Tensor["h", "n"]`: the named axes of an operand array, and its kind where declared (`at.Tensor["j", int]`)."""

    axes: tuple[str, ...]
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class ConstSpec:
    """`at.Const[int]`: a plain Python value that is known while tracing (loops over it unroll) and specialises the kernel."""

    type: type


class Tensor:
    """Annotation of an array operand: `slopes: at.Tensor["h"]`, `table: at.Tensor["h", "n"]`, `doc: at.Tensor["j", int]`."""

    def __class_getitem__(cls, axes: Any) -> TensorSpec:
        names = axes if isinstance(axes, tuple) else (axes,)
        kind: Kind | None = None
        if names and names[-1] in _KINDS:
            kind, names = _KINDS[names[-1]], names[:-1]
        if not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
            raise OperandError(
                f"Tensor{axes!r}", cause="the axes of an operand are names", cure='for instance at.Tensor["b", "j"]'
            )
        return TensorSpec(tuple(names), kind)


class Const:
    """Annotation of a compile-time constant: `n: at.Const[int] = 2`."""

    def __class_getitem__(cls, type_: Any) -> ConstSpec:
        if type_ not in (bool, int, float, str, tuple):
            raise OperandError(
                f"Const[{type_!r}]",
                cause="a constant is a bool, int, float, str or tuple",
                cure="for instance at.Const[int]",
            )
        return ConstSpec(type_)


@dataclass(frozen=True, slots=True)
class Operand:
    """One keyword-only parameter. `default` is inspect.Parameter.empty where the caller must give it."""

    name: str
    role: Literal["scalar", "const", "tensor"]
    kind: Kind | None
    axes: tuple[str, ...]
    type: type | None
    default: Any

    @property
    def required(self) -> bool:
        """Whether the call must pass it."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a variant."""

    roles: tuple[str, ...]
    operands: dict[str, Operand]


def _place(function: Callable[..., Any]) -> Location | str:
    code = getattr(function, "__code__", None)
    return Location(code.co_filename, code.co_firstlineno) if code else repr(function)


def signature(function: Callable[..., Any]) -> Signature:
    """Read a variant's parameters.

    Raises:
        RoleError: a positional parameter is no role. OperandError: an operand without a usable annotation.
    """
    where = _place(function)
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except NameError as error:
        raise OperandError(
            "an annotation cannot be read", where=where, cause=str(error), cure="import attnc as at at module level"
        ) from error
    roles: list[str] = []
    operands: dict[str, Operand] = {}
    for parameter in parameters:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RoleError(
                f"*{name} in a variant", where=where, cause="roles and operands are known by name", cure="list them"
            )
        if parameter.kind is not parameter.KEYWORD_ONLY:
            if name not in ROLES:
                raise RoleError(
                    f"unknown role {name!r}",
                    where=where,
                    cause="positional parameters are roles: q k v (feature vectors) and b h i j (indices)",
                    cure=f"if {name!r} is an operand, make it keyword-only: def variant(q, k, v, *, {name}: at.Tensor['h'])",
                )
            roles.append(name)
            continue
        operands[name] = _operand(parameter, where)
    return Signature(tuple(roles), operands)


def _operand(parameter: inspect.Parameter, where: Location | str) -> Operand:
    name, annotation, default = parameter.name, parameter.annotation, parameter.default
    if name in ROLES:
        raise RoleError(
            f"role {name!r} as a keyword", where=where, cause="q k v b h i j are roles", cure="make it positional"
        )
    if annotation is parameter.empty:
        raise OperandError(
            f"operand {name!r} without annotation",
            where=where,
            cause="its kind decides how it is passed to the kernel",
            cure=f"{name}: float (or int, bool), {name}: at.Const[int], or {name}: at.Tensor['h']",
        )
    arguments = [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]
    if len(arguments) == 1 and "|" in str(annotation) + "".join("|" for _ in [0] if "Optional" in str(annotation)):
        annotation = arguments[0]  # `float | None`
    if isinstance(annotation, TensorSpec):
        return Operand(name, "tensor", annotation.kind, annotation.axes, None, default)
    if isinstance(annotation, ConstSpec):
        return Operand(name, "const", None, (), annotation.type, default)
    if annotation in _KINDS:
        return Operand(name, "scalar", _KINDS[annotation], (), annotation, default)
    raise OperandError(
        f"operand {name!r} annotated {annotation!r}",
        where=where,
        cause="operands are float, int, bool, at.Const[...] or at.Tensor[...]",
        cure=f"{name}: at.Tensor['b', 'j'] for an array",
    )
