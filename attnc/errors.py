"""One class per kind of user mistake; each message says where, what is wrong, and how to mend it."""

from __future__ import annotations

import linecache
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A place in the user's source: file, 1-based line, 0-based columns in bytes of UTF-8 (-1 where unknown).

    `end_column` of -1 with a known `column` means that the expression goes on to the next line.
    """

    file: str
    line: int
    column: int = -1
    end_column: int = -1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def excerpt(self) -> str:
        """The source line with carets under the expression, or '' where the source cannot be read."""
        linecache.checkcache(self.file)  # the file may have been edited since it was read
        text = linecache.getline(self.file, self.line).rstrip()
        if not text.strip():
            return ""
        stripped = text.lstrip()
        raw, shift = text.encode(), len(text) - len(stripped)
        end = len(raw) if self.end_column < 0 else self.end_column
        if not 0 <= self.column < end <= len(raw):
            return f"    {stripped}"
        start = len(raw[: self.column].decode(errors="replace"))
        stop = len(raw[:end].decode(errors="replace"))
        if start < shift:
            return f"    {stripped}"
        return f"    {stripped}\n    {' ' * (start - shift)}{'^' * (stop - start)}"


class AttncError(Exception):
    """Base of all errors a user can cause. `where` is a Location or words, `cause` and `cure` are sentences."""

    def __init__(
        self, message: str, *, where: Location | str | None = None, cause: str | None = None, cure: str | None = None
    ) -> None:
        self.message, self.where, self.cause, self.cure = message, where, cause, cure
        lines = [message]
        if where is not None:
            lines.append(f"  where: {where}")
            if isinstance(where, Location) and (excerpt := where.excerpt()):
                lines.append(excerpt)
        if cause:
            lines.append(f"  cause: {cause}")
        if cure:
            lines.append(f"  cure:  {cure}")
        super().__init__("\n".join(lines))

    def located(self, where: Location | str | None) -> AttncError:
        """The same error at a line of the user's source; one that has its line already stays as it is."""
        if where is None or isinstance(self.where, Location):
            return self
        return type(self)(self.message, where=where, cause=self.cause, cure=self.cure)


class RoleError(AttncError, TypeError):
    """A positional parameter of the variant is not one of q, k, v, b, h, i, j."""


class OperandError(AttncError, TypeError):
    """An operand is declared badly, missing, unexpected, or has a wrong type."""


class ShapeError(AttncError, ValueError):
    """An input's rank or extent does not fit the others."""


class DTypeError(AttncError, TypeError):
    """An input's dtype is not supported in its place."""


class DeviceError(AttncError, RuntimeError):
    """An input lies on a device that this call cannot use, or the device is missing."""


class AxisError(AttncError, ValueError):
    """Named axes of an expression do not fit the operation."""


class KindError(AttncError, TypeError):
    """A boolean, integer or float expression stands where another kind is needed."""


class TraceError(AttncError, TypeError):
    """The variant does with a traced value what only a plain Python value can do."""


class MethodError(TraceError, AttributeError):
    """The variant asks a traced value for a method or attribute, as if it were an array."""


class OutputError(AttncError, TypeError):
    """The variant returns something that is not an output."""


class IndexRangeError(AttncError, IndexError):
    """A table index is proved to be out of range."""


class GradientError(AttncError, RuntimeError):
    """An input requires gradients, and there is no backward for it."""


class KernelFileError(AttncError, ValueError):
    """A directory of kernels that were compiled ahead of time is missing, damaged, or made for something else."""


class UnsupportedError(AttncError, NotImplementedError):
    """A correct program that a backend cannot compile yet; the message names the node."""
