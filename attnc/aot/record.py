"""Dataclasses to JSON that a person can read, the same bytes each time, and back with every type checked."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")
WIDTH = 120


def write(x: Any) -> str:
    """JSON text of a dataclass instance: what fits in a line stands in one."""
    return _text(_plain(x), 0) + "\n"


def read(kind: type[Record], text: str | bytes) -> Record:
    """What `write` wrote, an instance of the dataclass `kind`.

    ValueError: no JSON, or something in it has another type than the field that it stands for; the message names the field.
    """
    found: Record = restore(kind, json.loads(text), kind.__name__)
    return found


def _plain(x: Any) -> Any:
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return {f.name: _plain(getattr(x, f.name)) for f in dataclasses.fields(x)}
    if isinstance(x, Mapping):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, tuple | list):
        return [_plain(y) for y in x]
    assert x is None or isinstance(x, bool | int | float | str), f"internal error: {x!r} is no plain data"
    return x


def _text(x: Any, depth: int) -> str:
    line = json.dumps(x, ensure_ascii=False)
    if not x or not isinstance(x, dict | list) or (len(line) + depth <= WIDTH and not _has_records(x)):
        return line
    pad = "\n" + " " * (depth + 1)
    if isinstance(x, list) and not any(isinstance(y, list | dict) for y in x):
        items = [json.dumps(y, ensure_ascii=False) for y in x]
        return "[" + pad + f",{pad}".join(_filled(items, WIDTH - depth)) + pad[:-1] + "]"
    if isinstance(x, dict):
        inner = [f"{json.dumps(key, ensure_ascii=False)}: {_text(y, depth + 1)}" for key, y in x.items()]
        return "{" + pad + f",{pad}".join(inner) + pad[:-1] + "}"
    return "[" + pad + f",{pad}".join(_text(y, depth + 1) for y in x) + pad[:-1] + "]"


def _filled(items: list[str], width: int) -> list[str]:
    """The items, comma between, in lines as long as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= width:
            lines[-1] += f", {item}"
        else:
            lines.append(item)
    return lines


def _has_records(x: Any) -> bool:
    """Whether x holds a list of objects: those stand below each other even where they are short."""
    if isinstance(x, dict):
        return any(_has_records(y) or (isinstance(y, list) and _has_dicts(y)) for y in x.values())
    return isinstance(x, list) and any(_has_records(y) for y in x)


def _has_dicts(x: list[Any]) -> bool:
    return any(isinstance(y, dict) for y in x)


def restore(kind: Any, data: Any, place: str) -> Any:
    """`data` as a value of the annotation `kind`. ValueError names `place`."""
    if dataclasses.is_dataclass(kind):
        return _record(kind, data, place)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in inner:
            return None
        (other,) = [x for x in inner if x is not type(None)]
        return restore(other, data, place)
    if origin is typing.Literal:
        return _must(data in inner, data, place)
    if origin is tuple:
        _must(isinstance(data, list) and (inner[-1] is ... or len(data) == len(inner)), data, place)
        kinds = [inner[0]] * len(data) if inner[-1] is ... else inner
        return tuple([restore(k, x, f"{place}[{n}]") for n, (k, x) in enumerate(zip(kinds, data, strict=True))])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _must(isinstance(data, dict), data, place)
        return {name: restore(inner[1], x, f"{place}.{name}") for name, x in data.items()}
    if kind is Any:
        return _frozen(data)
    if kind is float and type(data) is int:
        return float(data)
    return _must(type(data) is kind, data, place)


def _frozen(x: Any) -> Any:
    """x with tuples for lists."""
    return tuple(_frozen(y) for y in x) if isinstance(x, list) else x


def _record(kind: Any, data: Any, place: str) -> Any:
    _must(isinstance(data, dict), data, place)
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    if set(data) != set(names):
        odd = sorted(set(data) ^ set(names))[0]
        raise ValueError(f"{place} {'has no' if odd in names else 'has an unknown'} {odd!r}")
    return kind(**{name: restore(hints[name], data[name], f"{place}.{name}") for name in names})


def _must(holds: bool, data: Any, place: str) -> Any:
    if not holds:
        raise ValueError(f"{place} is {str(data)[:40]!r}")
    return data
