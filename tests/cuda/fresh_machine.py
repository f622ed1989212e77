"""Run in a virtual environment with attnc, NumPy and the stand-in of CuPy: `python -I fresh_machine.py DIR` prints JSON of the launches."""

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace

import cupy
import numpy as np

import attnc

ABSENT = ("numba", "llvmlite", "networkx", "ml_dtypes", "typer", "rich", "numba_cuda", "torch")
TRACING = (
    "attnc.variant",
    "attnc.dsl.trace",
    "attnc.dsl.expr",
    "attnc.compile",
    "attnc.tile.lower",
    "attnc.backends.cuda.emit",
)
machine = cupy.machine
rng = np.random.default_rng(0)


def random(*shape):
    return rng.standard_normal(shape).astype(np.float16)


class Tensor:
    """torch.Tensor in bfloat16 on the GPU: its bits."""

    is_cuda, is_cpu, requires_grad, layout, dtype = True, False, False, "strided", "torch.bfloat16"

    def __init__(self, bits):
        self.bits, self.shape = bits, bits.shape

    is_neg = is_conj = lambda self: False
    get_device = lambda self: 0  # noqa: E731
    data_ptr = lambda self: machine.address(self.bits, 0)  # noqa: E731
    stride = lambda self: tuple(s // 2 for s in self.bits.strides)  # noqa: E731


def torch():
    """The parts of PyTorch that a call with tensors looks at."""
    module = ModuleType("torch")
    module.Tensor, module.strided, module.bfloat16 = Tensor, "strided", "torch.bfloat16"
    module.is_grad_enabled, module.device = lambda: False, lambda kind, number: (kind, number)
    module.empty = lambda shape, dtype, device: Tensor(np.full(shape, 0x7FFF, np.uint16))
    module.cuda = SimpleNamespace(current_stream=lambda device: SimpleNamespace(cuda_stream=77))
    return module


def launched(**arrays):
    """What was launched since the last time, and where the arrays are."""
    found = [
        {"grid": x.grid, "threads": x.threads, "shared": x.shared, "stream": x.stream, "words": x.words}
        for x in machine.launches
    ]
    machine.launches.clear()
    return {"launches": found, "places": {name: x.data.ptr for name, x in arrays.items()}}


def windowed(folder):
    """A window, with Q, K, V of layout (B, L, H, D), grouped heads."""
    q, k, v = (cupy.ndarray(random(2, n, h, 32), 0) for n, h in ((20, 4), (37, 2), (37, 2)))
    out = attnc.load(folder, "sliding_window")(q, k, v, window=5, layout="blhd")
    return launched(q=q, k=k, v=v, out0=out)


def documents(folder):
    """A table, which is summarised first."""
    q, k, v = (cupy.ndarray(random(3, 2, 70, 32), 0) for _ in range(3))
    doc = cupy.ndarray(np.zeros((3, 70), np.int64), 0)
    out = attnc.load(folder, "document")(q, k, v, doc=doc)
    return launched(q=q, k=k, v=v, t_doc=doc, out0=out)


def bits(x):
    """bfloat16, rounded towards zero, as its bits; and the numbers."""
    whole = np.asarray(x, np.float32).view(np.uint32) >> 16
    return whole.astype(np.uint16), (whole << 16).view(np.float32)


def brain_floats(folder):
    """The greatest error of a causal call in bfloat16 with torch tensors."""
    sys.modules["torch"] = torch()
    (q, x), (k, y), (v, z) = (bits(rng.standard_normal((1, 1, 20, 32))) for _ in range(3))
    out = attnc.load(folder, "causal")(Tensor(q), Tensor(k), Tensor(v))
    scores = np.where(np.tri(20, dtype=bool), x[0, 0] @ y[0, 0].T / 32**0.5, -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    found = (out.bits.astype(np.uint32) << 16).view(np.float32)[0, 0]
    error = float(np.abs(found - weights / weights.sum(1, keepdims=True) @ z[0, 0]).max())
    return {"error": error, "stream": machine.launches[-1].stream}


if __name__ == "__main__":
    present = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    assert not present, f"not a bare machine: {present}"
    machine.emulate = False
    result = {"window": windowed(sys.argv[1]), "documents": documents(sys.argv[1])}
    machine.emulate = True
    result["bfloat16"] = brain_floats(sys.argv[1])
    result["traced"] = [name for name in TRACING if name in sys.modules]
    result["attnc"] = attnc.__file__
    print(json.dumps(result))
