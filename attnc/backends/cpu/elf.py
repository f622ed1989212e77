"""Reads the names that an ELF object file leaves for the loader to find (System V ABI, chapter 4)."""

from __future__ import annotations

import struct


def undefined(code: bytes) -> list[str]:
    """The undefined symbols of a 64-bit little-endian ELF object, sorted. ValueError where `code` is something else."""
    if code[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF object")
    try:
        return _undefined(code)
    except (struct.error, IndexError) as error:
        raise ValueError("a truncated ELF object") from error


def _undefined(code: bytes) -> list[str]:
    (table,) = struct.unpack_from("<Q", code, 40)
    size, count = struct.unpack_from("<HH", code, 58)
    # Of each section header: its type, file offset, length, and link (the symbols' string table).
    sections = [struct.unpack_from("<4xI16xQQI", code, table + n * size) for n in range(count)]
    names = set()
    for kind, offset, length, link in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = sections[link][1]
        for place in range(offset + 24, offset + length, 24):  # the first symbol is void by definition
            name, section = struct.unpack_from("<IxxH", code, place)
            if section == 0 and name:  # SHN_UNDEF
                start = strings + name
                names.add(code[start : code.index(b"\0", start)].decode())
    return sorted(names)
