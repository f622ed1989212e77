"""What a call on a GPU refuses: each with its class, the line, the cause and the cure, before anything is launched."""

import linecache
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from standin_arrays import Interface, Producer
from standin_cupy import Machine, fake_cubin, install
from standin_machine import fresh

import attnc as at
from attnc import variants
from attnc.backends.block import Layout
from attnc.backends.cuda import device, launch
from attnc.backends.cuda.executable import Executable, Stage
from attnc.backends.cuda.load import load
from attnc.errors import DeviceError, DTypeError, GradientError, Location, OperandError, ShapeError, UnsupportedError
from attnc.schedule.cuda_target import named

LAYOUT = Layout({"q_p": 0}, (), (), (), (), 0, ())


def host(dtype=np.float16, D=16, L=9):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 2, L, D)).astype(dtype) for _ in range(3)]


def refused(kind, action, *words):
    """The error: of this class, at the caller's line, with these words in its three sentences."""
    with pytest.raises(kind) as caught:
        action()
    error = caught.value
    assert type(error) is kind and error.cause and error.cure
    assert isinstance(error.where, Location) and error.where.file == __file__
    assert "refused(" in linecache.getline(__file__, error.where.line) or "lambda" in error.where.excerpt()
    for word in words:
        assert word in str(error), str(error)


def test_without_cupy(site, monkeypatch):
    q, k, v = host()
    f = fresh(variants.causal)
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    refused(
        DeviceError,
        lambda: f(q, k, v, device="cuda"),
        "cannot be launched",
        "not installed",
        "pip install 'attnc[cuda]'",
    )
    q, k, v = (site.array(x, "torch") for x in (q, k, v))
    refused(DeviceError, lambda: f(q, k, v), "cannot be launched", "not installed", "pip install 'attnc[cuda]'")
    refused(DeviceError, lambda: f.verify(q, k, v), "not installed")
    assert "def kernel" in f.source(*host(), device="cuda")  # what needs no GPU works


def test_cupy_that_cannot_be_imported(site, monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('====\\nlibcudart.so.13: not found\\n====')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy")
    refused(
        DeviceError, lambda: fresh(variants.causal)(*host(), device="cuda"), "libcudart.so.13: not found", "pip install"
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"driver": 0}, ("no CUDA driver", "580")),
        ({"driver": 12090}, ("too old", "12.9", "13.0", "580")),
        ({"capabilities": []}, ("cudaErrorNoDevice", "nvidia-smi")),
        ({"hip": True}, ("ROCm", "pip install")),
    ],
    ids=lambda x: "",
)
def test_without_a_driver_or_a_device(site, monkeypatch, change, words):
    q, k, v = (site.array(x, "torch") for x in host())
    monkeypatch.setitem(sys.modules, "cupy", install(Machine(**change)))
    refused(DeviceError, lambda: fresh(variants.causal)(q, k, v), "cannot be launched", *words)
    refused(DeviceError, lambda: fresh(variants.causal)(*host(), device="cuda"), *words)


def test_a_newer_driver_is_fine(site):
    site.machine.driver = 14010
    assert device.gpu(0).capability == (8, 0)


def test_arrays_on_the_host_are_not_moved(site):
    f, (q, k, v) = fresh(variants.causal), host()
    refused(DeviceError, lambda: f(q, k, v, device="cuda"), "in the host's memory", "cupy.asarray(Q)", "Q.cuda()")
    refused(DeviceError, lambda: f.verify(q, k, v, device="cuda"), "in the host's memory")
    refused(UnsupportedError, lambda: f(q, k, v, device="tpu"), "'tpu'", '"cuda"')
    refused(
        DeviceError,
        lambda: f(*(site.array(x, "torch") for x in (q, k, v)), device="cpu"),
        "this kernel runs on the CPU",
    )
    assert not site.machine.launches


