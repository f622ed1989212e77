"""Whole calls f(Q, K, V) with arrays on a stand-in GPU: what is emitted runs in the emulator, from argument block to output."""

import threading

import ml_dtypes
import numpy as np
import pytest
from standin_arrays import Interface, Producer
from standin_machine import fresh

import attnc as at
from attnc import variants

BF16 = ml_dtypes.bfloat16


def inputs(dtype=BF16, B=2, Hq=4, Hkv=2, Lq=21, Lk=37, D=16, Dv=32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((B, Hq, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, Dv))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def near(out, host, dtype=BF16):
    """Whether an output is the reference, as far as its dtype goes."""
    tolerance = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-5}[np.dtype(dtype).name]
    np.testing.assert_allclose(out.host.astype(np.float64), host, atol=tolerance)


@at.attention
def biased(
    q, k, v, h, i, j, *, slopes: at.Tensor["h"], doc: at.Tensor["b", "j", int], cap: float = 5.0, window: int = 30
):
    """Tables of numbers and of integers, a float and an int."""
    s = cap * at.tanh(at.dot(q, k) / cap) + slopes[h] * (i - j)
    return at.softmax(s, where=(doc[0, j] == 1) & (i - j < window)) @ v


@pytest.mark.parametrize("kind", ["cupy", "torch"])
@pytest.mark.parametrize("dtype", [BF16, np.float16, np.float32], ids=lambda x: np.dtype(x).name)
def test_numbers_and_kind(site, kind, dtype):
    f, host = fresh(variants.causal), inputs(dtype)
    q, k, v = (site.array(x, kind) for x in host)
    out = f(q, k, v)
    assert type(out) is type(q) and out.shape == (2, 4, 21, 32) and out.dtype == q.dtype
    near(out, f.reference(*host), dtype)
    assert f.verify(q, k, v).ok
    np.testing.assert_array_equal(f.reference(q, k, v), f.reference(*host))


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_operands_are_tables_on_the_device_and_numbers(site, kind):
    f, host = fresh(biased), inputs()
    rng = np.random.default_rng(1)
    slopes, doc = rng.standard_normal(4, np.float32), rng.integers(0, 2, (2, 37))
    tables = {"slopes": site.array(slopes, kind), "doc": site.array(doc, kind)}
    q, k, v = (site.array(x, kind) for x in host)
    for window in (30, 7):  # the second value is another call
        for cap in (5.0, 2):
            reference = f.reference(*host, slopes=slopes, doc=doc, cap=cap, window=window)
            near(f(q, k, v, **tables, cap=cap, window=window), reference)
    assert f.verify(q, k, v, **tables).ok


