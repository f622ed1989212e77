"""`at.load`: variants from a directory of kernels, called with arrays of a stand-in GPU; the emulator runs what is launched."""

import sys

import ml_dtypes
import numpy as np
import pytest

import attnc as at
import attnc.variants as library
from attnc.aot.build import Request, build
from attnc.errors import (
    AttncError,
    DeviceError,
    IndexRangeError,
    KernelFileError,
    OperandError,
    ShapeError,
    UnsupportedError,
)
from attnc.runtime.binding import bind
from attnc.variants.samples import examples_of
from attnc.verification import report


def made(folder, name, dtype="float16", D=32, target="sm_80", **options):
    build(getattr(library, name), Request(target, (dtype,), ((D, D),), **options), folder / "kernels")
    return at.load(folder / "kernels", name)


def inputs(dtype=np.float16, B=1, Hq=2, Hkv=1, Lq=20, Lk=37, D=32):
    rng = np.random.default_rng(1)
    shapes = (B, Hq, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, D)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def check(site, f, variant, arrays, operands, kind="cupy", **options):
    """Call f on the stand-in's arrays; compare with the variant's reference."""
    there = {name: site.array(x, kind) if isinstance(x, np.ndarray) else x for name, x in operands.items()}
    out = f(*(site.array(x, kind) for x in arrays), **there, **options)
    bound = bind(variant.signature, *arrays, operands)
    found = report(variant._trace(bound), bound.inputs, [out.host], [out.host.dtype.name])
    assert found.ok, str(found)
    return out


@pytest.mark.parametrize("kind", ["cupy", "torch"])
@pytest.mark.parametrize("name", ["causal", "sliding_window", "document"])
def test_a_loaded_variant_is_right(name, kind, site, tmp_path):
    f = made(tmp_path, name)
    arrays = inputs()
    operands = examples_of(name, np.random.default_rng(0), 1, 2, 1, 20, 37, 32, 32, np.float16)
    for _ in range(2):  # the second call takes the short way
        check(site, f, getattr(library, name), arrays, operands, kind)
    assert len(site.machine.launches) == (4 if name == "document" else 2)


def test_bfloat16_and_rows_that_are_not_aligned(site, tmp_path):
    f = made(tmp_path, "causal", "bfloat16")
    q, k, v = inputs(ml_dtypes.bfloat16)
    check(site, f, library.causal, (q, k, v), {})
    wide = np.zeros((1, 2, 20, 35), ml_dtypes.bfloat16)
    wide[..., :32] = q
    check(site, f, library.causal, (wide[..., :32], k, v), {})
    first, second = (x.source for x in site.machine.launches)
    assert "copy16" in first and "copy16" not in second


def test_out_and_lse(site, tmp_path):
    f = made(tmp_path, "causal", lse=True)
    q, k, v = (site.array(x) for x in inputs())
    out, lse = f(q, k, v, return_lse=True)
    expected, sums = library.causal.reference(*inputs(), return_lse=True)
    np.testing.assert_allclose(out.host, expected, atol=4e-3)
    np.testing.assert_allclose(lse.host, sums, atol=1e-3)
    assert lse.host.dtype == np.float32
    room = site.array(np.zeros((1, 2, 20, 32), np.float16))
    plain = made(tmp_path / "plain", "causal")
    assert plain(q, k, v, out=room) is room
    np.testing.assert_array_equal(room.host, out.host)


def test_the_live_variant_and_the_loaded_one_launch_the_same(site, tmp_path):
    f, arrays = made(tmp_path, "sliding_window"), [site.array(x) for x in inputs()]
    live = at.attention(library.sliding_window.function)
    ours, theirs = f(*arrays, window=7), live(*arrays, window=7)
    np.testing.assert_array_equal(ours.host, theirs.host)
    one, two = site.machine.launches
    assert one.source == two.source and one.grid == two.grid and one.shared == two.shared
    assert {n: x for n, x in one.words.items() if n != "out0_p"} == {
        n: x for n, x in two.words.items() if n != "out0_p"
    }


def test_calls_with_few_queries_run_kernels_of_their_own_where_they_were_built(site, tmp_path):
    arrays = inputs(Hq=4, Hkv=2, Lq=3, Lk=300)
    plain, short = made(tmp_path / "plain", "causal"), made(tmp_path / "short", "causal", short=True)
    assert [len(x.manifest.specialised[0].kernels) for x in (plain, short)] == [2, 14]
    for f, launches in ((plain, 1), (short, 2), (at.attention(library.causal.function), 2)):
        before = len(site.machine.launches)
        out = check(site, f, library.causal, arrays, {})
        assert len(site.machine.launches) - before == launches
    first, second = (x.words for x in site.machine.launches[1::2])
    known = {n: x for n, x in first.items() if n not in ("out0_p", "scratch")}
    assert known == {n: second[n] for n in known}
    found = check(site, short, library.causal, arrays, {}).host
    np.testing.assert_array_equal(found, out.host)
    assert len({x.grid for x in site.machine.launches}) > 1


