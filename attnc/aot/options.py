"""The options of `attnc build`, as text, to a request."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from attnc.aot.build import Request
from attnc.errors import OperandError


def request(
    *,
    target: str,
    dtypes: Sequence[str],
    dims: Sequence[int],
    value_dims: Sequence[int],
    constants: Sequence[str],
    tables: Sequence[str],
    scalars: Sequence[str],
    extents: Sequence[str],
    lse: bool,
    aligned_only: bool,
    long: bool,
    short: bool,
) -> Request:
    """A request of NAME=VALUE texts. OperandError where one is no such text, or there are not as many dims of v as of q."""
    if value_dims and len(value_dims) != len(dims):
        raise OperandError(
            f"{len(value_dims)} --value-dim for {len(dims)} --head-dim",
            cause="they go together in order",
            cure="give one --value-dim for each --head-dim, or none where they are equal",
        )
    return Request(
        target=target,
        dtypes=tuple(dtypes),
        dims=tuple(zip(dims, value_dims or dims, strict=True)),
        constants={name: _value(text) for name, text in _pairs("--const", constants)},
        tables=dict(_pairs("--table", tables)),
        scalars=tuple(scalars),
        extents={name: _extent(name, text) for name, text in _pairs("--extent", extents)},
        lse=lse,
        rows=("aligned",) if aligned_only else ("aligned", "any"),
        long=long,
        short=short,
    )


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise OperandError(f"{option} {text}", cause="it is no NAME=VALUE", cure=f"for instance {option} name=1")
        found.append((name, value))
    return found


def _value(text: str) -> Any:
    """A Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _extent(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise OperandError(f"--extent {name}={text}", cause="it is no positive integer", cure=f"--extent {name}=16")
    return int(text)
