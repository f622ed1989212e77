"""Runs emitted kernels without a GPU: their exact source, all threads of a block in lockstep, on NumPy vectors.

What a kernel may get away with on some day on some device is an error here: divergent control flow, shared memory that
warps use without a barrier, copies that are not waited for, addresses that are uneven or outside.
"""

from attnc.backends.cuda.emulate.faults import Deadlock, Divergence, Fault, Misaligned, OutOfBounds, Race
from attnc.backends.cuda.emulate.launch import launch, names
from attnc.backends.cuda.emulate.memory import Memory

__all__ = ["Deadlock", "Divergence", "Fault", "Memory", "Misaligned", "OutOfBounds", "Race", "launch", "names"]