@pytest.mark.parametrize("kind, cure", [("cupy", "cupy.asarray(K)"), ("torch", "torch.as_tensor(K, device='cuda:0')")])
def test_arrays_of_both_memories(site, kind, cure):
    f, (q, k, v) = fresh(variants.causal), host()
    there = [site.array(x, kind) for x in (q, k, v)]
    refused(
        DeviceError,
        lambda: f(there[0], k, there[2]),
        "`K` is in the host's memory, `Q` on device 0",
        "numpy.ndarray",
        cure,
    )
    refused(DeviceError, lambda: f(q, k, there[2]), "`Q` is in the host's memory, `V` on device 0")
    refused(DeviceError, lambda: f(*there, out=np.empty_like(q)), "`out` is in the host's memory")
    alibi = fresh(variants.alibi)
    refused(
        DeviceError,
        lambda: alibi(*there, slopes=np.ones(2, np.float32)),
        "`slopes` is in the host's",
        "cupy.asarray(slopes)",
    )
    refused(DeviceError, lambda: f(*there[:2], site.torch.Tensor(v, None)), "`V` is in the host's memory")


def test_arrays_on_two_devices(site):
    site.machine.capabilities = [(8, 0), (8, 0)]
    f, (q, k, v) = fresh(variants.causal), host()
    for kind in ("cupy", "torch"):
        a, b, c = site.array(q, kind), site.array(k, kind, 1), site.array(v, kind)
        refused(DeviceError, lambda a=a, b=b, c=c: f(a, b, c), "different devices", "`K` on device 1", "to device 0")


def test_arrays_on_two_streams(site):
    f, (q, k, v) = fresh(variants.causal), host()
    site.torch.streams[0] = 0x77
    q, k, v = site.array(q, "torch"), site.array(k), site.array(v, "torch")
    refused(
        DeviceError,
        lambda: f(q, k, v),
        "another stream",
        "CuPy works on stream 0x0",
        "PyTorch",
        "0x77",
        "ExternalStream",
    )
    site.machine.streams[0] = 0x77
    f(q, k, v)
    q, k, v = (Interface(site.array(x), 0x99) for x in host())
    refused(DeviceError, lambda: f(q, k, v), "another stream", "0x99", "0x77")


def test_rows_that_no_kernel_reads(site):
    f, (q, k, v) = fresh(variants.causal), host()
    across = np.ascontiguousarray(k.swapaxes(2, 3)).swapaxes(2, 3)
    refused(
        OperandError, lambda: f(site.array(q), site.array(across), site.array(v)), "features of `K`", "contiguous()"
    )
    room = np.zeros(q.nbytes + 16, np.uint8)
    odd = room[1 : q.nbytes + 1].view(np.float16).reshape(q.shape)
    refused(OperandError, lambda: f(site.array(odd), site.array(k), site.array(v)), "`Q` is misaligned", "pass a copy")
    out = np.ascontiguousarray(q.swapaxes(2, 3)).swapaxes(2, 3)
    refused(OperandError, lambda: f(*(site.array(x) for x in (q, k, v)), out=site.array(out)), "features of `out`")


@at.attention
def typed(q, k, v, j, *, t: at.Tensor["j"], cap: float = 1.0):
    return at.softmax(at.dot(q, k) * cap + t[j]) @ v


def test_operands_that_would_be_copied_or_waited_for(site):
    q, k, v = (site.array(x) for x in host())
    f, t = fresh(typed), np.ones(9, np.float32)
    refused(DTypeError, lambda: f(q, k, v, t=site.array(t.astype(np.uint32))), "operand 't' is uint32", "int64")
    refused(
        OperandError,
        lambda: f(q, k, v, t=site.array(t), cap=site.array(np.float32([2])[0:1])),
        "'cap' is on the GPU",
        ".item()",
    )
    refused(OperandError, lambda: f(q, k, v, t=[1.0] * 9), "`t` is not an array")
    refused(OperandError, lambda: f(q, k, v, t=site.array(t), wrong=site.array(t)), "unexpected operand 'wrong'")
    refused(ShapeError, lambda: f(q, k, v, t=site.array(t[:5])), "5 entries along 'j'")


def test_gradients_are_refused_also_after_a_call_without(site):
    f, arrays = fresh(variants.causal), [site.array(x, "torch") for x in host()]
    f(*arrays)
    f(*arrays)
    arrays[1].requires_grad = True
    for _ in range(2):
        refused(GradientError, lambda: f(*arrays), "requires gradients", "no_grad")
    site.torch.is_grad_enabled = lambda: False
    f(*arrays)
    site.torch.is_grad_enabled = lambda: True
    refused(GradientError, lambda: f(*arrays), "requires gradients")


