"""Emitted Python to LLVM: what Numba does for any program, done for the little language that attnc emits.

A kernel is assignments, `for` over `range`, `while`, `if`, integer arithmetic and calls; everything on SIMD values is a call
of an intrinsic, which builds its own LLVM code. A variable has the type of its first assignment. So one walk over the
syntax tree is enough, where Numba's inference needs seconds for a long kernel. The emitted module stays a Numba program:
a test compiles both ways.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from llvmlite import ir
from numba.core import errors, types

from attnc.backends.cpu import values
from attnc.backends.cpu.expressions import Expressions, Scope, Variable
from attnc.backends.cpu.values import VOID, Value, llvm_type

I64 = ir.IntType(64)


class Target:
    """What intrinsics ask of Numba's target context."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.made: dict[tuple[Any, Any], Any] = {}
        self.trees: dict[str, ast.Module] = {}

    def get_dummy_value(self) -> Any:
        return VOID

    def get_constant(self, kind: Any, value: Any) -> Any:
        return ir.Constant(llvm_type(kind), value)

    def compile_subroutine(self, builder: Any, function: FunctionType, signature: Any) -> Subroutine:
        """`function` as an LLVM function of the module, built at its first use with these types."""
        key = function, signature
        if key not in self.made:
            kinds = [llvm_type(x) for x in signature.args]
            result = ir.VoidType() if signature.return_type == types.void else llvm_type(signature.return_type)
            made = ir.Function(self.module, ir.FunctionType(result, kinds), f"{function.__name__}.{len(self.made)}")
            made.linkage = "internal"
            made.attributes.add("noinline")
            self.made[key] = made
            arguments = [Value(kind, code) for kind, code in zip(signature.args, made.args, strict=True)]
            write = Writer(self, ir.IRBuilder(made.append_basic_block("entry")))
            found = write.inline(function, arguments)
            if found is None:
                write.b.ret_void()
            else:
                write.b.ret(values.number(write.b, found, signature.return_type).code)
        return Subroutine(self.made[key])

    def call_internal_no_propagate(self, builder: Any, callee: Any, signature: Any, args: Any) -> tuple[None, Any]:
        result = builder.call(callee, args)
        return None, VOID if signature.return_type == types.void else result


@dataclass(frozen=True, slots=True)
class Subroutine:
    """A function of the module."""

    fndesc: Any


def kernel(module: Any, source: str, filename: str, namespace: Mapping[str, Any], entry: str) -> None:
    """Adds the C function `void entry(int64, int64)` of the emitted module `source` to an LLVM module.

    namespace: of the module, executed. AssertionError where the code is not of the language above.
    """
    definition = _definition(ast.parse(source, filename), entry)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64]), entry)
    writer = Writer(Target(module), ir.IRBuilder(function.append_basic_block("entry")))
    arguments = [Value(types.int64, x) for x in function.args]
    writer.body(definition, Scope(filename, namespace), arguments)
    writer.b.ret_void()


def _definition(tree: ast.AST, name: str, line: int | None = None) -> ast.FunctionDef:
    """The function `name` of a file, which begins on `line` (its decorators included)."""
    for x in ast.walk(tree):
        if isinstance(x, ast.FunctionDef) and x.name == name:
            first = min([x.lineno, *(d.lineno for d in x.decorator_list)])
            if line in (None, first):
                return x
    raise AssertionError(f"internal error: no function {name}")


