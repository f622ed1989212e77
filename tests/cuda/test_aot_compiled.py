"""`attnc build` with the real compiler: machine code without spills, the same bytes from an empty cache, loaded as it was written."""

import importlib.util

import pytest

from attnc.aot.build import Request, build
from attnc.aot.files import described, executable, read_manifest
from attnc.backends.cuda.report import sections
from attnc.runtime.cache import Cache
from attnc.variants import document

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")


@pytest.mark.slow
def test_the_same_program_gives_the_same_directory(tmp_path):
    request = Request("sm_90", ("bf16",), ((64, 64),), rows=("aligned",))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        file = build(document, request, folder, cache=Cache(tmp_path / f"{folder.name} cache"))
    names = sorted(x.name for x in folders[0].iterdir())
    assert len(names) == 3 and names == sorted(x.name for x in folders[1].iterdir())
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name

    (found,) = read_manifest(file).specialised
    (kernels,) = found.kernels
    made = executable(file.parent, kernels, found.layout())
    assert [x.role for x in made.stages] == ["summary", "main"]
    for stage, record in zip(made.stages, kernels.stages, strict=True):
        assert ".text.kernel" in sections(stage.code) and stage.entry == "kernel"
        assert record.resources["registers"] > 16 and record.resources["spill_stores"] == 0
    assert "sm_90, bfloat16, d 64, e 64, aligned rows" in described(file)