def test_outputs_that_cannot_be_written(site):
    f, (q, k, v) = fresh(variants.causal), (site.array(x) for x in host())
    out = np.zeros((1, 2, 9, 16), np.float16)
    refused(OperandError, lambda: f(q, k, v, out=site.jax.Array(site.array(out))), "out cannot be written")
    refused(ShapeError, lambda: f(q, k, v, out=site.array(out[:, :1])), "out has the shape")
    refused(DTypeError, lambda: f(q, k, v, out=site.array(out.astype(np.float32))), "out is float32")
    refused(OperandError, lambda: f(q, k, v, out=k), "out shares memory with an input")
    refused(OperandError, lambda: f(q, k, v, out=site.array(np.broadcast_to(out[:, :1], out.shape))), "with itself")


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_dtypes(site, dtype):
    kind = UnsupportedError if dtype is np.float64 else DTypeError
    q, k, v = (site.array(x) for x in host(dtype))
    with pytest.raises(kind, match=np.dtype(dtype).name):
        fresh(variants.causal)(q, k, v)


def test_head_dims_over_the_limit(site):
    q, k, v = (site.array(x) for x in host(D=264))
    with pytest.raises(UnsupportedError, match=r"(?s)head dim of 264.*256.*use the CPU"):
        fresh(variants.causal)(q, k, v)
    assert not site.machine.launches


def test_devices_that_attnc_has_no_kernels_for(site):
    site.machine.capabilities = [(7, 5)]
    q, k, v = (site.array(x) for x in host())
    with pytest.raises(UnsupportedError, match=r"(?s)capability 7\.5.*sm_80"):
        fresh(variants.causal)(q, k, v)


def executable(target="sm_80", shared=0, code=None, rows=64):
    stage = Stage("main", code or fake_cubin("def kernel(q_p):\n    pass\n"), "kernel", ("q_p",), 128, shared)
    return Executable(named(target), LAYOUT, (stage,), rows, True)


def test_loading_refuses_what_the_device_cannot_run(site):
    site.machine.capabilities = [(9, 0)]
    gpu = device.gpu(0)
    refused(
        DeviceError,
        lambda: load(executable("sm_80"), gpu),
        "sm_80 on device 0",
        "capability is 9.0",
        "compile for sm_90",
    )
    refused(
        DeviceError, lambda: load(executable("sm_90", 200_000), gpu), "out of shared memory", "200000", str(gpu.shared)
    )
    refused(
        DeviceError, lambda: load(executable("sm_90", code=b"\x7fELF"), gpu), "cannot load", "INVALID_IMAGE", "update"
    )
    assert load(executable("sm_90a"), gpu).functions
    site.machine.capabilities = [(8, 6)]
    assert load(executable("sm_80"), device.gpu(0)).functions  # of the same generation, and earlier


def test_more_blocks_than_a_launch_has(site):
    loaded = load(executable(rows=1), device.gpu(0))
    extents = {"batch": 2**16, "heads": 2**8, "q_len": 2**8}
    refused(ShapeError, lambda: launch.Call(loaded, bytes(8), extents, {}), "blocks", "split the call")
    site.machine.emulate = False
    launch.Call(loaded, bytes(8), {**extents, "q_len": 2**7 - 1}, {}).launch(0)
    assert site.machine.launches[-1].grid == 2**24 * 127


def test_what_is_described_cannot_be_read(site):
    """Not by accident: reports of errors show the variables of every function that they passed."""
    from attnc.backends.cuda.given import look

    given = look(variants.causal.signature, *(site.array(x) for x in host(ml_dtypes.bfloat16)), {})
    assert repr(given.q) == f"{given.q}" == str(given.q) == "<bfloat16 (1, 2, 9, 16) on a device>"
    assert "on a device" in repr(given.q.transpose(0, 2, 1, 3)) and "on a device" in repr(replace(given, out=None))
    for read in (lambda x: x[0], list, lambda x: x + x, np.exp, np.sum):
        with pytest.raises(TypeError):
            read(given.q)


def test_other_methods_say_that_the_array_is_not_on_the_host(site):
    q, k, v = (Producer(site.array(x)) for x in host())
    for method in (variants.causal.explain, variants.causal.source, variants.causal.blocks):
        refused(DeviceError, lambda method=method: method(q, k, v), "not in the host's memory", "copy it to the host")