class Writer(Expressions):
    """Writes one LLVM function."""

    def inline(self, function: FunctionType, arguments: Sequence[Value]) -> Value | None:
        """The body of a Python function, here."""
        filename, trees = function.__code__.co_filename, self.target.trees
        if filename not in trees:
            trees[filename] = ast.parse("".join(linecache.getlines(filename)), filename)
        definition = _definition(trees[filename], function.__name__, function.__code__.co_firstlineno)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        outside = {**function.__globals__, **{name: cell.cell_contents for name, cell in cells.items()}}
        return self.body(definition, Scope(filename, outside), arguments)

    def body(self, definition: ast.FunctionDef, scope: Scope, arguments: Sequence[Value]) -> Value | None:
        """The statements of a function; leaves the builder after them, where every `return` leads."""
        before, self.scope = self.scope, scope
        scope.done = self.b.append_basic_block("done")
        for argument, value in zip(definition.args.args, arguments, strict=True):
            self._set(argument.arg, value.dynamic)
        self._block(definition.body)
        self._go(scope.done)
        self.b.position_at_end(scope.done)
        self.scope = before
        return None if scope.result is None else Value(scope.result.kind, self.b.load(scope.result.place))

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for x in statements:
            try:
                getattr(self, f"_{type(x).__name__}", self._unknown)(x)
            except (errors.TypingError, NotImplementedError, TypeError, ValueError) as error:
                line = ast.unparse(x).splitlines()[0]
                place = f"{self.scope.filename}:{x.lineno}: {line}"
                raise AssertionError(
                    f"internal error: emitted code that cannot be compiled\n{place}\n{error}"
                ) from error

    def _unknown(self, x: ast.AST) -> Any:
        raise NotImplementedError(f"emitted code has no {type(x).__name__}")

    def _Expr(self, x: ast.Expr) -> None:
        if not isinstance(x.value, ast.Constant):  # a docstring
            self.call(x.value)

    def _Assign(self, x: ast.Assign) -> None:
        (target,) = x.targets
        if not isinstance(target, ast.Tuple):
            self._set(self._variable_name(target), self.value(x.value))
        elif isinstance(x.value, ast.Tuple):
            self._set_all(target, [self.value(part) for part in x.value.elts])
        else:
            self._set_all(target, values.parts(self.b, self.value(x.value)))

    def _set_all(self, target: ast.Tuple, found: Sequence[Value]) -> None:
        for x, value in zip(target.elts, found, strict=True):
            self._set(self._variable_name(x), value)

    def _variable_name(self, x: ast.expr) -> str:
        if not isinstance(x, ast.Name):
            raise NotImplementedError(f"emitted code assigns to names, not to {ast.unparse(x)}")
        return x.id

    def _set(self, name: str, value: Value) -> None:
        """A variable takes its type from its first assignment."""
        names, kind = self.scope.names, types.unliteral(value.kind)
        if isinstance(kind, types.TypeRef):
            names[name] = value
            return
        if name not in names:
            names[name] = self._variable(kind, name)
        variable = names[name]
        if not isinstance(variable, Variable) or variable.kind != kind:
            raise TypeError(f"{name} is {variable.kind} before and {kind} here")
        self.b.store(value.code, variable.place)

    def _variable(self, kind: Any, name: str) -> Variable:
        with self.b.goto_entry_block():
            return Variable(kind, self.b.alloca(llvm_type(kind), name=name))

    def _AugAssign(self, x: ast.AugAssign) -> None:
        name = self._variable_name(x.target)
        old, step = self.name(name), self.value(x.value)
        self._set(name, values.arithmetic(self.b, type(x.op).__name__, old, step))

    def _Return(self, x: ast.Return) -> None:
        if x.value is not None:
            value = self.value(x.value)
            kind = types.unliteral(value.kind)
            if self.scope.result is None:
                self.scope.result = self._variable(kind, "result")
            if self.scope.result.kind != kind:
                raise TypeError(f"returns {self.scope.result.kind} before and {kind} here")
            self.b.store(value.code, self.scope.result.place)
        self._go(self.scope.done)

    def _Break(self, x: ast.Break) -> None:
        self._go(self.scope.loops[-1][1])

    def _Continue(self, x: ast.Continue) -> None:
        self._go(self.scope.loops[-1][0])

    def _If(self, x: ast.If) -> None:
        yes, no = self.b.append_basic_block("then"), self.b.append_basic_block("else")
        after = self.b.append_basic_block("after") if x.orelse else no
        self.test(x.test, yes, no)
        self.b.position_at_end(yes)
        self._block(x.body)
        self._go(after)
        if x.orelse:
            self.b.position_at_end(no)
            self._block(x.orelse)
            self._go(after)
        self.b.position_at_end(after)

    def _While(self, x: ast.While) -> None:
        head, body, after = (self.b.append_basic_block(n) for n in ("while", "do", "after"))
        self._go(head)
        self.b.position_at_end(head)
        self.test(x.test, body, after)
        with self._loop(body, head, after):
            self._block(x.body)

    def _For(self, x: ast.For) -> None:
        """The counter is hidden: what the body assigns to the variable does not move it. Only a constant step is negative."""
        if not isinstance(x.iter, ast.Call) or ast.unparse(x.iter.func) != "range":
            raise NotImplementedError("emitted code counts with range")
        bounds = [self.value(v) for v in x.iter.args]
        step = bounds[2] if len(bounds) == 3 else values.constant(1)
        forwards = (values.known(step) or 1) > 0
        first, stop = bounds[:2] if len(bounds) > 1 else (values.constant(0), bounds[0])
        start, end, stride = (values.integer(self.b, bound) for bound in (first, stop, step))
        counter = self._variable(types.int64, "counter")
        self.b.store(start, counter.place)
        head, body, following, after = (self.b.append_basic_block(n) for n in ("for", "do", "next", "after"))
        self._go(head)
        self.b.position_at_end(head)
        now = self.b.load(counter.place)
        self.b.cbranch(self.b.icmp_signed("<" if forwards else ">", now, end), body, after)
        with self._loop(body, following, after):
            self._set(self._variable_name(x.target), Value(types.int64, now))
            self._block(x.body)
        self.b.position_at_end(following)
        self.b.store(self.b.add(now, stride, flags=["nsw"]), counter.place)
        self.b.branch(head)
        self.b.position_at_end(after)

    @contextmanager
    def _loop(self, body: Any, again: Any, after: Any) -> Iterator[None]:
        self.b.position_at_end(body)
        self.scope.loops.append((again, after))
        yield
        self.scope.loops.pop()
        self._go(again)
        self.b.position_at_end(after)

    def _go(self, block: Any) -> None:
        if not self.b.block.is_terminated:
            self.b.branch(block)