def test_operands_may_be_called_as_the_arguments_are_in_messages(site):
    @at.attention
    def shifted(q, k, v, h, j, *, Q: at.Tensor["h"], K: at.Tensor["j"]):
        return at.softmax(at.dot(q, k) + Q[h] * K[j]) @ v

    rng, host = np.random.default_rng(4), inputs()
    Q, K = rng.standard_normal(4, np.float32), rng.standard_normal(37, np.float32)
    arrays, tables = [site.array(x) for x in host], {"K": site.array(K), "Q": site.array(Q)}
    for _ in range(2):
        near(shifted(*arrays, **tables), shifted.reference(*host, Q=Q, K=K))


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_strides_layouts_and_ranks(site, kind):
    f, host = fresh(variants.sliding_window), inputs(Lq=20, Lk=20)
    expected = f.reference(*host, window=8)
    swapped = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in host]

    def call(arrays, **options):
        return f(*(site.array(x, kind) for x in arrays), window=8, **options)

    near(call([x.transpose(0, 2, 1, 3) for x in swapped]), expected)  # strided, no copy
    out = call(swapped, layout="blhd")
    assert out.shape == (2, 20, 4, 32)
    near(out, expected.transpose(0, 2, 1, 3))
    near(call([x[0] for x in host]), expected[0])
    near(call([x[0] for x in swapped], layout="blhd"), expected[0].transpose(1, 0, 2))
    near(call([x[1, 0] for x in host]), expected[1, 0])
    wide = [np.concatenate([x, x], -1) for x in host]
    near(call([x[..., : x.shape[-1] // 2] for x in wide]), expected)  # rows with gaps
    near(call([host[0][:, ::-1], host[1][:, ::-1], host[2][:, ::-1]]), expected[:, ::-1])
    shared = [host[0], *(np.broadcast_to(x[:1], x.shape) for x in host[1:])]
    near(call(shared), f.reference(*shared, window=8))
    near(call([host[0], host[1][:1], host[2][:1]]), f.reference(*shared, window=8))


def test_rows_that_are_not_aligned_have_a_kernel(site):
    f, host = fresh(variants.causal), inputs()
    wide = [np.concatenate([x, x], -1)[..., 1 : x.shape[-1] + 1] for x in host]
    near(f(*(site.array(x) for x in wide)), f.reference(*wide))
    assert "copy16" not in site.machine.launches[-1].source
    near(f(*(site.array(x) for x in host)), f.reference(*host))
    assert "copy16" in site.machine.launches[-1].source


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_lse_out_and_several_outputs(site, kind):
    f, host = fresh(variants.causal), inputs()
    q, k, v = (site.array(x, kind) for x in host)
    expected, lse = f.reference(*host, return_lse=True)
    for _ in range(2):
        found, found_lse = f(q, k, v, return_lse=True)
        near(found, expected)
        assert found_lse.dtype == (site.torch.float32 if kind == "torch" else np.float32)
        np.testing.assert_allclose(found_lse.host, lse, atol=1e-2)
    room = site.array(np.zeros((2, 4, 21, 64), BF16)[..., 5:37], kind)  # rows of an output that are not aligned either
    assert f(q, k, v, out=room) is room
    near(room, expected)

    @at.attention
    def two(q, k, v):
        w = at.softmax(at.dot(q, k))
        return w @ v, at.max(w, over="j")

    first, second = two(q, k, v)
    near(first, two.reference(*host)[0])
    assert second.shape == (2, 4, 21)


def test_no_keys(site):
    f, host = fresh(variants.full), inputs(Lk=0)
    for kind in ("cupy", "torch"):
        out, lse = f(*(site.array(x, kind) for x in host), return_lse=True)
        assert not out.host.astype(np.float32).any() and np.isneginf(lse.host).all()
    tables = {"slopes": site.array(np.ones(4, np.float32)), "doc": site.array(np.ones((2, 0), np.int64))}
    assert not fresh(biased)(*(site.array(x) for x in host), **tables).host.astype(np.float32).any()


def test_tables_that_are_searched_are_summarised_first(site):
    f, host = fresh(variants.document), inputs(Lq=70, Lk=70, B=1)
    doc = np.sort(np.random.default_rng(2).integers(0, 5, (1, 70)))
    for kind in ("cupy", "torch"):
        arrays, table = [site.array(x, kind) for x in host], site.array(doc, kind)
        for _ in range(2):
            near(f(*arrays, doc=table), f.reference(*host, doc=doc))
        first, second = site.machine.launches[-2:]
        assert "summarise" in first.source and first.words == second.words
    assert not [x for x in f._on_device._repeats.values() if x[0].captured]
    site.machine.capturing.add(77)  # in another thread, perhaps
    near(f(*(site.array(x) for x in host), doc=site.array(doc)), f.reference(*host, doc=doc))
    site.machine.streams[0] = 77
    near(f(*(site.array(x) for x in host), doc=site.array(doc)), f.reference(*host, doc=doc))
    (kept,) = [x[0].captured for x in f._on_device._repeats.values() if x[0].captured]
    assert [x.data.ptr for x in kept] == [site.machine.launches[-1].words["t_doc_sum1"]]


@pytest.mark.parametrize("kind", ["cupy", "torch"])
def test_few_queries_with_many_keys(site, kind):
    f, host = fresh(variants.causal), inputs(Lq=2, Lk=600)
    q, k, v = (site.array(x, kind) for x in host)
    for _ in range(2):
        out, lse = f(q, k, v, return_lse=True)
        near(out, f.reference(*host))
        np.testing.assert_allclose(lse.host, f.reference(*host, return_lse=True)[1], atol=1e-2)
    first, second = site.machine.launches[-2:]
    assert first.source != second.source and first.words["scratch"] == second.words["scratch"]
    near(f(q, k[:, :, :90], v[:, :, :90]), f.reference(host[0], host[1][:, :, :90], host[2][:, :, :90]))
    assert site.machine.launches[-1].source not in (first.source, second.source)


@pytest.mark.parametrize("versioned", [True, False])
def test_jax_and_dlpack(site, versioned):
    f, host = fresh(variants.causal), inputs()
    site.machine.streams[0] = 0x50
    for producer in (site.jax.Array, Producer):
        q, k, v = (producer(site.array(x), versioned) for x in host)
        out = f(q, k, v)
        assert [x.streams for x in (q, k, v)] == [[0x50]] * 3  # each was told which stream shall wait
        assert site.machine.launches[-1].stream == 0x50 and site.machine.synchronised[-1] == (0, 0x50)
        assert type(out) is (site.jax.Array if producer is site.jax.Array else site.cupy.ndarray)
        near(getattr(out, "array", out), f.reference(*host))
        assert f.verify(q, k, v).ok
    site.machine.streams[0] = 0
    f(*(q := [Producer(site.array(x)) for x in host]))
    assert q[0].streams == [1]  # the protocol's number of the default stream


def test_the_cuda_array_interface(site):
    f, host = fresh(variants.causal), inputs(np.float16)
    for stream in (None, 1):
        q, k, v = (Interface(site.array(x), stream) for x in host)
        near(f(q, k, v), f.reference(*host), np.float16)
    strided = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in host]
    near(f(*(Interface(site.array(x)) for x in strided)), f.reference(*host), np.float16)
    assert f.verify(q, k, v).ok


def test_libraries_may_be_mixed_on_one_stream(site):
    f, host = fresh(variants.causal), inputs()
    q, k, v = host
    out = f(site.array(q, "torch"), site.array(k, "cupy"), site.array(v, "torch"))
    assert isinstance(out, site.torch.Tensor) and not site.machine.synchronised
    near(out, f.reference(*host))
    site.machine.capabilities *= 2
    out = f(site.array(q, "torch", 1), site.array(k, "cupy", 1), Producer(site.array(v, device=1)))
    assert isinstance(out, site.torch.Tensor) and site.machine.synchronised == [
        (1, 0)
    ]  # the producer's memory is free again
    near(out, f.reference(*host))


def test_the_callers_stream_and_device(site):
    site.machine.capabilities = [(8, 0), (9, 0), (8, 6)]
    f, host = fresh(variants.causal), inputs()
    site.torch.streams.update({1: 0x111, 2: 0x222})
    site.machine.streams.update({2: 0x333})
    for kind, device, stream in (("torch", 1, 0x111), ("torch", 2, 0x222), ("cupy", 2, 0x333), ("cupy", 0, 0)):
        for _ in range(2):
            out = f(*(site.array(x, kind, device) for x in host))
            done = site.machine.launches[-1]
            assert (done.device, done.stream) == (device, stream) and site.machine.current == 0
            assert out.device.index == device if kind == "torch" else out.device.id == device
            near(out, f.reference(*host))
    assert not site.machine.synchronised
    site.torch.streams[1] = 0x112
    f(*(site.array(x, "torch", 1) for x in host))
    assert site.machine.launches[-1].stream == 0x112


def test_device_may_be_said(site):
    f, host = fresh(variants.causal), inputs()
    q, k, v = (site.array(x) for x in host)
    for _ in range(2):
        near(f(q, k, v, device="cuda"), f.reference(*host))
    assert f.verify(q, k, v, device="cuda").ok
    on_cpu = [x.astype(np.float32) for x in host]
    count = len(site.machine.launches)
    np.testing.assert_allclose(f(*on_cpu, device="cpu"), f.reference(*on_cpu), atol=1e-5)
    assert len(site.machine.launches) == count

    @at.attention
    def scaled(q, k, v, *, device: float):
        return at.softmax(at.dot(q, k) * device) @ v

    near(scaled(q, k, v, device=0.5), scaled.reference(*host, device=0.5))


def test_a_repeated_call_allocates_its_output_alone(site):
    f, host = fresh(variants.causal), inputs()
    q, k, v = (site.array(x, "torch") for x in host)
    f(q, k, v)
    count, allocated = len(site.machine.launches), len(site.machine.allocated)
    loaded = len(site.machine.functions)
    other = inputs(seed=3)
    site.torch.streams[0] = 0x99
    site.machine.capturing.add(0x99)  # a graph is being captured: to wait or to copy would be an error
    out = f(*(site.array(x, "torch") for x in other))
    near(out, f.reference(*other))
    assert len(site.machine.launches) == count + 1 and len(site.machine.functions) == loaded
    assert site.machine.allocated[allocated:] == [(0, out.host.nbytes)] and site.machine.launches[-1].stream == 0x99


def test_threads_share_a_prepared_call(site):
    f = fresh(variants.full)
    hosts = [inputs(seed=n, B=1, Hq=1, Hkv=1, Lq=8, Lk=8) for n in range(8)]
    f(*(site.array(x) for x in hosts[0]))
    found = [None] * len(hosts)

    def work(n):
        for _ in range(3):
            found[n] = f(*(site.array(x) for x in hosts[n]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(hosts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out, host in zip(found, hosts, strict=True):
        near(out, f.reference(*host))


def test_shared_memory_over_48_kib_is_asked_for(site):
    f, host = fresh(variants.full), inputs(B=1, Hq=1, Hkv=1, Lq=9, Lk=9, D=128, Dv=128)
    near(f(*(site.array(x) for x in host)), f.reference(*host))
    done = site.machine.launches[-1]
    assert done.shared > 48 * 1024
    assert next(iter(site.machine.functions.values())).dynamic_shared == done.shared
