"""Text with indentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap

INDENT, WIDTH = "    ", 120


class Printer:
    """Collects lines; `block` indents what is printed inside it. Another printer's lines can be put in later."""

    def __init__(self) -> None:
        self.parts: list[str | tuple[str, Printer]] = []
        self.margin = ""

    def line(self, text: str = "") -> None:
        """One line at the present indentation."""
        self.parts.append(self.margin + text if text else "")

    def once(self, text: str) -> None:
        """One line, unless the block that is being printed has it already."""
        for part in reversed(self.parts):
            if part == self.margin + text:
                return
            if isinstance(part, str) and part and not part.startswith(self.margin):
                break
        self.line(text)

    def place(self) -> Printer:
        """A printer whose lines will stand here, whenever they come."""
        inner = Printer()
        self.insert(inner)
        return inner

    def insert(self, other: Printer) -> None:
        """Another printer's lines, here."""
        self.parts.append((self.margin, other))

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        """`header`, then an indented body; an empty body becomes `pass`."""
        self.line(header)
        before, count = self.margin, len(self.parts)
        self.margin += INDENT
        yield
        if all(isinstance(p, tuple) and not p[1].lines() for p in self.parts[count:]):
            self.line("pass")
        self.margin = before

    def imports(self, module: str, names: Sequence[str]) -> None:
        """The import of names from a module, if there are any, on as many lines as they fill."""
        text = f"from {module} import {', '.join(names)}"
        if names and len(text) <= WIDTH:
            self.line(text)
        elif names:
            self.line(f"from {module} import (")
            for line in wrap(f"{', '.join(names)},", WIDTH - len(INDENT)):
                self.line(f"{INDENT}{line}")
            self.line(")")

    def lines(self) -> list[str]:
        """Everything, in order."""
        out: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
            else:
                margin, inner = part
                out += [margin + text if text else "" for text in inner.lines()]
        return out

    def __str__(self) -> str:
        return "\n".join(self.lines()) + "\n"
