"""What a variant says of its attention matrix, without making more of it than is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from attnc.dsl.signature import Signature
from attnc.ir.graph import Graph
from attnc.runtime.binding import Bound, as_numpy, bind

if TYPE_CHECKING:
    from attnc.columns import Columns


class Matrix(ABC):
    """Of a variant: windows of its weights, and their sums over the queries."""

    __name__: str
    signature: Signature

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    @abstractmethod
    def __call__(self, q: Any, k: Any, v: Any, **arguments: Any) -> Any:
        """Run the compiled kernel."""

    @abstractmethod
    def _trace(self, bound: Bound) -> Graph: ...

    @abstractmethod
    def _derived(self, called: Signature, rewrite: Callable[[Graph], Graph]) -> Matrix:
        """A variant whose graph is made of this one's."""

    @abstractmethod
    def _apart(self, asked: dict[str, Any], operands: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]: ...

    def weights(
        self, q: Any, k: Any, *, rows: Any = None, cols: Any = None, layout: str = "bhld", **operands: Any
    ) -> np.ndarray[Any, Any]:
        """The attention matrix (B,Hq,Lq,Lk) in q's dtype: the kernel's output for V = identity.

        rows, cols: slices or ranges of queries and keys, for that window of the matrix alone; nothing is computed for other rows.
        An operand of the variant that is called so goes first. OutputError: the output is not linear in v, or the variant has
        several. ShapeError: steps in a slice.
        """
        from attnc.weights import Window, check_inputs, check_linear

        operands, chosen = self._apart({"rows": rows, "cols": cols}, operands)
        q, k = as_numpy(q, "Q"), as_numpy(k, "K")
        check_inputs(self.__name__, self.signature.operands, q, k, operands)
        part = Window.of(q, k, layout, **chosen)
        check_linear(self._trace(bind(self.signature, q, k, k, operands, layout)))  # any V
        variant: Matrix = self
        if part.rows is not None:
            variant, place = self._for_rows(part.rows.start, q.shape[-3 if layout == "blhd" and q.ndim > 2 else -2])
            operands = operands | place
        return part.weights(lambda q, v: variant(q, k, v, layout=layout, **operands), q, k)

    def _for_rows(self, first: int, total: int) -> tuple[Matrix, dict[str, int]]:
        """The variant for rows from `first` on, of `total`, and the operands that say so."""
        from attnc.rows import of_rows

        rows = of_rows(self.signature)
        if "rows" not in self._made:
            self._made["rows"] = self._derived(rows.signature, rows.graph)
        return self._made["rows"], {rows.first: first, rows.total: total}

    def column_sums(self, q: Any, k: Any, *, layout: str = "bhld", **operands: Any) -> np.ndarray[Any, Any]:
        """How much weight each key gets from all queries, (B,Hq,Lk): the sums of `weights` over the queries, without the matrix.

        In at least float32: 16-bit inputs are converted. One sweep over the keys of each query for what a softmax needs of its row, then one
        over the queries of each key (the score of H2O: Zhang et al., 2023, arXiv 2306.14048). Raises as `weights`.
        """
        from attnc.columns import turned
        from attnc.weights import check_inputs, check_linear

        q, k = as_numpy(q, "Q"), as_numpy(k, "K")
        check_inputs(self.__name__, self.signature.operands, q, k, operands)
        bound = bind(self.signature, q, k, k, operands, layout)
        check_linear(self._trace(bound))
        wide = np.float64 if bound.dtype == "float64" else np.float32
        q, k = (x.astype(wide, copy=False) for x in (bound.inputs.q, bound.inputs.k))
        of_rows, of_keys, made = self._columns(bound)
        found = of_rows(q, k, k, **operands) if of_rows is not None else ()
        tables = dict(zip(made.tables, found, strict=True))
        keys, queries = turned(q, k)
        place = {made.group: q.shape[1] // k.shape[1]}
        if keys.shape[2] == 0:
            return np.zeros((*keys.shape[:2], 0), wide)
        result = np.asarray(of_keys(keys, queries, queries, **operands, **place, **tables))
        return result.reshape(result.shape[4 - bound.rank :])

    def _columns(self, bound: Bound) -> tuple[Matrix | None, Matrix, Columns]:
        """The variants of finished rows and of the sums, and what the latter is called with."""
        from attnc.columns import columns

        key = ("columns", bound.specialisation)
        if key not in self._made:
            made = columns(self._trace(bound), self.signature)
            of_rows = None if (rows := made.rows) is None else self._derived(self.signature, lambda _: rows)
            self._made[key] = of_rows, self._derived(made.signature, lambda _: made.keys), made
        found: tuple[Matrix | None, Matrix, Columns] = self._made[key]
        return found
