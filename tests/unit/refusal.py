"""What a refusal must have: its class, the words of its sentences, the user's text under the caret, and no evaluation."""

import linecache
import re
from pathlib import Path

import numpy as np
import pytest

import attnc as at
from attnc import errors
from attnc.interp import Interpreter

Q = K = V = np.random.default_rng(0).standard_normal((1, 2, 5, 4))
FOLDER = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def nothing_is_computed(monkeypatch):
    """Import it, and the interpreter cannot run in the module's tests."""

    def run(*_):
        raise AssertionError("evaluated")

    monkeypatch.setattr(Interpreter, "run", run)


def refused(kind, action, message, cause, cure, under):
    """The error of `action`: its class, words of its three sentences, and the source text under its caret."""
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert type(error) is kind and isinstance(error, errors.AttncError)
    assert message in error.message and cause in error.cause and cure in error.cure
    assert all(text in str(error) for text in (error.message, f"cause: {error.cause}", f"cure:  {error.cure}"))
    if under is not None:
        assert isinstance(error.where, errors.Location) and error.where.file.startswith(FOLDER)
        line = linecache.getline(error.where.file, error.where.line)
        assert under_caret(error) == under and under in line and f"{error.where.file}:{error.where.line}" in str(error)


def under_caret(error):
    line, caret = error.where.excerpt().split("\n")
    return line[caret.index("^") : caret.index("^") + caret.count("^")]


def tracing(function):
    """Both ways in: without inputs, and with (which must refuse before it computes)."""
    variant = at.attention(function)

    def action():
        with pytest.raises(errors.AttncError) as first:
            variant(Q, K, V)
        with pytest.raises(type(first.value), match=re.escape(first.value.message)):
            variant.reference(Q, K, V)
        return variant.graph

    return action
