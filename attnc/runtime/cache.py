"""The directory of compiled kernels: readable source, machine code, and a report, found by the hash of what made them.

An entry is three files, KEY.py, KEY.bin and KEY.json. The JSON names the checksum of the other two and is written last,
so that it commits the entry: whatever a crash, a full disk or a second process leaves behind is either a whole entry or
a miss. Writers never wait for each other; both write the same content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1  # of the entry; another number makes every older entry a miss
SUFFIXES = (".json", ".bin", ".py")  # in the order of removal: without its JSON an entry does not exist


@dataclass(frozen=True, slots=True)
class Entry:
    """One compiled kernel. `path` is the source file, or None where the directory could not be written."""

    key: str
    source: str
    code: bytes
    report: dict[str, Any]
    path: Path | None


def key(parts: Iterable[str | bytes]) -> str:
    """The sha256 of `parts`, in hex. Each part's length is hashed too, so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"b", len(data)))
        digest.update(data)
    return digest.hexdigest()


def default_path() -> Path:
    """ATTNC_CACHE_DIR, else attnc under XDG_CACHE_HOME, else ~/.cache/attnc."""
    if chosen := os.environ.get("ATTNC_CACHE_DIR"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says to ignore a relative path.
    return (Path(base) if base and os.path.isabs(base) else Path("~/.cache").expanduser()) / "attnc"


class Cache:
    """The cache in directory `path`, by default `default_path()`. Nothing is created before the first `put`."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        self._warned = False

    @staticmethod
    def key(parts: Iterable[str | bytes]) -> str:
        """The key of what is made from `parts`: `key(parts)` of this module."""
        return key(parts)

    def get(self, key: str) -> Entry | None:
        """The entry of `key`; None where there is none, or where it is damaged, truncated or of another format."""
        source_file, code_file, report_file = self._files(key)
        try:
            record = json.loads(report_file.read_bytes())
            source, code = source_file.read_bytes(), code_file.read_bytes()
            if record["format"] != FORMAT or record["key"] != key or not isinstance(record["report"], dict):
                return None
            if record["code_sha256"] != _sha256(code) or record["source_sha256"] != _sha256(source):
                return None
            return Entry(key, source.decode(), code, record["report"], source_file)
        except (OSError, ValueError, KeyError, TypeError):  # ValueError: not JSON, or not UTF-8
            return None

    def put(self, key: str, source: str, code: bytes, report: dict[str, Any]) -> Entry:
        """Stores an entry, over any other of this key. `report` is plain JSON data.

        Where the directory cannot be written, the entry is returned with no path, after one warning.
        """
        source_file, code_file, report_file = self._files(key)
        data = source.encode()
        record = {
            "format": FORMAT,
            "key": key,
            "code_sha256": _sha256(code),
            "source_sha256": _sha256(data),
            "report": report,
        }
        text = json.dumps(record, indent=1)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(source_file, data)
            _write(code_file, code)
            _write(report_file, text.encode())
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"attnc cannot store compiled kernels in {self.path} ({error}); each process will compile them "
                    "again. Set ATTNC_CACHE_DIR to a directory that can be written.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return Entry(key, source, code, report, None)
        return Entry(key, source, code, report, source_file)

    def entries(self) -> Iterator[Entry]:
        """All whole entries, in the order of their keys."""
        for found in self._keys():
            if (entry := self.get(found)) is not None:
                yield entry

    def clear(self) -> int:
        """Removes all entries, and what broken writers left; returns how many entries there were."""
        keys = self._keys()
        for found in keys:
            self._remove(found)
        with contextlib.suppress(OSError):
            for file in list(self.path.iterdir()):
                stem = file.name.removesuffix(".tmp").split(".")[0]
                if _is_key(stem) and file.suffix in (*SUFFIXES, ".tmp"):
                    file.unlink(missing_ok=True)
        return len(keys)

    @property
    def size(self) -> int:
        """Bytes of all entries' files."""
        return sum(_length(self.path / f"{found}{suffix}") for found in self._keys() for suffix in SUFFIXES)

    def _keys(self) -> list[str]:
        try:
            return sorted(file.stem for file in self.path.iterdir() if file.suffix == ".json" and _is_key(file.stem))
        except OSError:
            return []

    def _files(self, key: str) -> tuple[Path, Path, Path]:
        assert _is_key(key), f"not a cache key: {key!r}"
        return self.path / f"{key}.py", self.path / f"{key}.bin", self.path / f"{key}.json"

    def _remove(self, key: str) -> None:
        for suffix in SUFFIXES:
            with contextlib.suppress(OSError):
                (self.path / f"{key}{suffix}").unlink(missing_ok=True)


def _write(file: Path, data: bytes) -> None:
    """Replaces `file` at once: readers see the old bytes or the new ones, never a part."""
    handle, name = tempfile.mkstemp(prefix=f"{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_key(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
