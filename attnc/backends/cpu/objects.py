"""Object files: several in one block of bytes, and the names in one (ELF; System V ABI, chapter 4)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAGIC = b"attnc objects 1\n"


def join(parts: Sequence[bytes]) -> bytes:
    """Object files as one block of bytes."""
    return MAGIC + struct.pack(f"<{1 + len(parts)}Q", len(parts), *map(len, parts)) + b"".join(parts)


def split(code: bytes) -> list[bytes]:
    """The object files of a block. ValueError where it is something else, or cut short."""
    if not code.startswith(MAGIC):
        raise ValueError("not a block of object files")
    try:
        (count,) = struct.unpack_from("<Q", code, len(MAGIC))
        lengths = struct.unpack_from(f"<{count}Q", code, len(MAGIC) + 8)
    except struct.error as error:
        raise ValueError("a truncated block of object files") from error
    parts, place = [], len(MAGIC) + 8 + 8 * count
    for length in lengths:
        parts.append(code[place : place + length])
        place += length
    if place != len(code):
        raise ValueError("a truncated block of object files")
    return parts


def symbols(code: bytes) -> tuple[set[str], set[str]]:
    """The symbols that a 64-bit little-endian ELF object defines, and those that it needs. ValueError for anything else."""
    if code[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF object")
    try:
        return _symbols(code)
    except (struct.error, IndexError) as error:
        raise ValueError("a truncated ELF object") from error


def _symbols(code: bytes) -> tuple[set[str], set[str]]:
    (table,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    # Of each section header: its type, file offset, length, and link (the symbols' string table).
    sections = [struct.unpack_from("<4xI16xQQI", code, table + n * size) for n in range(count)]
    found: tuple[set[str], set[str]] = set(), set()
    for kind, offset, length, link in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = sections[link][1]
        for place in range(offset + 24, offset + length, 24):  # the first symbol is void by definition
            name, section = struct.unpack_from("<IxxH", code, place)
            if name:
                start = strings + name
                undefined = section == 0  # SHN_UNDEF
                found[undefined].add(code[start : code.index(b"\0", start)].decode())
    return found
