"""The directory cache: whole entries or none, whatever happens to its files."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from attnc.runtime import cache
from attnc.runtime.cache import Cache, key

ROOT = Path(__file__).parents[2]
KEY = key(["kernel", b"options"])


def store(path: Path) -> Cache:
    made = Cache(path)
    made.put(KEY, "x = 'é'\n", b"\x00\x01code", {"flop": 12, "names": ["a"]})
    return made


def test_what_is_put_is_got(tmp_path: Path) -> None:
    entry = store(tmp_path / "deep" / "er").get(KEY)
    assert entry is not None and entry.path is not None
    assert (entry.source, entry.code, entry.report) == ("x = 'é'\n", b"\x00\x01code", {"flop": 12, "names": ["a"]})
    assert entry.path.read_bytes() == "x = 'é'\n".encode()
    assert sorted(f.suffix for f in entry.path.parent.iterdir()) == [".bin", ".json", ".py"]


def test_key_separates_its_parts() -> None:
    assert key(["ab", "c"]) != key(["a", "bc"]) != key(["a", b"bc"]) and key(["a", ""]) != key(["a"])
    assert Cache.key(iter(["ab", "c"])) == key(["ab", "c"]) and len(KEY) == 64


@pytest.mark.parametrize("suffix", cache.SUFFIXES)
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "directory", "empty"])
def test_a_damaged_entry_is_a_miss_and_is_rebuilt(tmp_path: Path, suffix: str, damage: str) -> None:
    made = store(tmp_path)
    file = tmp_path / f"{KEY}{suffix}"
    data = file.read_bytes()
    file.unlink()
    if damage == "directory":
        file.mkdir()
    elif damage != "remove":
        file.write_bytes({"truncate": data[:-3], "flip": b"\xff" + data[1:], "empty": b""}[damage])
    assert made.get(KEY) is None
    if damage != "directory":
        store(tmp_path)
        assert made.get(KEY) is not None


@pytest.mark.parametrize("record", ["[]", "null", '{"format": 1}', '"x"', "12"])
def test_foreign_json_is_a_miss(tmp_path: Path, record: str) -> None:
    made = store(tmp_path)
    (tmp_path / f"{KEY}.json").write_text(record)
    assert made.get(KEY) is None and list(made.entries()) == []


def test_another_format_or_key_is_a_miss(tmp_path: Path) -> None:
    made = store(tmp_path)
    file = tmp_path / f"{KEY}.json"
    record = json.loads(file.read_text())
    for changed in ({"format": cache.FORMAT + 1}, {"key": key(["other"])}):
        file.write_text(json.dumps(record | changed))
        assert made.get(KEY) is None


def test_entries_size_and_clear(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.put(key(["second"]), "y", b"z", {})
    (tmp_path / "README").write_text("not ours")
    (tmp_path / f"{KEY}.bin.abc.tmp").write_text("left by a crash")
    (tmp_path / f"{key(['third'])}.bin").write_text("never committed")
    assert {e.key for e in made.entries()} == {KEY, key(["second"])}
    files = [tmp_path / f"{k}{suffix}" for k in (KEY, key(["second"])) for suffix in cache.SUFFIXES]
    assert made.size == sum(file.stat().st_size for file in files)
    assert made.clear() == 2 and made.clear() == 0 and made.size == 0
    assert [f.name for f in tmp_path.iterdir()] == ["README"]


def test_a_directory_that_cannot_be_written_warns_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    made = Cache(tmp_path / "file" / "below")
    with pytest.warns(RuntimeWarning, match="ATTNC_CACHE_DIR"):
        entry = made.put(KEY, "s", b"c", {"r": 1})
    assert (entry.source, entry.code, entry.report, entry.path) == ("s", b"c", {"r": 1}, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.put(KEY, "s", b"c", {}).path is None
    assert made.get(KEY) is None and made.clear() == 0 and made.size == 0


def test_the_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ATTNC_CACHE_DIR", raising=False)
    assert Cache().path == tmp_path / "attnc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert Cache().path == Path("~/.cache/attnc").expanduser()
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "mine"))
    assert Cache().path == tmp_path / "mine"


WRITER = """
import sys
from attnc.runtime.cache import Cache, key
cache, bad = Cache(sys.argv[1]), 0
for n in range(150):
    k = key([str(n % 5)])
    cache.put(k, "source %d" % (n % 5), bytes([n % 5]) * 5000, {"n": n % 5})
    entry = cache.get(k)
    bad += entry is None or entry.code != bytes([n % 5]) * 5000
print(bad)
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    assert [p.communicate(timeout=60)[0].strip() for p in both] == ["0", "0"]
    assert len(list(Cache(tmp_path).entries())) == 5
    assert not list(tmp_path.glob("*.tmp"))
