"""A call from arrays to launches with real machine code: what the cubin's own description says of its parameters is what is launched."""

import struct

import numpy as np
import pytest
from standin_cupy import Module, fake_cubin
from standin_machine import fresh

from attnc import variants
from attnc.backends.cuda import compile as compiler
from attnc.backends.cuda.toolchain import versions

pytestmark = pytest.mark.skipif(
    not versions()["numba-cuda"], reason="numba-cuda is not installed: pip install 'attnc[cuda-build]'"
)
PARAM_SIZE = 0x19  # EIATTR_CBANK_PARAM_SIZE
SIZED = 4  # format of an attribute whose bytes follow it


def parameter_bytes(cubin: bytes) -> int:
    """Of the kernel `kernel`, from the section .nv.info of its ELF file."""
    (headers,), (count, names) = struct.unpack_from("<Q", cubin, 40), struct.unpack_from("<HH", cubin, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, headers + 64 * n) for n in range(count)]
    for name, _, _, _, start, size, *_ in sections:
        place = sections[names][4] + name
        if cubin[place : cubin.index(b"\0", place)] == b".nv.info.kernel":
            info = cubin[start : start + size]
            break
    at = 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        if attribute == PARAM_SIZE:
            return value
        at += 4 + (value if form == SIZED else 0)
    raise AssertionError("the cubin does not say how many bytes of parameters it takes")


def test_compiled_kernels_take_the_words_that_are_launched(site, monkeypatch):
    codes, q = [], np.zeros((1, 2, 40, 64), np.float16)

    def load(self: Module, cubin: bytes) -> None:
        codes.append(cubin)
        source = fake_cubin(f"def kernel({', '.join(f'p{n}' for n in range(parameter_bytes(cubin) // 8))}): pass")
        original(self, source)

    original = site.cupy.cuda.function.Module.load
    monkeypatch.setattr(site.cupy.cuda.function.Module, "load", load)
    monkeypatch.setattr("attnc.backends.cuda.kernel.compile_cubin", compiler.compile_cubin)
    site.machine.emulate = False
    doc = np.full((1, 40), 3)
    arrays = [site.array(x) for x in (q, q.copy(), q.copy())]
    fresh(variants.document)(*arrays, doc=site.array(doc))
    assert [x.grid for x in site.machine.launches] == [1, 2] and len(codes) == 2
    places = [x.data.ptr for x in arrays]
    for done in site.machine.launches:
        words = list(done.words.values())
        assert words[:5] == [1, 2, 40, 40, 1] and [words[n] for n in (5, 9, 13)] == places
