"""Expressions of emitted code: names, constants, integer arithmetic, conditions and calls."""

from __future__ import annotations

import ast
import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from numba.core import types
from numba.core.extending import _Intrinsic

from attnc.backends.cpu import values
from attnc.backends.cpu.values import Value, llvm_type


@dataclass(frozen=True, slots=True)
class Variable:
    """A place on the stack, which LLVM turns into registers."""

    kind: Any
    place: Any


@dataclass(slots=True)
class Scope:
    """The names of one Python function: its variables, what it sees outside, and where its `return` goes.

    result: where the value is put, once a `return` said of what kind it is.
    """

    filename: str
    outside: Mapping[str, Any]
    done: Any = None
    names: dict[str, Variable | Value] = field(default_factory=dict)
    loops: list[tuple[Any, Any]] = field(default_factory=list)  # where `continue` and `break` go
    result: Variable | None = None


class Expressions(ABC):
    """Writes expressions where `builder` stands. target: what intrinsics take for Numba's target context."""

    def __init__(self, target: Any, builder: Any) -> None:
        self.target = target
        self.b = builder
        self.scope = Scope("", {})

    @abstractmethod
    def inline(self, function: FunctionType, arguments: Sequence[Value]) -> Value | None:
        """The body of a Python function, here."""

    def value(self, x: ast.expr) -> Value:
        """The value of an expression."""
        match x:
            case ast.Constant():
                return values.constant(x.value)
            case ast.Name():
                return self.name(x.id)
            case ast.Call():
                found = self.call(x)
                if found is None:
                    raise TypeError(f"{ast.unparse(x)} has no value")
                return found
            case ast.BinOp():
                return values.arithmetic(self.b, type(x.op).__name__, self.value(x.left), self.value(x.right))
            case ast.UnaryOp(op=ast.USub()):
                return values.negative(self.b, self.value(x.operand))
            case ast.Compare(ops=[op], comparators=[other]):
                return values.comparison(self.b, type(op).__name__, self.value(x.left), self.value(other))
            case ast.Tuple():
                return values.joined(self.b, [self.value(v) for v in x.elts])
            case ast.Subscript(slice=ast.Constant(value=int(n))):
                return values.parts(self.b, self.value(x.value))[n]
            case ast.IfExp():
                return self._either(x.test, lambda: self.value(x.body), lambda: self.value(x.orelse))
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return self._either(x, lambda: values.constant(True), lambda: values.constant(False))
        raise NotImplementedError(f"emitted code has no {type(x).__name__}")

    def test(self, x: ast.expr, yes: Any, no: Any) -> None:
        """Goes on at `yes` or `no`; of `and` and `or`, only what is needed is looked at."""
        if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.Not):
            self.test(x.operand, no, yes)
        elif isinstance(x, ast.BoolOp):
            for part in x.values[:-1]:
                further = self.b.append_basic_block("further")
                self.test(part, *((further, no) if isinstance(x.op, ast.And) else (yes, further)))
                self.b.position_at_end(further)
            self.test(x.values[-1], yes, no)
        else:
            self.b.cbranch(values.truth(self.b, self.value(x)), yes, no)

    def _either(self, test: ast.expr, yes: Callable[[], Value], no: Callable[[], Value]) -> Value:
        blocks = [self.b.append_basic_block(n) for n in ("then", "else")]
        after = self.b.append_basic_block("after")
        self.test(test, *blocks)
        found = []
        for block, branch in zip(blocks, (yes, no), strict=True):
            self.b.position_at_end(block)
            found.append((branch().dynamic, self.b.block))
            self.b.branch(after)
        self.b.position_at_end(after)
        kind = found[0][0].kind
        if kind != found[1][0].kind:
            raise TypeError(f"{kind} or {found[1][0].kind}: one of the two")
        phi = self.b.phi(llvm_type(kind))
        for value, block in found:
            phi.add_incoming(value.code, block)
        return Value(kind, phi)

    def name(self, name: str) -> Value:
        known = self.scope.names.get(name)
        if known is None:
            return values.constant(self._outside(name))
        return Value(known.kind, self.b.load(known.place)) if isinstance(known, Variable) else known

    def _outside(self, name: str) -> Any:
        if name in self.scope.outside:
            return self.scope.outside[name]
        if not hasattr(builtins, name):
            raise NotImplementedError(f"{name} is not defined")
        return getattr(builtins, name)

    def call(self, x: ast.expr) -> Value | None:
        if not isinstance(x, ast.Call) or not isinstance(x.func, ast.Name) or x.keywords:
            raise NotImplementedError("emitted code calls functions by their names")
        callee, arguments = self._outside(x.func.id), [self.value(v) for v in x.args]
        if callee is min or callee is max:
            return values.extreme(self.b, callee.__name__, arguments)
        if isinstance(callee, types.Type):
            return values.number(self.b, arguments[0], callee)
        if isinstance(callee, FunctionType):
            return self.inline(callee, arguments)
        if not isinstance(callee, _Intrinsic):
            raise NotImplementedError(f"emitted code cannot call {callee!r}")
        if not callee._prefer_literal:
            arguments = [v.dynamic for v in arguments]
        signature, generate = callee._defn(None, *(v.kind for v in arguments))
        if signature.args and isinstance(signature.args[0], types.StarArgTuple):
            codes = [values.packed(self.b, arguments)]
        else:
            codes = [v.code for v in arguments]
        result = generate(self.target, self.b, signature, codes)
        return None if signature.return_type == types.void else Value(signature.return_type, result)
