"""Launches with tensor maps on a stand-in of the driver: what it is told of arrays, what a repeated call tells it anew, and the
queue and flags of persistent kernels."""

import ctypes
import linecache
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from pretended import hopper
from standin_cupy import fake_cubin
from standin_machine import fresh

from attnc import variants
from attnc.backends.block import Layout
from attnc.backends.cuda import encode
from attnc.backends.cuda.device import gpu
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.launch import Call
from attnc.backends.cuda.load import load
from attnc.backends.cuda.tensor_map import Geometry
from attnc.errors import DeviceError, ShapeError
from attnc.schedule.cuda_target import named

LEAST = 16  # a stride that means nothing


@pytest.fixture
def h100(site, monkeypatch):
    """A machine whose kernels are pretended ones."""
    monkeypatch.setattr("attnc.compile.cuda_executable", hopper)
    site.machine.capabilities, site.machine.emulate = [(9, 0)], False
    return site


def arrays(B=2, Hq=4, Hkv=2, Lq=200, Lk=300, D=64, Dv=128, dtype=np.float16):
    shapes = ((B, Hq, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, Dv))
    return [np.zeros(shape, dtype) for shape in shapes]


def launched(h100, *host, kind="cupy", **options):
    """The maps of a call's main kernel, and its arrays."""
    given = [h100.array(x, kind) for x in host]
    out = fresh(variants.causal)(*given, **options)
    main, _ = h100.machine.launches[-2:]
    places = [h100.machine.address(x.host, 0) for x in (*given, out)]
    assert [x.address for x in main.maps.values()] == places
    return [(x.extents, x.strides) for x in main.maps.values()]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=lambda x: np.dtype(x).name)
def test_what_the_driver_is_told_of_contiguous_arrays(h100, dtype):
    q, k, v, out = launched(h100, *arrays(dtype=dtype))
    assert q == ((64, 200, 4, 2), (128, 200 * 128, 4 * 200 * 128))
    assert k == ((64, 300, 2, 2), (128, 300 * 128, 2 * 300 * 128))
    assert v == ((128, 300, 2, 2), (256, 300 * 256, 2 * 300 * 256))
    assert out == ((128, 200, 4, 2), (256, 200 * 256, 4 * 200 * 256))
    assert len(h100.driver.encoded) == 4
    for x in h100.driver.encoded:
        assert (x.box, x.steps, x.kind) == ((32, 64, 1, 1), (1, 1, 1, 1), 1)
        assert (x.interleave, x.swizzle, x.promotion, x.fill) == (0, 2, 2, 0)


@pytest.mark.parametrize("columns, swizzle", [(16, 1), (32, 2), (64, 3)])
def test_rows_of_a_box_are_swizzled_by_their_width(site, columns, swizzle):
    room = ctypes.create_string_buffer(192)
    place = -(-ctypes.addressof(room) // 64) * 64
    x = Geometry(1 << 40, (64, 5, 1, 1), (128, 16, 16), 80, columns)
    assert encode.encode(place, x) == 0
    assert (site.driver.encoded[0].swizzle, site.driver.encoded[0].box) == (swizzle, (columns, 80, 1, 1))


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_layouts_and_strides(h100, kind):
    q, k, v = arrays()
    swapped = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v)]
    expected = [
        ((64, 200, 4, 2), (4 * 128, 128, 200 * 4 * 128)),
        ((64, 300, 2, 2), (2 * 128, 128, 300 * 2 * 128)),
        ((128, 300, 2, 2), (2 * 256, 256, 300 * 2 * 256)),
    ]
    found = launched(h100, *swapped, kind=kind, layout="blhd")
    assert found == [*expected, ((128, 200, 4, 2), (4 * 256, 256, 200 * 4 * 256))]
    found = launched(h100, *(x.swapaxes(1, 2) for x in swapped), kind=kind)
    assert found == [*expected, ((128, 200, 4, 2), (256, 200 * 256, 4 * 200 * 256))]
    wide = np.zeros((2, 4, 400, 80), np.float16)[:, :, ::2, 8:72]  # every second row, features with a gap before
    assert launched(h100, wide, k, v, kind=kind)[0] == ((64, 200, 4, 2), (320, 400 * 160, 4 * 400 * 160))


