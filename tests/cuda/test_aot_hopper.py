"""Directories of kernels for sm_90a: their maps, queue and flags are kept, and they are preferred where they serve a call."""

import numpy as np
import pretended
import pytest
from standin_machine import fresh

import attnc as at
import attnc.variants as library
from attnc.aot import build as module
from attnc.aot.build import Request, build
from attnc.aot.choose import kernels, specialised
from attnc.aot.files import described, executable, read_manifest
from attnc.backends.cuda.check import Rows
from attnc.errors import DeviceError, UnsupportedError
from attnc.runtime.binding import bind
from attnc.schedule.short import Form

ALL, ALIGNED, NONE = Rows(True, True), Rows(True, False), Rows(False, True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Nothing is compiled."""
    monkeypatch.setattr(module, "cuda_executable", pretended.hopper)
    return tmp_path


def built(folder, target, add=False, **options):
    return build(library.causal, Request(target, ("float16",), ((64, 128),), **options), folder, add=add)


def arrays():
    return [np.zeros((2, h, n, d), np.float16) for h, n, d in ((4, 200, 64), (2, 300, 64), (2, 300, 128))]


def chosen(file, rows, capability=(9, 0), form=None):
    manifest, call = read_manifest(file), bind(library.causal.signature, *arrays(), {})
    found = kernels(manifest, specialised(manifest, call, False), call, capability, rows, *[form] * (form is not None))
    return found.target, found.aligned, found.form.split


def test_the_executable_is_read_as_it_was_written(folder):
    file = built(folder, "sm_90a")
    (found,) = read_manifest(file).specialised
    aligned, rest = sorted(found.kernels, key=lambda x: not x.aligned)
    main, repair = aligned.stages
    assert main.file.startswith("causal-main-sm_90a-float16-d64-e128-") and repair.file.startswith(
        "causal-repair-sm_90a-"
    )
    assert {x.name for x in folder.iterdir()} == {file.name, main.file, repair.file, *(x.file for x in rest.stages)}
    made = executable(folder, aligned, found.layout())
    (graph, program), problem = _lowered(), module.Problem("float16", {"d": 64, "e": 128}, {}, small=True)
    live = pretended.hopper(graph, program, problem, "sm_90a", True)
    for x, y in zip(made.stages, live.stages, strict=True):
        assert (x.role, x.code, x.parameters, x.maps, x.persistent) == (
            y.role,
            y.code,
            y.parameters,
            y.maps,
            y.persistent,
        )
    assert made.flags == live.flags == 64 and made.features == live.features == {"d": 64, "e": 128}
    assert made.cleared({"batch": 2, "heads": 4, "q_len": 200}) == 16 + 4 * 2 * 4 * 4
    text = described(file)
    assert (
        "aligned rows: main 100 registers, 0 bytes of stack; repair 100 registers" in text and "any rows: main" in text
    )
    (plain,) = executable(folder, rest, found.layout()).stages
    assert (plain.maps, plain.persistent, rest.flags) == ((), 0, 0)


def _lowered():
    from attnc.compile import lower

    return library.causal.graph, lower(library.causal.graph)


def test_a_loaded_variant_launches_as_the_live_one(folder, site, monkeypatch):
    monkeypatch.setattr("attnc.compile.cuda_executable", pretended.hopper)
    site.machine.capabilities, site.machine.emulate = [(9, 0)], False
    built(folder, "sm_90a")
    given = [site.array(x) for x in arrays()]
    for f in (at.load(folder), fresh(library.causal)):
        f(*given)
    first, second = site.machine.launches[:2], site.machine.launches[2:]
    for x, y in zip(first, second, strict=True):
        assert (x.source, x.grid, x.threads, x.shared) == (y.source, y.grid, y.threads, y.shared)
        assert [m.extents for m in x.maps.values()] == [m.extents for m in y.maps.values()]
    assert [x.size for x in site.machine.memsets] == [16 + 4 * 2 * 4 * 4] * 2
    assert first[0].maps["v_map"].address == given[2].data.ptr


def test_features_of_one_architecture_are_preferred_where_they_serve(folder):
    built(folder, "sm_90a")
    file = built(folder, "sm_90", add=True, short=True)
    assert chosen(file, ALL) == ("sm_90a", True, False)
    assert chosen(file, ALIGNED) == ("sm_90", True, False)  # the other one would read number by number
    assert chosen(file, NONE) == ("sm_90a", False, False)
    assert chosen(file, ALL, form=Form(False, True, 1)) == ("sm_90", True, True)  # built with --short for sm_90 alone


@pytest.mark.parametrize("target", ["sm_90", "sm_90a"])
def test_either_serves_a_device_of_9_0(target, folder):
    file = built(folder, target)
    assert chosen(file, ALL) == (target, True, False)
    assert chosen(file, NONE) == (target, False, False)
    assert chosen(file, ALIGNED) == (target, target == "sm_90", False)


def test_what_was_not_built_names_the_target_of_the_device(folder):
    file = built(folder, "sm_80")
    with pytest.raises(DeviceError, match=r"(?s)capability 9.0.*--target sm_90a "):
        chosen(file, ALL)
    with pytest.raises(DeviceError, match=r"(?s)capability 12.1.*--target sm_121 "):
        chosen(file, ALL, (12, 1))
    with pytest.raises(UnsupportedError, match=r"no CUDA target for compute capability 7\.5"):
        chosen(file, ALL, (7, 5))


def test_rows_that_maps_do_not_describe_need_the_others(folder):
    file = built(folder, "sm_90a", rows=("aligned",))
    with pytest.raises(UnsupportedError, match=r"(?s)strides below 0.*built: sm_90a --aligned-only"):
        chosen(file, ALIGNED)
    with pytest.raises(UnsupportedError, match="rows that are not aligned"):
        chosen(file, NONE)
    assert chosen(built(folder, "sm_90", add=True, rows=("aligned",)), ALIGNED) == ("sm_90", True, False)