def refusals(site):
    q, k, v = (site.array(x) for x in inputs())
    q32, k32, v32 = (site.array(x) for x in inputs(np.float32))
    narrow = [site.array(x) for x in inputs(D=16)]
    host = inputs()
    return {
        "unexpected operand": (OperandError, "unexpected operand 'width'", lambda f: f(q, k, v, width=3)),
        "operand of another kind": (OperandError, "'window' is float", lambda f: f(q, k, v, window=1.5)),
        "shape": (ShapeError, "head dims of Q and K differ", lambda f: f(q, narrow[1], v)),
        "host arrays": (DeviceError, "in the host's memory", lambda f: f(*host)),
        "mixed": (DeviceError, "`K` is in the host's memory", lambda f: f(q, host[1], v)),
        "dtype": (UnsupportedError, "not built for float32", lambda f: f(q32, k32, v32)),
        "head dim": (UnsupportedError, "not built for d 16, e 16", lambda f: f(*narrow)),
        "lse": (UnsupportedError, "--lse", lambda f: f(q, k, v, return_lse=True)),
        "long": (UnsupportedError, "--long", lambda f: f(q, k, v, window=2**21)),
        "layout": (ShapeError, "unknown layout", lambda f: f(q, k, v, layout="bdhl")),
    }  # fmt: skip


@pytest.mark.parametrize(
    "case",
    ["unexpected operand", "operand of another kind", "shape", "host arrays", "mixed", "dtype", "head dim", "lse", "long", "layout"],
)  # fmt: skip
def test_bad_calls_are_refused_where_they_are(case, site, tmp_path):
    f = made(tmp_path, "sliding_window")
    error, words, call = refusals(site)[case]
    with pytest.raises(error, match=words) as caught:
        call(f)
    assert caught.value.cause and caught.value.cure
    assert __file__ in str(caught.value.where) and not site.machine.launches


def test_the_errors_are_those_of_the_live_variant(site, tmp_path):
    f, live = made(tmp_path, "document"), library.document
    q, k, v = (site.array(x) for x in inputs())
    calls = [{}, {"doc": site.array(np.zeros((1, 36), int))}, {"doc": np.zeros((1, 37), int)}, {"doc": None}]
    for operands in calls:
        texts = []
        for variant in (f, live):
            with pytest.raises(AttncError) as caught:
                variant(q, k, v, **operands)
            texts.append((type(caught.value), caught.value.message, caught.value.cause, caught.value.cure))
        assert texts[0] == texts[1]


def test_an_index_that_is_out_of_range_is_refused_as_by_the_live_variant(site, tmp_path):
    f = made(tmp_path, "t5")
    q, k, v = (site.array(x) for x in inputs())
    table = site.array(np.zeros((2, 3), np.float16))
    with pytest.raises(IndexRangeError, match="'table' is out of range"):
        f(q, k, v, table=table)


def test_another_device(site, tmp_path):
    f = made(tmp_path, "causal", target="sm_90")
    with pytest.raises(DeviceError, match=r"compute capability 8.0(.|\n)*--target sm_80"):
        f(*(site.array(x) for x in inputs()))


def test_a_damaged_cubin_is_found_before_the_launch(site, tmp_path):
    f = made(tmp_path, "causal")
    for file in (tmp_path / "kernels").glob("*.cubin"):
        file.write_bytes(file.read_bytes() + b"#")
    with pytest.raises(KernelFileError, match="checksum"):
        f(*(site.array(x) for x in inputs()))
    assert not site.machine.launches


def test_no_cupy(site, tmp_path, monkeypatch):
    f = made(tmp_path, "causal")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="attnc launches CUDA kernels with it"):
        f(*(site.array(x, "torch") for x in inputs()))


def test_which_variant(site, tmp_path):
    f = made(tmp_path, "causal")
    assert at.load(tmp_path / "kernels").signature == library.causal.signature == f.signature
    assert f.__name__ == "causal" and "p = i + Lk" in f.__doc__ and "causal(q, k, v, i, j)" in repr(f)
    made(tmp_path, "full")
    with pytest.raises(KernelFileError, match="causal, full"):
        at.load(tmp_path / "kernels")
    with pytest.raises(KernelFileError, match="does not hold 'alibi'"):
        at.load(tmp_path / "kernels", "alibi")
