"""What a traced value refuses to do, each with the reason and the cure."""

from __future__ import annotations

from typing import Any, NoReturn

from attnc.dsl.place import here, is_indexing
from attnc.errors import MethodError, TraceError
from attnc.ir.graph import Node
from attnc.ir.text import expression

__all__ = ["Opaque", "brief", "captured_array", "here", "refuse_function"]

_LONG = 40  # an expression of more nodes is cut in messages
_FUNCTIONS = frozenset({
    "abs", "clip", "cos", "dot", "erf", "exp", "exp2", "floor", "gelu", "log", "log1p", "log2", "max", "maximum", "min",
    "minimum", "pow", "relu", "rsqrt", "sigmoid", "sign", "silu", "sin", "softmax", "softplus", "sqrt", "sum", "tanh",
    "where",
})  # fmt: skip
_SPELLING = {
    "absolute": "at.abs", "power": "at.pow", "float_power": "at.pow", "amax": "at.max", "amin": "at.min",
    "fmax": "at.maximum", "fmin": "at.minimum", "expit": "at.sigmoid", "matmul": "the operator @",
    "einsum": "at.dot or the operator @", "logical_and": "the operator &", "logical_or": "the operator |",
    "logical_not": "the operator ~", "logical_xor": "the operator ^", "mean": "at.sum(x, over=...) / at.size(x)",
    "equal": "the operator ==", "not_equal": "the operator !=", "greater": "the operator >",
    "greater_equal": "the operator >=", "square": "x ** 2", "logaddexp": "at.softplus(x - y) + y",
    "masked_fill": "at.where(mask, value, x)", "triu": "the condition j >= i", "tril": "the condition j <= i",
    "arange": "the indices i and j", "shape": "at.size(q), at.q_len, at.kv_len", "item": "an operand, whose value is passed at the call",
    "transpose": "at.dot(q, k) (axes have names, nothing is transposed)", "T": "at.dot(q, k) (axes have names, nothing is transposed)",
    "mT": "at.dot(q, k) (axes have names, nothing is transposed)",
}  # fmt: skip


def brief(x: Node) -> str:
    """The expression as the user would write it; what is long or deep in it is `...`."""
    return expression(x, budget=_LONG)


def captured_array(x: Any = None) -> TraceError:
    """The error for an array that the variant closes over instead of taking it as an operand."""
    shape = getattr(x, "shape", None)
    what = f"an array of shape {tuple(shape)}" if shape is not None else "an array or list"
    axes = ", ".join(repr(a) for a in "nmpq"[: max(len(shape or ()), 1)])
    return TraceError(
        "an array inside the variant",
        where=here(),
        cause=f"{what} is captured by the function; its values would be baked into the kernel",
        cure=f"make it an operand: add a keyword-only parameter, table: at.Tensor[{axes}], read it by integers, table[i - j], and pass table=array at the call",
    )


def refuse_function(library: str, name: str) -> TraceError:
    """The error for a function of NumPy or PyTorch on a traced value."""
    return TraceError(
        f"{library}.{name} of a traced value",
        where=here(),
        cause=f"{library} computes on arrays; a traced value is an expression that has no number yet",
        cure=_instead(name),
    )


def _instead(name: str) -> str:
    if name in _SPELLING:
        return f"write {_SPELLING[name]}"
    if name in _FUNCTIONS:
        return f"write at.{name}"
    return "write it with the operators and functions of the language (docs/language.md lists them all)"


class Opaque:
    """Base of traced values: it has no truth, number, length, items or state while the formula is traced."""

    __slots__ = ("node",)
    node: Node

    def _shown(self) -> str:
        return brief(self.node)

    def __bool__(self) -> NoReturn:
        raise TraceError(
            "a traced value has no truth value",
            where=here(),
            cause=f"`if`, `while`, `and`, `or`, `not`, `in`, min(), max() or a chained comparison asks for the truth of {self._shown()}, but the formula is traced once, for all pairs",
            cure="choose with at.where(condition, a, b), at.minimum or at.maximum; combine masks with & | ~ and brackets: (a <= b) & (b < c)",
        )

    def _no_value(self, what: str) -> NoReturn:
        raise TraceError(
            f"{what} of a traced value",
            where=here(),
            cause=f"{self._shown()} is an expression; while the formula is traced it has no number",
            cure="use at.sqrt, at.exp, ... in place of math.*; a count for range() is a keyword-only operand, n: at.Const[int]",
        )

    def __float__(self) -> NoReturn:
        self._no_value("float()")

    def __int__(self) -> NoReturn:
        self._no_value("int()")

    def __complex__(self) -> NoReturn:
        self._no_value("complex()")

    def __index__(self) -> NoReturn:
        if is_indexing():
            raise captured_array()
        self._no_value("range(), or use as a Python index,")

    def __len__(self) -> NoReturn:
        self._no_value("len()")

    def __iter__(self) -> NoReturn:
        self._no_value("iteration")

    def __getitem__(self, index: Any) -> Any:
        raise TraceError(
            "a traced value cannot be indexed",
            where=here(),
            cause=f"{self._shown()} already is the value at the current pair",
            cure="only operand tensors are indexed: declare one as a keyword-only parameter, table: at.Tensor['n'], and read table[i - j]",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise MethodError(
            f".{name} of a traced value",
            where=here(),
            cause=f"{self._shown()} is an expression, not an array: it has operators and named axes, but no methods",
            cure=_instead(name),
        )

    def _mutation(self) -> NoReturn:
        raise TraceError(
            "a traced value cannot be changed in place",
            where=here(),
            cause="the formula is a graph of values; nothing in it is stored",
            cure="bind a new name: s2 = at.where(condition, new, s)",
        )

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._mutation()

    def __delitem__(self, index: Any) -> NoReturn:
        self._mutation()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        self._mutation()

    def __delattr__(self, name: str) -> NoReturn:
        self._mutation()

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        if is_indexing():  # a NumPy array indexed with a traced value asks for its array
            raise captured_array()
        raise refuse_function("numpy", "array")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        raise refuse_function("numpy", getattr(func, "__name__", str(func)))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> NoReturn:
        name = getattr(func, "__name__", str(func))
        if args and not isinstance(args[0], Opaque) and name.startswith("__"):  # tensor[i], tensor @ x
            raise captured_array(args[0])
        raise refuse_function("torch", name)
