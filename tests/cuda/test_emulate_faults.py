"""What the emulator refuses, and what it does not."""

import numpy as np
import pytest
from snippets import run

from attnc.backends.cuda.emulate import Divergence, Fault, Misaligned, OutOfBounds, Race

REFUSED = {
    "branch": ("if t == 3:\n    pass", Divergence),
    "warps apart": ("if t < 32:\n    barrier()", Divergence),
    "while": ("j = t & 1\nwhile j > 0:\n    j = j - 1", Divergence),
    "loop bound": ("for i in range(t):\n    pass", Divergence),
    "choice": ("x = 1 if vote_any(t == 3) else 2", Divergence),
    "and": ("x = 0 < t < 5", Divergence),
    "register index": ('a = registers((64,), "f")\na[t] = 1.0', Divergence),
    "read of another warp's write": ("store_shared_r(s + t * 4, t)\nx = load_shared_r(s + (t ^ 32) * 4)", Race),
    "write over another warp's read": ("x = load_shared_r(s + (t ^ 32) * 4)\nstore_shared_r(s + t * 4, t)", Race),
    "write over another warp's write": ("store_shared_r(s + t * 4, t)\nstore_shared_r(s + (t ^ 32) * 4, t)", Race),
    "write over what two warps read": ("y = load_shared_r(s)\nstore_shared_r(s + where(t < 32, 64, 0), 1)", Race),
    "read of what two warps wrote": ("store_shared_r(s, 1)\ny = load_shared_r(s + where(t < 32, 64, 0))", Race),
    "one place, two values": ("store_shared_r(s + (t & 7) * 4, t)", Race),
    "one global place, two values": ("store_r_if(t < 2, x, t)", Race),
    "read of a copy under way": ("copy16(s + t * 16, x, 16)\ncopy_commit()\ny = load_shared_r(s + t * 16)", Race),
    "read of another's copy": (
        "copy16(s + t * 16, x, 16)\ncopy_commit()\ncopy_wait(0)\ny = load_shared_r(s + (t ^ 32) * 16)", Race),
    "barrier before the wait": (
        "copy16(s + t * 16, x, 16)\ncopy_commit()\nbarrier()\ncopy_wait(0)\ny = load_shared_r(s + (t ^ 32) * 16)", Race),
    "copy never committed": ("copy16(s + t * 16, x, 16)\ncopy_wait(0)\ny = load_shared_r(s + t * 16)", Race),
    "copy over another's read": ("y = load_shared_r(s + (t ^ 32) * 16)\ncopy16(s + t * 16, x, 16)", Race),
    "write to a copy under way": ("copy16(s + t * 16, x, 16)\nbarrier()\nstore_shared_r(s + t * 16, t)", Race),
    "two copies to one place": ("for i in range(2):\n    copy16(s + t * 16, x, 16)", Race),
    "copy of 8 bytes": ("copy16(s + t * 16, x, 8)", Fault),
    "uneven shared address": ("y = load_shared_4(s + t * 8)", Misaligned),
    "uneven half": ("store_shared_h(s + t, 0)", Misaligned),
    "uneven global address": ("y = load_f32(x + 2)", Misaligned),
    "uneven source": ("copy16(s + t * 16, x + 8, 16)", Misaligned),
    "behind the shared memory": ("y = load_shared_r(s + 4096 + t * 4)", OutOfBounds),
    "shared address without shared()": ("y = load_shared_r(t * 4)", OutOfBounds),
    "behind the array": ("y = load_f32(x + 1024)", OutOfBounds),
    "in no array": ("y = load_f32(0)", OutOfBounds),
    "register that is not there": ('a = registers((2, 3), "f")\na[1, 3] = 1.0', IndexError),
    "indices too few": ('a = registers((2, 3), "f")\na[1] = 1.0', IndexError),
    "a boolean for bits": ("y = shuffle_r(t > 1, 1)", TypeError),
    "a number for a boolean": ("y = vote_any(t)", TypeError),
    "a float for an integer register": ('a = registers((1,), "r")\na[0] = 1.5', TypeError),
    "groups that are no constant": ("copy_wait(t - t)", Fault),
    "a float for bits": ("y = shuffle_r(1.5, 1)", TypeError),
    "division by zero": ("y = 5 // t", ZeroDivisionError),
    "unknown name": ("from attnc.backends.cuda.intrinsics import wgmma", ImportError),
    "unknown module": ("from attnc.backends.cuda.nothing import wgmma", ImportError),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_faults(name: str) -> None:
    body, expected = REFUSED[name]
    x = np.zeros(256, np.int32)
    with pytest.raises(expected) as caught:
        run(f"s = shared()\n{body}", {"x": x})
    assert expected is Fault or type(caught.value) is expected or expected is ImportError


def test_the_message_names_the_array() -> None:
    for offset, text in ((1024, "byte 1024 of x, which has 1024"), (-4, "byte -4 of x, which has 1024")):
        with pytest.raises(OutOfBounds, match=text):
            run(f"y = load_f32(x + {offset})", {"x": np.zeros(256, np.int32), "y": np.zeros(8)})
    x = np.zeros(4, np.int32)
    x.flags.writeable = False
    with pytest.raises(OutOfBounds, match="of x, which has 16: the array is read-only"):
        run("store_r_if(t == 0, x, 1)", {"x": x})


def test_barriers_and_equal_values_are_no_race() -> None:
    run("""
        s = shared()
        store_shared_r(s, 5)
        x = load_shared_r(s + 64 + t * 4)
        barrier()
        y = load_shared_r(s) + load_shared_r(s + 4 * (t >> 5) + 64)
        barrier_or(True)
        store_shared_h(s + 2 * t, t)
        store_shared_h(s + 2 * t, load_shared_h(s + 2 * (t ^ 1)))
        warp_sync()
    """, {})  # fmt: skip