def test_heads_and_batches_that_are_one_for_all(h100):
    q, k, v = arrays()
    one, row = (64, 300, 1, 1), (128, LEAST, LEAST)
    assert launched(h100, q, k[:, :1], v[:, :1])[1] == ((64, 300, 1, 2), (128, LEAST, 2 * 300 * 128))  # one head of K
    assert launched(h100, q, k[:1], v[:1])[1] == ((64, 300, 2, 1), (128, 300 * 128, LEAST))  # one K for the batch
    assert launched(h100, q, k[:1, :1], v[:1, :1])[1] == (one, row)
    same = [np.broadcast_to(x[:1, :1], x.shape) for x in (k, v)]
    assert launched(h100, q, *same)[1] == (one, row)
    assert launched(h100, np.broadcast_to(q[:, :1], q.shape), k, v)[0] == ((64, 200, 1, 2), (128, LEAST, 4 * 200 * 128))
    every = arrays(Hkv=4, Lk=200)
    assert launched(h100, q[:, :, :1], *every[1:])[0] == ((64, 1, 4, 2), (LEAST, 200 * 128, 4 * 200 * 128))
    assert launched(h100, q[0, 0], k[0, 0], v[0, 0])[0] == ((64, 200, 1, 1), row)


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_no_keys(h100, kind):
    q, k, v = arrays()
    odd = np.zeros((2, 2, 9, 67), np.float16)[:, :, 3:3, 1:65]  # of rows that no map describes, were there any
    f = fresh(variants.full)
    for empty in (k[:, :, :0], odd):
        count = len(h100.driver.encoded)
        for moved in (np.zeros_like(q), np.zeros_like(q)):
            f(h100.array(moved, kind), h100.array(empty, kind), h100.array(v[:, :, :0], kind))
            maps = h100.machine.launches[-2].maps
            assert (maps["k_map"].address, maps["k_map"].extents) == (LEAST, (64, 1, 1, 1))
            assert maps["q_map"].address == h100.machine.address(moved, 0)
        assert len(h100.driver.encoded) == count + 4


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_a_repeated_call_describes_anew_what_lies_elsewhere(h100, kind):
    f, (q, k, v) = fresh(variants.causal), (h100.array(x, kind) for x in arrays())
    f(q, k, v)
    first = h100.machine.launches[-2].maps
    moved = h100.array(arrays()[1], kind)
    made = f(q, moved, v)
    last = h100.machine.launches[-2].maps
    places = [h100.machine.address(x.host, 0) for x in (q, moved, v, made)]
    assert [x.address for x in last.values()] == places
    assert h100.driver.replaced == [(first[x].address, last[x].address) for x in ("k_map", "out0_map")]
    assert len(h100.driver.encoded) == 4
    call = next(iter(f._on_device._repeats.values()))[0].call
    call.launch(0)  # nothing changed
    call.launch(0, [(call.loaded.executable.layout.words["v_p"], places[0])])
    assert h100.driver.replaced[2:] == [(places[2], places[0])]
    assert h100.machine.launches[-2].maps["v_map"].address == places[0]
    for x, y in zip(first.values(), last.values(), strict=True):
        assert (x.extents, x.strides, x.box) == (y.extents, y.strides, y.box)


