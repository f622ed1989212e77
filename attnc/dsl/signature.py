"""What a variant's parameters declare: roles by name, operands by annotation."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from attnc.dsl.place import here
from attnc.dsl.source import defined, parameter
from attnc.errors import AttncError, OperandError, RoleError
from attnc.ir.ops import Kind

ROLES = ("q", "k", "v", "b", "h", "i", "j")
_CALL = ("self", "out", "return_lse", "layout")  # arguments of the call itself
_KINDS: dict[Any, Kind] = {bool: "bool", int: "int", float: "float"}
_MEANT = {
    "Q": "q", "K": "k", "V": "v", "query": "q", "key": "k", "value": "v", "batch": "b", "head": "h", "B": "b", "H": "h",
    "q_idx": "i", "kv_idx": "j", "row": "i", "col": "j", "I": "i", "J": "j", "m": "i", "n": "j",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """`at.Tensor["h", "n"]`: the named axes of an operand array, and its kind where declared (`at.Tensor["j", int]`)."""

    axes: tuple[str, ...]
    kind: Kind | None = None

    def __or__(self, other: None) -> TensorSpec:
        """`at.Tensor["h"] | None`, as type checkers want an optional operand written."""
        return self


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
                f"at.Tensor[{axes!r}]",
                where=here(),
                cause="the axes of an operand are names",
                cure='for instance at.Tensor["b", "j"], or at.Tensor["j", int] for integers',
            )
        return TensorSpec(tuple(names), kind)


class Const:
    """Annotation of a compile-time constant: `n: at.Const[int] = 2`."""

    def __class_getitem__(cls, type_: Any) -> ConstSpec:
        if type_ not in (bool, int, float, str, tuple):
            raise OperandError(
                f"at.Const[{type_!r}]",
                where=here(),
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

    @property
    def declared(self) -> str:
        """The annotation, as the user wrote it."""
        if self.role == "tensor":
            kind = "" if self.kind is None else f", {self.kind}"
            return f"at.Tensor[{', '.join(map(repr, self.axes))}{kind}]"
        name = "float" if self.type is None else self.type.__name__
        return f"at.Const[{name}]" if self.role == "const" else name


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a variant."""

    roles: tuple[str, ...]
    operands: dict[str, Operand]


def fits(kind: Kind, value: Any) -> bool:
    """Whether a Python value can be a scalar of this kind: a float may be given as int, a bool is no number."""
    if kind == "bool":
        return isinstance(value, bool)
    return (isinstance(value, int) and not isinstance(value, bool)) or (kind == "float" and isinstance(value, float))


def signature(function: Callable[..., Any]) -> Signature:
    """Read a variant's parameters.

    Raises:
        RoleError: a positional parameter is no role. OperandError: an operand without a usable annotation.
    """
    if not callable(function):
        raise RoleError(
            f"{type(function).__name__} as a variant",
            where=here(),
            cause="a variant is a function of q, k, v, b, h, i, j",
            cure="write @at.attention above its def",
        )
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except AttncError as error:  # a bad at.Tensor[...] in a string annotation
        raise error.located(defined(function)) from None
    except (NameError, SyntaxError, AttributeError, TypeError) as error:
        raise OperandError(
            "an annotation cannot be read",
            where=defined(function),
            cause=f"{type(error).__name__}: {error}",
            cure="annotations see the names of the module: import attnc as at at its top; axes are quoted, at.Tensor['h']",
        ) from error
    roles: list[str] = []
    operands: dict[str, Operand] = {}
    for x in parameters:
        try:
            if x.kind is x.KEYWORD_ONLY:
                operands[x.name] = _operand(x)
            else:
                _check_role(x)
                roles.append(x.name)
        except AttncError as error:
            raise error.located(parameter(function, x.name)) from None
    return Signature(tuple(roles), operands)


def _check_role(x: inspect.Parameter) -> None:
    name = x.name
    if x.kind in (x.VAR_POSITIONAL, x.VAR_KEYWORD):
        raise RoleError(
            f"{'*' if x.kind is x.VAR_POSITIONAL else '**'}{name} in a variant",
            cause="roles and operands are known by their names",
            cure="list them: def variant(q, k, v, i, j, *, window: int)",
        )
    if name not in ROLES:
        cure = f"if {name!r} is an operand, make it keyword-only: def variant(q, k, v, *, {name}: at.Tensor['h'])"
        raise RoleError(
            f"unknown role {name!r}",
            cause="positional parameters are roles: q k v (feature vectors) and b h i j (batch, head, query, key)",
            cure=f"did you mean {_MEANT[name]!r}? Else {cure}" if name in _MEANT else cure,
        )
    if x.default is not x.empty:
        raise RoleError(
            f"role {name!r} has a default",
            cause="roles stand for the current pair; nobody passes them",
            cure=f"remove the default; an operand is keyword-only and has another name than {name!r}",
        )


def _operand(x: inspect.Parameter) -> Operand:
    name, annotation, default = x.name, x.annotation, x.default
    if name in ROLES:
        raise RoleError(
            f"role {name!r} as a keyword",
            cause="q k v b h i j are roles",
            cure="make it positional, or give the operand another name",
        )
    if name in _CALL:
        raise OperandError(
            f"operand {name!r}",
            cause=f"{name}= is an argument of every call, so it would never reach the formula",
            cure=f"give the operand another name, for instance {name}_",
        )
    if annotation is x.empty:
        raise OperandError(
            f"operand {name!r} without annotation",
            cause="the annotation says what it is: a number, a constant that unrolls, or an array with named axes",
            cure=f"{name}: float (or int, bool), {name}: at.Const[int], or {name}: at.Tensor['h']",
        )
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):  # float | None
        kinds = [a for a in typing.get_args(annotation) if a is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else annotation
    if isinstance(annotation, TensorSpec):
        return Operand(name, "tensor", annotation.kind, annotation.axes, None, default)
    if isinstance(annotation, ConstSpec):
        return Operand(name, "const", None, (), annotation.type, default)
    kind = _KINDS.get(annotation) if isinstance(annotation, type) else None
    if kind is None:
        raise OperandError(
            f"operand {name!r} annotated {annotation!r}",
            cause="operands are float, int, bool, at.Const[...] or at.Tensor[...]",
            cure=f"{name}: at.Tensor['b', 'j'] for an array; its axes are names",
        )
    if default is not x.empty and default is not None and not fits(kind, default):
        raise OperandError(
            f"operand {name!r} has the default {default!r}",
            cause=f"it is annotated {annotation.__name__}",
            cure=f"annotate it {type(default).__name__}, or change the default",
        )
    return Operand(name, "scalar", kind, (), annotation, default)