def test_what_the_driver_refuses(h100):
    f, (q, k, v) = fresh(variants.causal), (h100.array(x) for x in arrays())
    for error, name in ((1, "CUDA_ERROR_INVALID_VALUE"), (12345, "error 12345")):
        h100.driver.refuse = error
        with pytest.raises(
            DeviceError, match=rf"(?s)`Q` cannot.*EncodeTiled answers {name} for .*200.*contiguous"
        ) as caught:
            f(q, k, v)
        assert "f(q, k, v)" in linecache.getline(__file__, caught.value.where.line)
    assert not h100.machine.launches and not h100.machine.memsets
    h100.driver.refuse = 0
    f(q, k, v)
    h100.driver.refuse = 1
    with pytest.raises(
        DeviceError, match=r"(?s)`K` cannot be described.*ReplaceAddress answers CUDA_ERROR_INVALID_VALUE"
    ):
        f(q, h100.array(arrays()[1]), v)
    h100.driver.refuse = 0
    f(q, k, v)
    assert h100.machine.launches[-2].maps["k_map"].address == k.data.ptr


def test_without_libcuda(monkeypatch):
    monkeypatch.setattr(encode, "LIBRARY", "libnowhere.so.1")
    with pytest.raises(DeviceError, match=r"(?s)libnowhere.so.1 cannot be loaded.*driver 580"):
        encode.driver.__wrapped__()


def test_the_queue_and_the_flags_are_cleared_before_each_launch(h100):
    f, given = fresh(variants.causal), [h100.array(x, "torch") for x in arrays(Lq=200)]
    h100.torch.streams[0] = 0x77
    h100.machine.capturing.add(0x77)
    for n in range(2):
        f(*given)
        (memset,), launches = h100.machine.memsets[n:], h100.machine.launches[2 * n :]
        size = 16 + 4 * 2 * 4 * 4  # 4 units of each of 2 x 4 heads
        assert (memset.value, memset.size, memset.stream, memset.launches) == (0, size, 0x77, 2 * n)
        assert [x.words["scratch"] for x in launches] == [memset.address] * 2 and memset.address % 16 == 0
        assert (0, -(-size // 16) * 16) in h100.machine.allocated
        assert [(x.grid, x.threads, x.stream) for x in launches] == [(8, 384, 0x77), (2 * 4 * 4, 128, 0x77)]
        assert not h100.machine.memory.read(np.arange(memset.address, memset.address + size), "uint8").any()


@pytest.mark.parametrize("multiprocessors, grid", [(1, 2), (7, 14), (8, 16), (132, 16)])
def test_a_persistent_kernel_fills_the_device_once(h100, multiprocessors, grid):
    h100.machine.multiprocessors = multiprocessors
    fresh(variants.causal)(*(h100.array(x) for x in arrays(Lq=200)))
    assert [x.grid for x in h100.machine.launches] == [grid, 32]  # 2 x 4 heads of 2 tiles


def test_without_flags_there_is_the_queue_alone(h100, monkeypatch):
    monkeypatch.setattr("attnc.compile.cuda_executable", partial(hopper, flags=0))
    fresh(variants.causal)(*(h100.array(x) for x in arrays()))
    (memset,) = h100.machine.memsets
    assert memset.size == 16 and [x.grid for x in h100.machine.launches] == [8]


def test_the_number_of_the_queue_does_not_overflow(h100):
    extents = {"batch": 1, "heads": 1, "q_len": 2**31 - 8}
    for persistent, fits in ((0, True), (1, True), (2, False)):  # blocks on each of 4 multiprocessors
        stage = Stage(
            "main",
            fake_cubin("def kernel(scratch):\n    pass\n"),
            "kernel",
            ("scratch",),
            128,
            0,
            persistent=persistent,
        )
        loaded = load(
            Executable(named("sm_90a"), Layout({"scratch": 0}, (), (), (), (), 0, ()), (stage,), 1, True), gpu(0)
        )
        if fits:
            Call(loaded, bytes(8), extents, {})
        else:
            with pytest.raises(ShapeError, match=r"launch of 2147483640 blocks"):
                Call(loaded, bytes(8), extents, {})
